"""Too many rejected rows leave the table as it is; how many are too many, the check rejected_share says."""

import pytest

from cai_dagster.checks.rejected_rows import TooManyRejectedRowsError, refuse_too_many_rejected
from cai_dagster.checks.settings import CheckOverride, ChecksSettings, Severity
from cai_dagster.home import Home
from cai_dagster.lake.staging import StagedRows
from cai_dagster.settings import active_settings

CHECKED = "initial_responses"


def bounds(at_most: float, severity: Severity = Severity.ERROR, **of_tables: CheckOverride) -> ChecksSettings:
    checks = active_settings().checks
    changed = {"at_most": at_most, "severity": severity, "tables": of_tables}
    return checks.model_copy(update={"rejected_share": checks.rejected_share.model_copy(update=changed)})


def staged(home: Home, kept: int, *reasons: str, table: str = CHECKED, version: str | None = None) -> StagedRows:
    home.staging.mkdir(parents=True, exist_ok=True)
    rows = StagedRows(home.staging, table, version)
    rows.inputs = kept + len(reasons)
    rows.row_count = kept
    for number, reason in enumerate(reasons):
        rows.reject(str(number), f"{reason}: because", {})
    return rows


@pytest.mark.parametrize(("at_most", "refused"), [(0.3, False), (0.299, True), (1.0, False), (0.0, True)])
def test_rows_may_be_rejected_up_to_the_bound_of_the_check(home: Home, at_most: float, refused: bool) -> None:
    rows = staged(home, 7, "context_too_long", "empty_completion", "context_too_long")
    if not refused:
        refuse_too_many_rejected(rows, bounds(at_most))
        return
    with pytest.raises(TooManyRejectedRowsError) as caught:
        refuse_too_many_rejected(rows, bounds(at_most))
    said = str(caught.value)
    assert said.startswith(f"{CHECKED}: 3 of 10 rows were rejected (30.0%; bound: at most {at_most:g}): ")
    assert "2 × context_too_long, 1 × empty_completion" in said
    assert f"checks.rejected_share.tables.{CHECKED} in settings.toml" in said


def test_a_warning_does_not_stop_the_commit(home: Home) -> None:
    refuse_too_many_rejected(staged(home, 0, "empty_completion"), bounds(0.0, Severity.WARN))


def test_the_bound_of_the_table_counts(home: Home) -> None:
    rows = staged(home, 1, "empty_completion")
    refuse_too_many_rejected(rows, bounds(0.0, **{CHECKED: CheckOverride(at_most=0.5)}))
    with pytest.raises(TooManyRejectedRowsError):
        refuse_too_many_rejected(rows, bounds(0.5, **{CHECKED: CheckOverride(at_most=0.1)}))


def test_a_table_without_the_check_has_no_rejected_rows(home: Home) -> None:
    with pytest.raises(TooManyRejectedRowsError, match=r"Mend the cause\.$"):
        refuse_too_many_rejected(staged(home, 99, "not_null", table="preference_pairs", version="v1"), bounds(1.0))


def test_a_response_that_becomes_several_rows_counts_once(home: Home) -> None:
    rows = staged(home, 9, "empty_completion")
    rows.row_count = 9 * 4
    with pytest.raises(TooManyRejectedRowsError, match=r"1 of 10 rows were rejected \(10.0%"):
        refuse_too_many_rejected(rows, bounds(0.05))


def test_no_rows_are_not_too_many_rejected(home: Home) -> None:
    refuse_too_many_rejected(staged(home, 0), bounds(0.0))
