"""When too many rows of a materialization are rejected, the table stays as it is.

The bound is that of the check `rejected_share`. With severity ERROR it is applied before the commit, so that a model
that fails replaces no good table; with severity WARN the rows are committed and the check warns.
"""

from cai_dagster.checks.declarations import CHECKS
from cai_dagster.checks.settings import CheckSettings, ChecksSettings, Severity
from cai_dagster.errors import MendableError
from cai_dagster.lake.staging import StagedRows

_CHECK = "rejected_share"
_NONE = CheckSettings(severity=Severity.ERROR, at_most=0.0)
"""The bound of a table without the check: a row that breaks its declaration is a fault of the program."""


class TooManyRejectedRowsError(MendableError):
    """More rows were set aside than the check `rejected_share` allows."""


def refuse_too_many_rejected(staged: StagedRows, checks: ChecksSettings) -> None:
    """Raise TooManyRejectedRowsError when the share of rejected rows is beyond the bound, and its severity is ERROR."""
    table, version = staged.table.name, staged.constitution_version
    checked = any(check.name == _CHECK and check.table == table for check in CHECKS)
    bound = checks.of(_CHECK).bound_of(table, version) if checked else _NONE
    if bound.severity != Severity.ERROR or bound.passes(staged.rejected_share):
        return
    reasons = ", ".join(f"{count} × {code}" for code, count in sorted(staged.reasons.items()))
    advice = f", or set checks.{_CHECK}.tables.{table} in settings.toml." if checked else "."
    raise TooManyRejectedRowsError(
        f"{table}: {staged.rejected_count} of {staged.worked_on} rows were rejected ({staged.rejected_share:.1%}; "
        f"bound: {bound.bounds}): {reasons}. They are in the table rejected_rows with their reasons; the table itself "
        f"was left as it was. Mend the cause{advice}"
    )
