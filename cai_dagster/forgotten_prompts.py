"""The list of prompts that were removed for good: their ids, which are hashes, and no text.

Whatever reads prompts refuses those on it. Removing one is the business of `forget`.
"""

from filelock import FileLock

from cai_dagster.home import Home


def forgotten_prompts(home: Home) -> frozenset[str]:
    """The ids on the list."""
    if not home.forgotten.exists():
        return frozenset()
    return frozenset(home.forgotten.read_text(encoding="ascii").split())


def add_forgotten_prompt(home: Home, prompt_id: str) -> None:
    """Put an id on the list."""
    with FileLock(f"{home.forgotten}.lock"):
        if prompt_id not in forgotten_prompts(home):
            with home.forgotten.open("a", encoding="ascii") as file:
                file.write(f"{prompt_id}\n")
