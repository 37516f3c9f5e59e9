"""Failures that a person can mend, as plain text that Dagster shows and keeps."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from cai_dagster.text import printable

LONGEST_DESCRIPTION = 4_000  # characters


def failure_of(error: Exception, metadata: Mapping[str, Any] | None = None) -> dg.Failure:
    """The failure that says what the error says; a retry would not help.

    The message may quote a file's text, so control characters are escapes in it. Raise it `from None`: Dagster writes
    down every chained exception, and the one that was caught has the raw text.
    """
    return dg.Failure(printable(str(error), LONGEST_DESCRIPTION), metadata=metadata, allow_retries=False)
