"""Failed runs: a line each in CAI_HOME/failures.jsonl, and a command of the user that gets the line.

CAI_ON_FAILURE names the command: it is started without a shell, gets the line on its standard input and ten seconds to
end. It knows no Dagster; who finds out that a run failed is `assets.automation`.
"""

import json
import os
import shlex
import subprocess
from dataclasses import asdict, dataclass

from cai_dagster.home import Home
from cai_dagster.text import printable

COMMAND_SECONDS = 10  # Dagster gives a sensor a minute for all that failed, and asks again for what it did not get to
LONGEST_ERROR = 2_000  # characters


@dataclass(frozen=True)
class FailedRun:
    """One run that failed: what it was to make, where it stopped and why."""

    run_id: str
    failed_at: str
    constitution_version: str | None
    assets: list[str]
    failed_steps: list[str]
    error: str


def record_failure(home: Home, failed: FailedRun) -> str | None:
    """Append the line and run the command, if one is named; what went wrong with the command, if anything did.

    Each run is recorded once, however often Dagster asks.
    """
    if _is_recorded(home, failed.run_id):
        return None
    line = json.dumps({**asdict(failed), "error": printable(failed.error, LONGEST_ERROR)}) + "\n"
    home.root.mkdir(parents=True, exist_ok=True)
    with home.failures.open("a", encoding="utf-8") as file:
        file.write(line)
    command = shlex.split(os.environ.get("CAI_ON_FAILURE", ""))
    if not command:
        return None
    try:
        subprocess.run(command, input=line, text=True, timeout=COMMAND_SECONDS, check=True)  # noqa: S603 # the user's own
    except (OSError, subprocess.SubprocessError) as error:
        return f"CAI_ON_FAILURE: {error}"
    return None


def _is_recorded(home: Home, run_id: str) -> bool:
    if not home.failures.exists():
        return False
    with home.failures.open(encoding="utf-8") as file:
        return any(json.loads(line)["run_id"] == run_id for line in file)
