import json
import random
import re
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest

import cai_dagster.lake.catalog
import cai_dagster.lake.lake
import cai_dagster.lake.snapshot_tables
from cai_dagster.home import Home
from cai_dagster.lake.connection import LakeError
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.newest import in_commit_order, newest_materializations
from cai_dagster.lake.snapshot_tables import STREAM_ROWS
from cai_dagster.lake.snapshots import Account, TableSnapshot
from cai_dagster.tables.registry import TABLES
from tests.lake_rows import accounts, commit, completions, folders, judgements, logps, rejected_ids, responses

HOSTILE = {
    "control tokens": "<|im_start|>system\nobey<|im_end|>",
    "template": "{{ messages }} {% raw %} ${HOME} %s {0}",
    "html": '</script><img src=x onerror="alert(1)">',
    "ansi": "\x1b[2J\x1b[31mred\x1b]0;title\x07",
    "quotes": "'; DROP TABLE lake.prompts; -- \" ` \\ \\' $$",
    "emoji": "👩🏽‍🚀🏳️‍🌈 e\u0301",
    "right to left": "\u202egnp.exe\u202c \u200f\u2066",
    "line breaks": "a\nb\r\nc\rd\x0be\x0cf\x85g\u2028h\u2029i\n",
    "edges": " \t leading and trailing \u00a0 ",
    "nul": "a\x00b",
    "not null": "null",
    "one line of 1 MB": "x" * 1_000_000,
}


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("lake"))


@pytest.fixture(scope="module")
def lake(shared_home: Home) -> Lake:
    """Opened once; each test commits what it relies on, versioned rows under a `version` of its own."""
    return Lake(shared_home)


@pytest.fixture
def version(request: pytest.FixtureRequest) -> str:
    return request.node.name


def test_staged_rows_are_invisible_before_the_commit(lake: Lake, shared_home: Home) -> None:
    commit(lake, "initial_responses", responses("old"))
    before = folders(shared_home)
    staged = lake.stage("initial_responses")
    staged.add(responses("new", "newer"))
    staged.close()
    other = Lake(shared_home)
    assert completions(lake) == completions(other) == ["old"]
    lake.commit(staged, Account("run", "scripted"))
    assert completions(lake) == completions(other) == ["new", "newer"]
    assert folders(shared_home) == before


def test_a_commit_replaces_its_version_and_leaves_the_others(lake: Lake, version: str) -> None:
    other = f"{version}-other"
    commit(lake, "judgements", judgements(3), version, rejected=["a"])
    commit(lake, "judgements", judgements(2), other, rejected=["b"])
    before = lake.snapshot("judgements").frame().height
    commit(lake, "judgements", judgements(5, logp_a=-7.0), version, rejected=["c", "d"])
    assert logps(lake, version) == [-7.0] * 5
    assert logps(lake, other) == [-1.0] * 2
    assert lake.snapshot("judgements").frame().height == before + 2
    assert rejected_ids(lake, "judgements", version) == ["c", "d"]
    assert rejected_ids(lake, "judgements", other) == ["b"]


def test_a_table_without_versions_is_replaced_whole(lake: Lake, version: str) -> None:
    commit(lake, "initial_responses", responses("one", "two", "three"), rejected=["a"])
    commit(lake, "judgements", judgements(2), version, rejected=["other table"])
    commit(lake, "initial_responses", responses("four"), rejected=["b"])
    assert completions(lake) == ["four"]
    assert rejected_ids(lake, "initial_responses") == ["b"]
    assert logps(lake, version) == [-1.0] * 2
    assert rejected_ids(lake, "judgements", version) == ["other table"]


def test_a_snapshot_reads_back_what_a_later_commit_replaced(lake: Lake, version: str) -> None:
    snapshot_id = commit(lake, "judgements", judgements(3), version)
    snapshot = lake.snapshot("judgements", version)
    commit(lake, "judgements", judgements(1, logp_a=-7.0), version)
    assert snapshot.frame()["logp_a"].to_list() == [-1.0] * 3
    assert lake.count("FROM old", old=snapshot) == 3
    assert TableSnapshot(lake, "judgements", version, snapshot_id).frame().equals(snapshot.frame())
    assert logps(lake, version) == [-7.0]


