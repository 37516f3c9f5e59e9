"""Alerts: what a person who is not looking should know, as a command's input and as a message to a web address.

`CAI_ON_ALERT` names a command: it is started without a shell, gets the alert as one line of JSON on its standard input
and ten seconds to end. `CAI_WEBHOOK` names an address: it gets the text as `{"text": …}`, as Slack's incoming webhooks
take it. It knows no Dagster; who finds out that there is something to say is `assets.automation`.
"""

import json
import os
import shlex
import subprocess
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cai_dagster.checks.outcomes import LatestResult, result_of
from cai_dagster.home import Home
from cai_dagster.lake.catalog_database import is_begun
from cai_dagster.lake.newest import in_commit_order
from cai_dagster.lake.reader import LakeReader
from cai_dagster.text import printable
from cai_dagster.upkeep.status import State, latest_results, read_status

SECONDS = 10  # Dagster gives a sensor a minute for all that failed, and asks again for what it did not get to
LONGEST_ERROR = 2_000  # characters
MOST_LINES = 30


@dataclass(frozen=True)
class FailedRun:
    """One run that failed: what it was to make, where it stopped and why."""

    run_id: str
    failed_at: str
    constitution_version: str | None
    assets: list[str]
    failed_steps: list[str]
    error: str


def record_failure(home: Home, failed: FailedRun) -> list[str]:
    """Append a line to CAI_HOME/failures.jsonl and send an alert; what went wrong with sending it, if anything did.

    Each run is recorded once, however often Dagster asks.
    """
    if _is_recorded(home, failed.run_id):
        return []
    about = {**asdict(failed), "error": printable(failed.error, LONGEST_ERROR)}
    home.root.mkdir(parents=True, exist_ok=True)
    with home.failures.open("a", encoding="utf-8") as file:
        file.write(json.dumps(about) + "\n")
    of = f" of {failed.constitution_version}" if failed.constitution_version else ""
    steps = ", ".join(failed.failed_steps) or "no step"
    return send("failed_run", f"A run{of} failed at {steps}: {about['error']}", about)


def send(kind: str, text: str, about: dict[str, Any]) -> list[str]:
    """Send an alert to the command and the address that the environment names; what went wrong, if anything did."""
    problems: list[str] = []
    if command := shlex.split(os.environ.get("CAI_ON_ALERT", "")):
        line = json.dumps({"kind": kind, "text": text, **about}) + "\n"
        try:
            subprocess.run(command, input=line, text=True, timeout=SECONDS, check=True)  # noqa: S603 # the user's own
        except (OSError, subprocess.SubprocessError) as error:
            problems.append(f"CAI_ON_ALERT: {error}")
    if address := os.environ.get("CAI_WEBHOOK"):
        try:
            _post(address, text)
        except (OSError, ValueError) as error:
            problems.append(f"CAI_WEBHOOK: {error}")
    return problems


def _post(address: str, text: str) -> None:
    if not address.startswith(("http://", "https://")):
        raise ValueError("it has to begin with https:// or http://")
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps({"text": text}).encode(), headers)  # noqa: S310 - looked at
    with urllib.request.urlopen(request, timeout=SECONDS):  # noqa: S310
        pass


def check_results_after(home: Home, snapshot: int | None) -> tuple[list[LatestResult], int | None]:
    """The results of checks that failed or warned after a snapshot of the lake, and the snapshot to ask after next.

    Without a snapshot none: what was there before somebody asked is no news.
    """
    if not is_begun(home):
        return [], 0
    rows = LakeReader(home).rows(in_commit_order("check_results", f"snapshot_id > {snapshot or 0}"))
    newest = max((row["snapshot_id"] for row in rows), default=snapshot or 0)
    if snapshot is None:
        return [], newest
    return [result for row in rows if (result := result_of(row)).outcome.is_bad], newest


def text_of_checks(results: Sequence[LatestResult]) -> str:
    """Checks that failed or warned, a line each with what to do."""
    lines = [
        f"{one.version or 'all versions'}: {one.name} {one.outcome}: {one.measured}; bound: {one.bounds}. {one.advice}"
        for one in results[:MOST_LINES]
    ]
    more = [f"and {len(results) - MOST_LINES} more"] if len(results) > MOST_LINES else []
    return "\n".join([*lines, *more])


def digest(home: Home, constitutions: Path, now: datetime) -> tuple[str, dict[str, Any]]:
    """The last day in a few lines, and as numbers: what was made and paid for, what failed, which checks are bad."""
    status = read_status(home, constitutions)
    since = now.astimezone(UTC) - timedelta(days=1)
    made = [asset for asset in status.assets if asset.made_at and asset.made_at >= since]
    failed = [
        (version.constitution_version, asset)
        for version in status.versions
        for asset in version.assets
        if asset.state == State.failed
    ]
    failed += [("all versions", asset) for asset in status.shared if asset.state == State.failed]
    bad = [one for one in latest_results(home) if one.outcome.is_bad]
    about = {
        "tables_made": len(made),
        "failed": [f"{version}: {asset.asset}" for version, asset in failed],
        "checks": [f"{one.version or 'all versions'}: {one.name} {one.outcome}" for one in bad],
    }
    lines = [f"In the last day {len(made)} tables were made; {len(failed)} stand failed, {len(bad)} checks are bad."]
    lines += [f"{version}: {asset.asset}: {printable(asset.because, 200)}" for version, asset in failed[:MOST_LINES]]
    return "\n".join([*lines, text_of_checks(bad)] if bad else lines), about


def _is_recorded(home: Home, run_id: str) -> bool:
    if not home.failures.exists():
        return False
    with home.failures.open(encoding="utf-8") as file:
        return any(json.loads(line)["run_id"] == run_id for line in file)
