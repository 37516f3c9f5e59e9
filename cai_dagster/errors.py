"""The two kinds of errors that are shown without a traceback: those that a person can mend, and those of one row.

A message says what was wrong, where, and what to do; no traceback adds to it.
"""


class MendableError(Exception):
    """The command line prints its message and exits with status 1."""


class RowError(Exception):
    """A failure of one row: it is set aside with this reason and the others go on.

    The message is the reason; `code` is its first word, for counting.
    """

    code = "row_error"

    def __init__(self, reason: str) -> None:
        super().__init__(f"{self.code}: {reason}")
        self.reason = reason

    def __reduce__(self) -> tuple[type["RowError"], tuple[str]]:
        """Pickled by its reason: an engine in another process raises it too."""
        return type(self), (self.reason,)


HOW_TO_GO_ON = (
    "Interrupted. Every completion received so far is in the ledger; "
    "run the same command again and it goes on from there."
)
