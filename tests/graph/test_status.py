"""Where versions stand: what makes a table stale, what does not, and what a look costs."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from rich.console import Console
from typer.testing import CliRunner

from assets.constitution_diff import version_judgements
from cai_dagster.commands import cli
from cai_dagster.commands.status import NEWEST, print_status, short_number, short_time
from cai_dagster.constitution.versions import natural_order
from cai_dagster.definitions import ASSETS, POLICY_OPTIMIZATION, build_definitions
from cai_dagster.home import Home
from cai_dagster.lake.connection import LakeError
from cai_dagster.project import PROJECT
from cai_dagster.tables.registry import TABLES, graph, required_assets
from cai_dagster.upkeep.status import AssetStatus, CheckCounts, State, Status, VersionStatus, read_status, status_of
from resources.lake import open_lake
from tests.hostile import HOSTILE
from tests.scripted_graph import WITHOUT_TRAINING, materialize, write_prompts

NOON = datetime(2026, 1, 1, 12)  # noqa: DTZ001 - as stored
CHAIN = ("constitution", "prompts", "initial_responses", "revision_rounds", "sft_dataset")


def account(
    table: str,
    minute: float,
    data: str = "a",
    run: str = "r",
    version: str | None = "v1",
    read_at: float | None = None,
) -> dict[str, Any]:
    return {
        "table_name": table,
        "constitution_version": version if TABLES[table].versioned else None,
        "run_id": run,
        "materialized_at": NOON,  # no clock decides
        "snapshot_id": round(10 * minute),
        "read_at": round(10 * (minute if read_at is None else read_at)),
        "rows": 10,
        "rejected": 1,
        "data_version": data,
        "ledger_misses": 5,
        "prompt_tokens": 40,
        "completion_tokens": 10,
        "cached_tokens": 30,
        "seconds": 30.0,
        "engine_seconds": 5.0,
    }


def result(
    table: str, name: str, passed: bool, severity: str = "ERROR", data: str = "a", value: float | None = 0.5
) -> dict[str, Any]:
    names = {"table_name": table, "constitution_version": "v1" if TABLES[table].versioned else None, "check_name": name}
    return {**names, "passed": passed, "severity": severity, "data_version": data, "value": value}


def a_run(start: float = 0, run: str = "r") -> list[dict[str, Any]]:
    return [account(table, start + minute, run=run, read_at=start) for minute, table in enumerate(CHAIN)]


def statuses(
    accounts: list[dict[str, Any]],
    results: list[dict[str, Any]] | None = None,
    changed: Mapping[str, str] | None = None,
) -> dict[str, AssetStatus]:
    found = status_of(accounts, results or [], ["v1"], ["v1"], changed or {})
    return {asset.asset: asset for asset in found.assets}


def states(found: Mapping[str, AssetStatus]) -> dict[str, str]:
    return {table: found[table].state.value for table in CHAIN}


def test_the_declarations_are_the_graph_that_dagster_sees() -> None:
    assets = build_definitions().resolve_asset_graph()
    for table in graph():
        node = assets.get(dg.AssetKey(table.name))
        assert {parent.to_user_string() for parent in node.parent_keys} == set(table.reads)
        assert node.is_partitioned == table.versioned
    on_demand = {asset.key.to_user_string() for asset in (*POLICY_OPTIMIZATION, version_judgements)}
    assert {table.name for table in graph() if table.on_demand} == on_demand
    required = {asset.key.to_user_string() for asset in ASSETS} - {"cost_plan"}
    assert set(required_assets()) == required
    assert {table.name for table in graph() if not table.on_demand} == required - {"constitution_diff", "report"}


def test_what_one_run_made_is_fresh_and_the_rest_never_made() -> None:
    found = statuses(a_run())
    assert set(states(found).values()) == {"fresh"}
    assert found["sl_cai_model"].state == State.never_made
    assert "dpo_model" not in found  # on demand, and nobody asked for it


def test_a_table_is_stale_when_what_it_was_made_of_has_other_rows_now() -> None:
    found = statuses([*a_run(), account("initial_responses", 60, data="b", run="later")])
    assert states(found) == {
        "constitution": "fresh",
        "prompts": "fresh",
        "initial_responses": "fresh",
        "revision_rounds": "stale",
        "sft_dataset": "stale",
    }
    assert found["revision_rounds"].because == "initial_responses changed since"
    assert found["sft_dataset"].because == "revision_rounds is stale"


def test_the_same_rows_made_again_change_nothing() -> None:
    found = statuses([*a_run(), account("initial_responses", 60, data="a", run="later")])
    assert set(states(found).values()) == {"fresh"}


def test_what_was_committed_after_a_run_began_was_not_read_by_it() -> None:
    """The run that made the revisions began at minute 2.5."""
    revisions = account("revision_rounds", 3, run="of the revisions", read_at=2.5)
    during = account("initial_responses", 2.9, data="b", run="another")
    assert statuses([*a_run()[:3], during, revisions])["revision_rounds"].state == State.stale
    before = account("initial_responses", 2.2, data="b", run="another")
    assert statuses([*a_run()[:3], before, revisions])["revision_rounds"].state == State.fresh


def test_a_changed_constitution_makes_all_that_follows_stale() -> None:
    found = statuses(a_run(), changed={"v1": "v1.yaml changed since"})
    assert found["constitution"].because == "v1.yaml changed since"
    assert found["sft_dataset"].state == State.stale
    assert found["prompts"].state == State.fresh


def test_checks_count_once_each_and_only_for_the_rows_that_are_there() -> None:
    results = [
        result("revision_rounds", "rejected_share", passed=True),
        result("revision_rounds", "unchanged_revisions", passed=False),
        result("revision_rounds", "unfinished_completions", passed=False, severity="WARN"),
        result("revision_rounds", "principle_coverage", passed=False, data="older"),
        result("revision_rounds", "language_changes", passed=True, value=None),
    ]
    rounds = statuses(a_run(), results)["revision_rounds"]
    counts = rounds.checks
    assert (counts.passed, counts.failed, counts.warned, counts.not_measured, counts.outdated) == (1, 1, 1, 1, 1)
    assert rounds.state == State.failed
    assert rounds.because == "check unchanged_revisions failed"


def test_cost_is_that_of_all_materializations_and_rows_those_of_the_last() -> None:
    found = statuses([*a_run(), *a_run(60, run="again")])["revision_rounds"]
    assert (found.calls_paid, found.tokens, found.seconds, found.rows, found.rejected) == (10, 100, 60.0, 10, 1)
    # 80 and 20 tokens in the seconds of the engine, 60 of the 80 from the prefix cache.
    speeds = (found.prompt_tokens_per_second, found.completion_tokens_per_second, found.cached_prompt_share)
    assert speeds == (8.0, 2.0, 0.75)


def test_versions_are_sorted_as_people_count() -> None:
    assert sorted(["v10", "v9", "v2.1", "2026-01", "v2"], key=natural_order) == ["2026-01", "v2", "v2.1", "v9", "v10"]


def versions_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "constitutions"
    folder.mkdir()
    for version in ("v1", "v2"):
        (folder / f"{version}.yaml").write_text((PROJECT / f"constitutions/{version}.yaml").read_text())
    monkeypatch.setattr("assets.constitution.CONSTITUTIONS", folder)
    return folder


def test_a_real_lake_tells_an_edited_file_from_a_touched_one(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = versions_in(tmp_path, monkeypatch)
    assert {asset.state for asset in read_status(home, folder).assets} == {State.never_made}
    assert not home.root.exists()  # a look makes nothing
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", [f"question {n}" for n in range(20)])}
    materialize(WITHOUT_TRAINING, {**config, "sft_dataset": {"min_rows": 1}})
    newest, oldest = read_status(home, folder).versions
    assert [newest.constitution_version, oldest.constitution_version] == ["v2", "v1"]
    assert {asset.state for asset in newest.assets} == {State.never_made}
    assert [asset.asset for asset in oldest.assets if asset.state == State.fresh] == [
        table for table in CHAIN if TABLES[table].versioned
    ]
    file = folder / "v1.yaml"
    now = file.stat().st_mtime
    os.utime(file, (now + 3_600, now + 3_600))
    assert next(iter(read_status(home, folder, ["v1"]).versions[0].assets)).state == State.fresh
    file.write_text(file.read_text().replace("kind", "gentle"))
    os.utime(file, (now - 3_600, now - 3_600))  # as a copy that keeps times
    (version,) = read_status(home, folder, ["v1"]).versions
    assert version.assets[0].because == "v1.yaml changed since"
    file.write_text(f"title: {json.dumps(HOSTILE[6])}\nsurprise: 1\n")
    (version,) = read_status(home, folder, ["v1"]).versions
    assert version.assets[0].because.startswith("v1.yaml has a mistake now: ")
    file.unlink()
    (version,) = read_status(home, folder, ["v1"]).versions
    assert not version.has_file
    assert version.assets[0].state == State.fresh


def test_a_lake_of_another_version_of_the_program_is_refused_in_one_line(home: Home) -> None:
    materialize(["constitution"], {})
    open_lake(home)._connection.execute("DROP TABLE lake.check_results")
    with pytest.raises(LakeError, match=r"not those of this version of cai_dagster; .*check_results") as one:
        read_status(home, PROJECT / "constitutions", ["v1"])
    assert "\n" not in str(one.value)


def shown(found: Status, details: bool = False, every: bool = False, width: int = 140) -> str:
    out = StringIO()
    print_status(found, Console(file=out, width=width), details, every)
    return out.getvalue()


def test_rows_that_somebody_deleted_make_the_table_and_what_follows_stale(home: Home, tmp_path: Path) -> None:
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", [f"question {n}?" for n in range(20)])}
    config["prompts"] |= {"sft_share": 0.5, "preference_share": 0.4}
    config["sft_dataset"] = {"min_rows": 1}
    materialize(CHAIN, config)
    lake = open_lake(home)
    made = {asset.asset: asset for asset in read_status(home, PROJECT / "constitutions", ["v1"]).assets}
    rows = made["revision_rounds"].rows
    assert rows > 0
    assert made["revision_rounds"].state == made["sft_dataset"].state == State.fresh
    lake._connection.execute("DELETE FROM lake.revision_rounds WHERE constitution_version = 'v1'")
    now = {asset.asset: asset for asset in read_status(home, PROJECT / "constitutions", ["v1"]).assets}
    assert (now["revision_rounds"].rows, now["revision_rounds"].state) == (0, State.stale)
    assert now["revision_rounds"].because == f"its rows were deleted ({rows} when it was made, 0 now)"
    assert (now["sft_dataset"].state, now["sft_dataset"].because) == (State.stale, "revision_rounds is stale")
    assert now["initial_responses"].state == State.fresh
    materialize(CHAIN[3:], config)
    again = {asset.asset: asset for asset in read_status(home, PROJECT / "constitutions", ["v1"]).assets}
    assert (again["revision_rounds"].rows, again["revision_rounds"].state) == (rows, State.fresh)
    assert again["sft_dataset"].state == State.fresh


def test_many_versions_are_an_overview_of_the_newest_and_a_summary() -> None:
    versions = [f"v{number}" for number in range(60, 0, -1)]
    accounts = [account("constitution", number, version=f"v{number}") for number in range(1, 61)]
    found = status_of(accounts, [], versions, versions, {"v60": HOSTILE[6]})
    text = shown(found)
    listed = [line for line in text.splitlines() if re.match(r"v\d", line)]
    assert len(listed) == NEWEST
    assert listed[0].startswith("v60")
    assert "~·" in listed[0]
    assert f"{60 - NEWEST} older versions are not listed" in text
    assert "60 versions, 0 complete and fresh" in text
    assert "\x1b" not in text
    assert "\\x1b[31mred" in text
    assert len([line for line in shown(found, every=True).splitlines() if re.match(r"v\d", line)]) == 60


@pytest.mark.parametrize("width", [80, 110, 140])
def test_details_say_why(width: int) -> None:
    results = [result("revision_rounds", "unchanged_revisions", passed=False)]
    accounts = [*a_run(), account("prompts", 60, data="b", run="later")]
    text = shown(status_of(accounts, results, ["v1"], [], {}), details=True, width=width)
    assert "its file is no longer in constitutions/" in text
    assert "✗ failed" in text
    assert "✗ revision_rounds: check unchanged_revisions failed; prompts changed since" in " ".join(text.split())


def test_the_command_prints_json_and_refuses_a_version_that_is_nowhere(home: Home) -> None:
    materialize(["constitution"], {})
    run = CliRunner().invoke(cli.app, ["status", "--json"])
    assert run.exit_code == 0
    made = json.loads(run.stdout)
    assert set(made) == {"shared", "versions"}
    (first, *_) = next(one for one in made["versions"] if one["constitution_version"] == "v1")["assets"]
    assert (first["asset"], first["state"], first["rows"]) == ("constitution", "fresh", 16)
    assert set(first["checks"]) == {"passed", "warned", "failed", "not_measured", "outdated"}
    missing = CliRunner().invoke(cli.app, ["status", "--version", "v77"])
    assert missing.exit_code == 1
    assert CliRunner().invoke(cli.app, ["status", "--version", "v2"]).exit_code == 0


def test_the_exit_status_can_say_that_a_check_failed(home: Home) -> None:
    materialize(["constitution"], {})
    lake = open_lake(home)
    (made,) = lake.select("FROM lake.materializations", {}).to_dicts()
    row = {
        **result("constitution", "invented", passed=False, data=made["data_version"]),
        "run_id": "r",
        "checked_at": NOON,
        "value": 1.0,
        "bounds": "at most 0",
        "rows": 16,
    }
    lake.append("check_results", row)
    assert CliRunner().invoke(cli.app, ["status"]).exit_code == 0
    assert CliRunner().invoke(cli.app, ["status", "--exit-code"]).exit_code == 1


def test_a_look_imports_neither_dagster_nor_polars(home: Home) -> None:
    materialize(["constitution"], {})
    heavy = ["dagster", "polars", "pandera", "pandas", "pyarrow", "sqlalchemy", "numpy", "torch"]
    program = (
        "import sys; from cai_dagster.commands.cli import app; app(['status'], standalone_mode=False); "
        f"print('heavy:', *[name for name in {heavy} if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines()[-1] == "heavy:"
    assert "v1" in finished.stdout


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (950, "950"), (12_345, "12.3k"), (4_500_000, "4.5M")])
def test_numbers_are_short(number: float, text: str) -> None:
    assert short_number(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (720, "12 min"), (12_600, "3.5 h")])
def test_times_are_short(seconds: float, text: str) -> None:
    assert short_time(seconds) == text


def test_a_home_of_another_version_is_refused_in_one_line(home: Home) -> None:
    lake = open_lake(home)
    connection = lake._connection  # pyright: ignore[reportPrivateUsage]
    connection.execute("ALTER TABLE lake.materializations DROP COLUMN cached_tokens")
    with pytest.raises(LakeError, match="not those of this version of cai_dagster") as caught:
        read_status(home, PROJECT / "constitutions")
    assert "\n" not in str(caught.value)


def test_speeds_of_the_calls_paid_for_have_a_table_of_their_own() -> None:
    paid = AssetStatus("judgements", State.fresh, "", CheckCounts(), prompt_tokens_per_second=1453.2)
    made = replace(paid, made_at=datetime.now(UTC), completion_tokens_per_second=7.0, cached_prompt_share=0.385)
    with_speeds, without = (
        shown(Status((), (VersionStatus("v1", True, (asset,)),)), details=True, width=110)
        for asset in (made, replace(made, prompt_tokens_per_second=None))
    )
    assert re.search(r"prompt tokens/s +completion tokens/s +of prompts cached *\n", with_speeds)
    assert re.search(r"judgements +1,453 +7 +38 % *\n", with_speeds)
    assert "tokens/s" not in without