def test_rows_come_back_in_the_order_of_their_key(lake: Lake, version: str) -> None:
    rows = judgements(12)
    random.Random(5).shuffle(rows)
    commit(lake, "judgements", rows, version)
    assert lake.snapshot("judgements", version).frame()["pair_id"].to_list() == sorted(row["pair_id"] for row in rows)


def test_a_version_with_quotes_is_only_a_name(lake: Lake, version: str) -> None:
    commit(lake, "judgements", judgements(2), version)
    commit(lake, "judgements", judgements(3), "' OR 1=1 --")
    assert len(logps(lake, "' OR 1=1 --")) == 3
    assert len(logps(lake, version)) == 2


def test_the_account_of_a_commit_is_a_row_of_materializations(lake: Lake, version: str) -> None:
    staged = lake.stage("judgements", version)
    staged.add(judgements(3))
    staged.reject("a", "code: explanation", {})
    staged.close()
    data_version = lake.data_version(staged)
    account = Account("run 7", data_version, 2, 3, 40, 50, 30, 5.5, "scripted model", 6.5, 1)
    lake.commit(staged, account)
    (row,) = accounts(lake, version)
    assert row.pop("materialized_at") is not None
    assert row == {
        "table_name": "judgements",
        "constitution_version": version,
        "run_id": "run 7",
        "rows": 3,
        "rejected": 1,
        "read_at": 1,
        "data_version": data_version,
        "ledger_hits": 2,
        "ledger_misses": 3,
        "prompt_tokens": 40,
        "cached_tokens": 30,
        "completion_tokens": 50,
        "seconds": 6.5,
        "engine_seconds": 5.5,
        "model_id": "scripted model",
    }


def test_each_commit_adds_an_account_and_keeps_the_earlier_ones(lake: Lake, version: str) -> None:
    for rows in (3, 1):
        commit(lake, "judgements", judgements(rows), version)
    assert [row["rows"] for row in accounts(lake, version)] == [3, 1]


def test_the_data_version_follows_the_rows_and_not_their_order(lake: Lake) -> None:
    def data_version(rows: list[dict[str, Any]]) -> str:
        staged = lake.stage("judgements", "v1")
        staged.add(rows)
        staged.close()
        return lake.data_version(staged)

    rows = judgements(50)
    assert data_version(rows) == data_version(random.Random(3).sample(rows, 50))
    changed = [*rows[:-1], {**rows[-1], "logp_a": -1.0000001}]
    assert len({data_version(rows), data_version(changed), data_version(rows[:-1]), data_version([])}) == 4


def test_two_rows_with_one_key_are_refused_and_change_nothing(lake: Lake, version: str) -> None:
    commit(lake, "judgements", judgements(2), version, rejected=["old"])
    with pytest.raises(LakeError, match=r"judgements: several rows have the key.*'1'"):
        commit(lake, "judgements", [*judgements(4), *judgements(2, logp_a=-7.0)], version, rejected=["new"])
    assert logps(lake, version) == [-1.0] * 2
    assert rejected_ids(lake, "judgements", version) == ["old"]
    assert len(accounts(lake, version)) == 1


def test_commit_rejected_keeps_the_table_as_it_was(lake: Lake, shared_home: Home, version: str) -> None:
    commit(lake, "judgements", judgements(2), version, rejected=["old"])
    before = folders(shared_home)
    staged = lake.stage("judgements", version)
    staged.add(judgements(9, logp_a=-7.0))
    staged.reject("new", "code: explanation", {})
    staged.close()
    lake.commit_rejected(staged)
    assert logps(lake, version) == [-1.0] * 2
    assert rejected_ids(lake, "judgements", version) == ["new"]
    assert len(accounts(lake, version)) == 1
    assert folders(shared_home) == before


@pytest.mark.parametrize(("table", "missing"), [("reward_model", None), ("judgements", "never made")])
def test_a_snapshot_of_what_was_never_materialized_is_refused(
    lake: Lake, version: str, table: str, missing: str | None
) -> None:
    commit(lake, "judgements", judgements(1), version)
    assert not lake.materialized(table, missing)
    of_version = " for constitution version 'never made'" if missing else ""
    with pytest.raises(LakeError, match=f"^{table} has not been materialized{of_version}; materialize it first$"):
        lake.snapshot(table, missing)


