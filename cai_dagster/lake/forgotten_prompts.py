"""The list of prompts that were removed for good: their ids and those of their pairs, which are hashes, and no text.

Whatever reads prompts refuses those on it, and whatever is committed leaves out rows and calls of theirs: a run may
have begun before. Removing one is the business of `forget`.
"""

from collections.abc import Iterable

from filelock import FileLock

from cai_dagster.errors import MendableError
from cai_dagster.home import Home

FORGOTTEN = "forgotten"  # the code of rows whose prompt was removed for good; their text is not kept


class ForgottenListError(MendableError):
    """The list cannot be read; the message says what to do."""


def forgotten_prompts(home: Home) -> frozenset[str]:
    """The ids of the prompts on the list."""
    return frozenset(ids[0] for ids in _lines(home))


def forgotten_ids(home: Home) -> frozenset[str]:
    """The ids of the prompts on the list, and of the pairs that they had."""
    return frozenset(one for ids in _lines(home) for one in ids)


def add_forgotten_prompt(home: Home, prompt_id: str, pair_ids: Iterable[str]) -> None:
    """Put a prompt and its pairs on the list: a line of ids, the prompt's first."""
    with FileLock(f"{home.forgotten}.lock"):
        new = sorted(set(pair_ids) - forgotten_ids(home))
        if new or prompt_id not in forgotten_prompts(home):
            with home.forgotten.open("a", encoding="ascii") as file:
                file.write(f"{' '.join([prompt_id, *new])}\n")


def _lines(home: Home) -> list[list[str]]:
    if not home.forgotten.exists():
        return []
    try:
        lines = home.forgotten.read_text(encoding="ascii").splitlines()
    except UnicodeDecodeError as error:
        raise ForgottenListError(
            f"{home.forgotten} is damaged ({error}): it lists the prompts that must not come back. Put a copy of it "
            "back, or remove it and `cai forget` them again."
        ) from error
    return [ids for line in lines if (ids := line.split())]
