"""How commands print: JSON for scripts, a console for people."""

import json
import sys
from typing import Any

from rich.console import Console


def print_json(document: Any) -> None:
    """Print one document on standard output."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def console() -> Console:
    """The console of a command; 110 columns where the output is no terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 110)
