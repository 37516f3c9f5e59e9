"""The list of prompts that were removed for good: their ids and those of their pairs, which are hashes, and no text.

Whatever reads prompts refuses those on it, and whatever is committed leaves out rows and calls of theirs: a run may
have begun before. Removing one is the business of `forget`.
"""

import contextlib
from collections.abc import Iterable
from typing import Any

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
    with _writing(home):
        new = sorted(set(pair_ids) - forgotten_ids(home))
        if new or prompt_id not in forgotten_prompts(home):
            _append(home, " ".join([prompt_id, *new]))


def _shared_database(home: Home) -> str | None:
    """Where hosts that share anything keep the list."""
    return home.shared_catalog or home.shared_ledger


def _writing(home: Home) -> contextlib.AbstractContextManager[Any]:
    database = _shared_database(home)
    if database is None:
        return FileLock(f"{home.forgotten}.lock")
    from cai_dagster.lake.postgresql import FORGOTTEN_LIST, advisory_lock

    return advisory_lock(database, FORGOTTEN_LIST)


def _append(home: Home, line: str) -> None:
    database = _shared_database(home)
    if database is None:
        with home.forgotten.open("a", encoding="ascii") as file:
            file.write(f"{line}\n")
        return
    from cai_dagster.lake.postgresql import connections

    with connections(database).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS forgotten_prompts (ids TEXT NOT NULL)")
        connection.exec_driver_sql("INSERT INTO forgotten_prompts VALUES (%s)", (line,))


def _lines(home: Home) -> list[list[str]]:
    database = _shared_database(home)
    lines = _lines_of_file(home) if database is None else _lines_of(database)
    return [ids for line in lines if (ids := line.split())]


def _lines_of(database: str) -> list[str]:
    from cai_dagster.lake.postgresql import rows

    (exists,) = rows(database, "SELECT to_regclass('forgotten_prompts') IS NOT NULL")[0]
    return [ids for (ids,) in rows(database, "SELECT ids FROM forgotten_prompts")] if exists else []


def _lines_of_file(home: Home) -> list[str]:
    if not home.forgotten.exists():
        return []
    try:
        return home.forgotten.read_text(encoding="ascii").splitlines()
    except UnicodeDecodeError as error:
        raise ForgottenListError(
            f"{home.forgotten} is damaged ({error}): it lists the prompts that must not come back. Put a copy of it "
            "back, or remove it and `cai forget` them again."
        ) from error