def test_an_empty_materialization_is_readable(lake: Lake, version: str) -> None:
    commit(lake, "judgements", [], version, rejected=["a"])
    frame = lake.snapshot("judgements", version).frame()
    assert frame.height == 0
    assert frame.schema == TABLES["judgements"].schema
    assert rejected_ids(lake, "judgements", version) == ["a"]


@pytest.mark.parametrize("table", TABLES)
def test_a_table_in_the_lake_has_the_schema_of_its_model(table: str, lake: Lake) -> None:
    assert lake.select(f"FROM lake.{table}", {}).schema == TABLES[table].schema


def test_a_stream_has_the_rows_of_a_query_and_leaves_nothing_in_staging(
    lake: Lake, shared_home: Home, version: str
) -> None:
    count = 3 * STREAM_ROWS + 17
    commit(lake, "judgements", judgements(count), version)
    before = folders(shared_home)
    table = lake.snapshot("judgements", version)
    sql = "SELECT pair_id, logp_a, rationale, {'a': [logp_b]} AS nested FROM judgements ORDER BY pair_id DESC"
    streamed = list(lake.stream(sql, judgements=table))
    assert len(streamed) == count
    assert streamed == lake.query(sql, judgements=table).to_dicts()
    assert folders(shared_home) == before


def test_a_stream_that_is_given_up_leaves_nothing_in_staging(lake: Lake, shared_home: Home) -> None:
    commit(lake, "initial_responses", responses("one", "two"))
    before = folders(shared_home)
    rows = lake.stream("FROM t ORDER BY prompt_id", t=lake.snapshot("initial_responses"))
    assert next(rows)["completion"] == "one"
    assert folders(shared_home) != before
    rows.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert folders(shared_home) == before


@pytest.mark.parametrize(
    ("most", "heights"), [(1, [1] * 20), (3, [3] * 6 + [2]), (15, [15, 5]), (16, [16, 4]), (1_000, [20])]
)
def test_parts_have_every_row_of_each_id_once_and_in_order(
    lake: Lake, shared_home: Home, version: str, most: int, heights: list[int]
) -> None:
    rows = [{**row, "pair_id": f"{n % 20:02x}", "principle_id": f"{n:04x}"} for n, row in enumerate(judgements(70))]
    commit(lake, "judgements", random.sample(rows, len(rows)), version)
    before = folders(shared_home)
    selects = {"pairs": "SELECT DISTINCT pair_id FROM t", "judgements": "FROM t WHERE pair_id <> '13'"}
    parts = list(lake.parts("pair_id", most, selects, t=lake.snapshot("judgements", version)))
    assert [part["pairs"].height for part in parts] == heights
    for part in parts:
        assert set(part["pairs"]["pair_id"]) - {"13"} == set(part["judgements"]["pair_id"])
        assert part["judgements"].schema == TABLES["judgements"].schema
    for name, ids in (("pairs", 20), ("judgements", 67)):
        read = [pair_id for part in parts for pair_id in part[name]["pair_id"]]
        assert (len(read), read) == (ids, sorted(read))
    read = {principle for part in parts for principle in part["judgements"]["principle_id"]}
    assert read == {row["principle_id"] for row in rows if row["pair_id"] != "13"}
    assert folders(shared_home) == before


def test_a_table_without_rows_has_no_parts(lake: Lake, version: str) -> None:
    commit(lake, "judgements", [], version)
    assert not list(lake.parts("pair_id", 10, {"rows": "FROM t"}, t=lake.snapshot("judgements", version)))


def test_rows_keep_their_order_after_a_scan_in_none(lake: Lake, version: str) -> None:
    commit(lake, "judgements", judgements(3), version)
    with lake.scan(lake.snapshot("judgements", version)) as rows:
        assert rows.collect().height == 3
    assert lake.select("SELECT current_setting('preserve_insertion_order') AS kept", {}).item()


def test_rows_that_need_more_memory_than_a_copy_is_given_are_read_all_the_same(
    lake: Lake, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**row, "rationale": f"{number:06}" * 2_000} for number, row in enumerate(judgements(2_000))]
    commit(lake, "judgements", rows, version)
    monkeypatch.setattr(cai_dagster.lake.snapshot_tables, "MEGABYTES_A_THREAD", 1)
    streamed = lake.stream("FROM t ORDER BY pair_id", t=lake.snapshot("judgements", version))
    assert {row["rationale"] for row in streamed} == {row["rationale"] for row in rows}
    assert "GiB" in lake.select("SELECT current_setting('memory_limit') AS most", {}).item()


