"""The look before a run: `cai run`, `cai backfill` and `cai doctor --version` share it."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cai_dagster.commands.dagster_process import QUIET
from cai_dagster.commands.output import console
from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.text import printable

if TYPE_CHECKING:
    from cai_dagster.upkeep.findings import Finding


def findings_of_run(versions: Sequence[str], selection: Sequence[str] = ()) -> "list[Finding]":
    """What `upkeep.preflight` finds, with the profile in use."""
    from cai_dagster.settings import active_settings
    from cai_dagster.upkeep.preflight import examine_run

    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    return examine_run(Home.from_environment(), active_settings(), versions, selection)


def refuse_what_cannot_finish(versions: Sequence[str], selection: Sequence[str] = ()) -> None:
    """Print warnings; raise MendableError where a run of these versions would stop."""
    from cai_dagster.upkeep.findings import Level

    found = findings_of_run(versions, selection)
    for finding in found:
        if finding.level == Level.warning:
            console().print(f"warning: {printable(_line(finding))}", markup=False, soft_wrap=True)
    problems = [_line(finding) for finding in found if finding.level == Level.problem]
    if problems:
        lines = "\n".join(problems)
        raise MendableError(f"the run would not finish; --skip-preflight starts it all the same:\n{lines}")


def _line(finding: "Finding") -> str:
    return f"{finding.topic}: {finding.text} → {finding.remedy}"
