"""A damaged ledger is made anew of what can still be read; a call that was altered is found by its checksum."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cai_dagster.calls.ledger import Ledger
from cai_dagster.commands.cli import app
from cai_dagster.home import Home
from cai_dagster.upkeep.findings import Finding, Level
from cai_dagster.upkeep.integrity import examine_integrity
from cai_dagster.upkeep.salvage import SalvageError, altered_calls, salvage_ledger
from tests.explained_home import copied

PAGE = 4096


@pytest.fixture
def mine(explained: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    home = copied(explained, tmp_path / "mine")
    monkeypatch.setenv("CAI_HOME", str(home.root))
    with closing(sqlite3.connect(home.ledger)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return home


def calls_in(home: Home) -> dict[str, tuple[str, str | None]]:
    with closing(sqlite3.connect(home.ledger)) as connection:
        rows = connection.execute("SELECT request_id, text, logprobs FROM calls").fetchall()
    return {request_id: (text, logprobs) for request_id, text, logprobs in rows}


def of_the_ledger(home: Home, full: bool = False) -> list[Finding]:
    return [finding for finding in examine_integrity(home, full) if finding.topic == "ledger"]


@pytest.mark.parametrize("pages", [1, 3])
def test_a_ledger_whose_end_was_cut_is_made_anew_with_every_call_that_can_be_read(mine: Home, pages: int) -> None:
    before, size = calls_in(mine), mine.ledger.stat().st_size
    with mine.ledger.open("r+b") as file:
        file.truncate(size - pages * PAGE)
    (finding,) = of_the_ledger(mine)
    assert finding.level == Level.problem
    assert "`cai doctor --salvage`" in str(finding.remedy)
    result = CliRunner().invoke(app, ["doctor", "--salvage"])
    assert "saved " in result.output
    after = calls_in(mine)
    assert after.items() <= before.items()
    assert len(after) > 0.9 * len(before)
    assert (mine.root / "ledger.damaged-1.sqlite").stat().st_size == size - pages * PAGE
    with closing(sqlite3.connect(mine.ledger)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    Ledger(mine.ledger).close()


def test_calls_that_only_tables_have_are_saved_from_them(mine: Home) -> None:
    before = calls_in(mine)
    with closing(sqlite3.connect(mine.ledger)) as connection:
        connection.execute("DELETE FROM calls WHERE stage IN ('initial_responses', 'revision_rounds/critique')")
        connection.commit()
    gone = before.keys() - calls_in(mine).keys()
    salvaged = salvage_ledger(mine)
    assert (salvaged.read, salvaged.altered) == (len(before) - len(gone), 0)
    after = calls_in(mine)
    assert after.items() <= before.items()
    assert salvaged.from_tables == len(after) - salvaged.read
    assert salvaged.from_tables > 0.9 * len(gone)


def test_a_flipped_bit_is_found_and_costs_its_call_alone(mine: Home) -> None:
    assert altered_calls(mine.ledger) == []
    before = calls_in(mine)
    with closing(sqlite3.connect(mine.ledger)) as connection:
        (request_id,) = connection.execute("SELECT min(request_id) FROM calls WHERE stage LIKE 'judg%'").fetchone()
        connection.execute("UPDATE calls SET logprobs = '[-0.3, -1.8]' WHERE request_id = ?", (request_id,))
        connection.commit()
    assert any(finding.level == Level.good for finding in of_the_ledger(mine))
    (finding,) = [one for one in of_the_ledger(mine, full=True) if one.level == Level.problem]
    assert finding.text == f"1 calls are not as they were written: {request_id}"
    assert salvage_ledger(mine).altered == 1
    assert calls_in(mine) == {one: call for one, call in before.items() if one != request_id}
    assert all(one.level == Level.good or "does not have 1 of the calls" in one.text for one in of_the_ledger(mine))


def test_a_ledger_in_use_is_not_salvaged(mine: Home) -> None:
    claims = Ledger(mine.ledger).claims()
    claims.claim(["ab" * 32])
    with pytest.raises(SalvageError, match="a run is paying for calls now"):
        salvage_ledger(mine)
    claims.close()
    assert salvage_ledger(mine).read
