"""Errors that a person can mend: their message says what was wrong, where, and what to do. No traceback adds to it."""


class MendableError(Exception):
    """The command line prints its message and exits with status 1."""


HOW_TO_GO_ON = (
    "Interrupted. Every completion received so far is in the ledger; "
    "run the same command again and it goes on from there."
)