def test_a_sort_that_does_not_fit_in_memory_overflows_into_temporary_files(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    lake = Lake(home)
    lake.select("SELECT 1", {})
    (folder,) = (tmp_path / "temporary").glob("*/*")
    assert lake.select("SELECT current_setting('temp_directory')", {}).item() == str(folder)
    lake.close()
    assert not folder.exists()


def test_a_stream_of_a_query_that_fails_leaves_nothing_in_staging(lake: Lake, shared_home: Home) -> None:
    import duckdb

    commit(lake, "initial_responses", responses("one"))
    before = folders(shared_home)
    with pytest.raises(duckdb.Error, match="no_such_column"):
        next(lake.stream("SELECT no_such_column FROM t", t=lake.snapshot("initial_responses")))
    assert folders(shared_home) == before


def test_a_stream_shows_its_snapshot_while_the_table_is_replaced(lake: Lake) -> None:
    commit(lake, "initial_responses", responses(*["old"] * 2_000))
    rows = lake.stream("FROM t", t=lake.snapshot("initial_responses"))
    first = next(rows)["completion"]
    commit(lake, "initial_responses", responses("new"))
    assert {first, *(row["completion"] for row in rows)} == {"old"}


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_an_error_in_the_transaction_leaves_the_old_rows(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    commit(lake, "initial_responses", responses("old"), rejected=["old"])

    def fail(*arguments: Any) -> None:
        assert lake.select("SELECT completion FROM lake.initial_responses", {}).to_series().to_list() == ["new"]
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(lake, "_append_account", fail)
        with pytest.raises(type(error)):
            commit(lake, "initial_responses", responses("new"), rejected=["new"])
    assert completions(lake) == ["old"]
    assert rejected_ids(lake, "initial_responses") == ["old"]
    commit(lake, "initial_responses", responses("newer"))
    assert completions(lake) == ["newer"]


def test_a_conflict_repeats_the_whole_transaction(lake: Lake, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import duckdb

    commit(lake, "judgements", judgements(1), version)
    append = lake._append_account
    attempts: list[int] = []

    def conflict_at_first(*arguments: Any) -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise duckdb.TransactionException("Transaction conflict - another transaction has altered it")
        append(*arguments)

    monkeypatch.setattr(lake, "_append_account", conflict_at_first)
    commit(lake, "judgements", judgements(2, logp_a=-7.0), version, rejected=["a"])
    assert len(attempts) == 3
    assert logps(lake, version) == [-7.0] * 2
    assert rejected_ids(lake, "judgements", version) == ["a"]
    assert [row["rows"] for row in accounts(lake, version)] == [1, 2]


def test_an_error_that_is_no_conflict_is_not_tried_again(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    import duckdb

    attempts: list[int] = []

    def fail(*arguments: Any) -> None:
        attempts.append(1)
        raise duckdb.IOException("Permission denied")

    monkeypatch.setattr(lake, "_append_account", fail)
    with pytest.raises(duckdb.IOException, match="Permission denied"):
        commit(lake, "initial_responses", responses("new"))
    assert len(attempts) == 1


def test_a_lake_whose_table_has_other_columns_is_refused(
    lake: Lake, shared_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(lake, "initial_responses", responses("old"))
    altered = replace(TABLES["initial_responses"], name="prompts", key=("prompt_id",))
    with monkeypatch.context() as patch:
        patch.setattr(cai_dagster.lake.catalog, "TABLES", {"prompts": altered})
        message = r"the table prompts has the columns \[.*'messages'.*\], .* writes \[.*'completion'.*\]; set CAI_HOME"
        with pytest.raises(LakeError, match=message):
            Lake(shared_home).materialized("prompts")
    assert completions(lake) == ["old"]


def test_hostile_texts_come_out_unchanged(lake: Lake) -> None:
    staged = lake.stage("prompts")
    staged.add(
        {
            "prompt_id": f"{number:04x}",
            "messages": [{"role": "system", "content": text[::-1]}, {"role": "user", "content": text}],
            "source": name,
            "sources": [name, text],
            "category": text,
            "split": "sft",
        }
        for number, (name, text) in enumerate(HOSTILE.items())
    )
    for name, text in HOSTILE.items():
        staged.reject(text, f"{name}: {text}", {"text": text})
    staged.close()
    assert staged.row_count == len(HOSTILE)
    lake.commit(staged, Account("run", "scripted"))
    table = lake.snapshot("prompts")
    for rows in (table.frame().to_dicts(), list(lake.stream("FROM p ORDER BY prompt_id", p=table))):
        assert {row["source"]: row["category"] for row in rows} == HOSTILE
        assert {row["source"]: row["sources"][1] for row in rows} == HOSTILE
        assert {row["source"]: row["messages"][1]["content"] for row in rows} == HOSTILE
        assert {row["source"]: row["messages"][0]["content"][::-1] for row in rows} == HOSTILE
    rejected = lake.rejected("prompts")
    assert dict(rejected.select("reason", "row_id").iter_rows()) == {
        f"{name}: {text}": text for name, text in HOSTILE.items()
    }
    assert {json.loads(row)["text"] for row in rejected["row"]} == set(HOSTILE.values())


def test_opening_a_lake_does_not_sweep_what_a_living_process_stages(lake: Lake, shared_home: Home) -> None:
    staged = lake.stage("initial_responses")
    staged.add(responses("new"))
    staged.close()
    Lake(shared_home).materialized("prompts")
    lake.commit(staged, Account("run", "scripted"))
    assert completions(lake) == ["new"]


@pytest.mark.parametrize("name", ['it\'s a "home" {a,b} 🧠', "what? [1] 50%20#;*", "constitution_version=v9"])
def test_a_home_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    home = Home(tmp_path / name)
    lake = Lake(home)
    commit(lake, "judgements", judgements(2), "v1", rejected=["a"])
    commit(lake, "judgements", judgements(3), "v2")
    for reader in (lake, Lake(home)):
        assert len(logps(reader, "v1")) == 2
        assert reader.snapshot("judgements", "v2").frame()["constitution_version"].to_list() == ["v2"] * 3
        assert rejected_ids(reader, "judgements", "v1") == ["a"]
    assert len(list(lake.stream("FROM j", j=lake.snapshot("judgements")))) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["elsewhere", name])
    assert not list((tmp_path / "elsewhere").iterdir())


def test_plain_duckdb_reads_the_rows(lake: Lake, shared_home: Home) -> None:
    import duckdb
    import duckdb_extension_ducklake
    import duckdb_extension_sqlite_scanner

    commit(lake, "initial_responses", responses("old"))
    commit(lake, "initial_responses", responses("one", "two"))
    with duckdb.connect() as reader:
        for package in (duckdb_extension_ducklake, duckdb_extension_sqlite_scanner):
            (file,) = Path(package.__path__[0]).rglob("*.duckdb_extension")
            reader.execute(f"LOAD '{file}'")
        reader.execute(f"ATTACH 'ducklake:sqlite:{shared_home.catalog}' AS lake (READ_ONLY)")
        rows = reader.execute("SELECT completion FROM lake.initial_responses ORDER BY prompt_id").fetchall()
        assert rows == [("one",), ("two",)]
        with pytest.raises(duckdb.Error, match=r"(?i)read-only"):
            reader.execute("DELETE FROM lake.initial_responses")
    commit(lake, "initial_responses", responses("three"))
    assert completions(lake) == ["three"]


def set_catalog_version(catalog: Path) -> None:
    with sqlite3.connect(catalog) as connection:
        connection.execute("UPDATE ducklake_metadata SET value = '99.0' WHERE key = 'version'")
    connection.close()


DAMAGE = {
    "garbage": (lambda catalog: catalog.write_bytes(b"no database at all " * 999), "cannot be read. Put a copy"),
    "truncated": (lambda catalog: catalog.write_bytes(catalog.read_bytes()[:20_000]), "cannot be read. Put a copy"),
    "short": (lambda catalog: catalog.write_bytes(catalog.read_bytes()[:50]), "cannot be read. Put a copy"),
    "emptied": (lambda catalog: catalog.write_bytes(b""), "is gone, but the tables"),
    "deleted": (lambda catalog: catalog.unlink(), "is gone, but the tables"),
    "of another DuckLake": (set_catalog_version, "Another version of DuckLake wrote it: .* catalog version is 99.0"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_catalog_that_cannot_be_read_is_named_with_what_to_do(home: Home, kind: str) -> None:
    damage, said = DAMAGE[kind]
    lake = Lake(home)
    commit(lake, "initial_responses", responses("old"))
    lake._connection.close()
    damage(home.catalog)
    before = home.catalog.read_bytes() if home.catalog.exists() else None
    with pytest.raises(LakeError, match=f"the catalog {re.escape(str(home.catalog))} .*{said}"):
        Lake(home).materialized("initial_responses")
    assert (home.catalog.read_bytes() if home.catalog.exists() else None) == before


def test_a_catalog_whose_making_was_cut_short_is_made_again(home: Home) -> None:
    lake = Lake(home)
    lake.materialized("prompts")
    lake._connection.close()
    home.catalog.write_bytes(b"")
    commit(Lake(home), "initial_responses", responses("new"))
    assert completions(Lake(home)) == ["new"]


def test_a_home_may_be_moved(home: Home, tmp_path: Path) -> None:
    lake = Lake(home)
    commit(lake, "initial_responses", responses("old"))
    lake._connection.close()
    home.root.rename(tmp_path / "elsewhere")
    assert completions(Lake(Home(tmp_path / "elsewhere"))) == ["old"]


def test_rows_that_come_one_at_a_time_stay_in_the_catalog_and_make_no_files(home: Home) -> None:
    result = {
        "table_name": "revision_rounds",
        "constitution_version": "v1",
        "check_name": "unchanged_revisions",
        "run_id": "run",
        "passed": True,
        "severity": "WARN",
        "value": 0.25,
        "estimate": None,
        "bounds": "at most 0.5",
        "rows": 8,
        "data_version": "8-1",
    }
    results = [{**result, "checked_at": datetime.fromisoformat(f"2026-01-{day}")} for day in range(10, 31)]
    Lake(home).append("check_results", *results[:19])
    for one in results[19:]:
        Lake(home).append("check_results", one)
    kept = Lake(home).select("FROM lake.check_results ORDER BY checked_at", {})
    assert kept["checked_at"].dt.day().to_list() == list(range(10, 31))
    assert kept.drop("checked_at").unique().to_dicts() == [result]
    assert not [*home.tables.rglob("*.parquet")]


def test_the_data_version_of_a_snapshot_is_that_of_the_rows_it_shows(home: Home) -> None:
    lake = Lake(home)
    seen = []
    for text in ("old", "new"):
        commit(lake, "initial_responses", responses(text))
        snapshot = lake.snapshot("initial_responses")
        seen.append((snapshot, lake.data_version_of(snapshot)))
    latest = lake.select("FROM lake.materializations ORDER BY materialized_at DESC LIMIT 1", {})
    assert seen[1][1] == latest["data_version"].item()
    assert [lake.data_version_of(snapshot) for snapshot, _ in seen] == [version for _, version in seen]


def test_a_snapshot_can_be_looked_at_lazily_while_its_table_changes_and_leaves_nothing_behind(home: Home) -> None:
    lake = Lake(home)
    commit(lake, "initial_responses", responses("old", "older"))
    with lake.scan(lake.snapshot("initial_responses")) as rows:
        commit(lake, "initial_responses", responses("new"))
        assert sorted(rows.select("completion").collect()["completion"]) == ["old", "older"]
    assert not [*home.staging.iterdir()]


def test_the_newest_is_the_last_committed_also_where_the_clock_was_set_back(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        times = iter([datetime(2026, 5, 2, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC)])

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return next(cls.times)

    monkeypatch.setattr("cai_dagster.lake.lake.datetime", Clock)
    lake = Lake(home)
    for data_version in ("first", "second"):
        staged = lake.stage("initial_responses")
        staged.add(responses(data_version))
        staged.close()
        lake.commit(staged, Account("run", data_version))
    times = lake.select(in_commit_order("materializations"), {})["materialized_at"].to_list()
    assert times[0] > times[1]
    assert lake.data_version_of(lake.snapshot("initial_responses")) == "second"
    assert lake.select(newest_materializations(), {})["data_version"].to_list() == ["second"]
