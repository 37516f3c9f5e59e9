"""A forgotten prompt is gone from tables, ledger and, with its snapshots, from the disk; and it does not come back."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cai_dagster.calls.ledger import open_ledger
from cai_dagster.calls.requests import Answer, PaidCall, Slot
from cai_dagster.commands.cli import app
from cai_dagster.commands.forget import ranges
from cai_dagster.constitution.constitution import load_constitution
from cai_dagster.explain.nodes import TraceError
from cai_dagster.explain.trace import trace
from cai_dagster.home import Home
from cai_dagster.lake.forgotten_prompts import add_forgotten_prompt, forgotten_prompts
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.snapshots import Account
from cai_dagster.project import PROJECT
from cai_dagster.tables.registry import TABLES
from cai_dagster.upkeep.findings import Level
from cai_dagster.upkeep.forget import ForgetError, expire_snapshots, forget, remembered
from cai_dagster.upkeep.integrity import examine_integrity
from cai_dagster.upkeep.status import State, read_status
from tests.databases import execute
from tests.explained_home import copied
from tests.scripted_graph import bound_of_rejected_rows, materialize, write_prompts

SECRET = "my number is 555 0199 and I live in the harbour"


@pytest.fixture
def mine(explained: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of the home to remove things from."""
    home = copied(explained, tmp_path / "mine")
    monkeypatch.setenv("CAI_HOME", str(home.root))
    return home


def a_prompt(home: Home, split: str = "preference") -> str:
    prompts = Lake(home).snapshot("prompts").frame()
    questions = pl.col("messages").list.last().struct.field("content").str.starts_with("question ")
    return prompts.filter(questions & (pl.col("split") == split))["prompt_id"][0]


def holders(home: Home, text: str) -> list[str]:
    """The files of tables, catalog and ledger that hold a text: as they are, or in a Parquet file's values."""
    databases = (*home.root.glob("*.sqlite*"), home.forgotten)
    files = [file for file in (*home.tables.rglob("*"), *databases, *home.staging.rglob("*")) if file.is_file()]
    holding = [file for file in files if text.encode() in _bytes(file) or text in "".join(_values(file))]
    return [str(file).removeprefix(f"{home.root}/") for file in holding]


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:  # a write-ahead log, which SQLite removes when the last connection is collected
        return b""


def _values(file: Path) -> Iterator[str]:
    if file.suffix == ".parquet":
        for row in pq.read_table(io.BytesIO(file.read_bytes())).to_pylist():
            yield json.dumps(row, default=str, ensure_ascii=False)


@pytest.mark.parametrize("split", ["sft", "preference", "evaluation"])
def test_nothing_of_it_is_left_in_any_table_version_or_in_the_ledger(mine: Home, split: str) -> None:
    prompt = a_prompt(mine, split)
    found = remembered(mine, prompt)
    before = {name: Lake(mine).select(f"FROM lake.{name}", {}) for name in TABLES}
    assert (
        set(found.rows)
        >= {"prompts", "initial_responses"}
        | {
            "sft": {"sft_dataset", "revision_rounds", "teacher_responses"},
            "preference": {"response_pairs", "judgements", "preference_pairs", "best_of_n"},
            "evaluation": {"response_pairs", "policy_responses", "policy_judgements"},
        }[split]
    )
    forget(mine, found)
    lake = Lake(mine)
    for name, frame in before.items():
        assert prompt not in json.dumps(lake.select(f"FROM lake.{name}", {}).to_dicts(), default=str), name
        removed = frame.height - lake.select(f"FROM lake.{name}", {}).height
        if name != "materializations":  # which has an account more of each table that lost rows
            assert removed == found.rows.get(name, 0), name
    assert not open_ledger(mine).calls_of(prompt)
    assert found.ledger_calls > 0
    with pytest.raises(TraceError, match="was removed for good"):
        trace(mine, prompt)


def test_the_rows_of_other_prompts_stay_as_they_were(mine: Home) -> None:
    prompt, other = a_prompt(mine, "preference"), a_prompt(mine, "evaluation")
    calls = sum(open_ledger(mine).totals().values())
    before = trace(mine, other).to_json()
    found = remembered(mine, prompt)
    forget(mine, found)
    assert trace(mine, other).to_json() == before
    assert sum(open_ledger(mine).totals().values()) == calls - found.ledger_calls


def test_checkpoints_that_saw_it_are_named_before(mine: Home) -> None:
    prompt = a_prompt(mine, "preference")
    saw = {(one.checkpoint.asset, one.checkpoint.constitution_version) for one in remembered(mine, prompt).checkpoints}
    assert saw == {("reward_model", "v1"), ("reward_model", "v2"), ("dpo_model", "v1"), ("rlaif_model", "v1")}


def test_its_text_is_on_the_disk_until_the_snapshots_expire_and_then_nowhere(mine: Home) -> None:
    prompt = a_prompt(mine, "preference")
    (row,) = Lake(mine).snapshot("prompts").frame().filter(pl.col("prompt_id") == prompt).to_dicts()
    text = row["messages"][0]["content"]
    written = f"of {prompt[:8]}"  # the scripted model says whose prompt it answers
    assert holders(mine, written)
    forget(mine, remembered(mine, prompt))
    held = holders(mine, written)
    assert held  # in the files of older snapshots, and the catalog's statistics of them
    assert all(file.startswith(("tables/", "catalog.sqlite")) for file in held)
    rows = {name: Lake(mine).select(f"SELECT * FROM lake.{name} ORDER BY ALL", {}) for name in TABLES}
    assert expire_snapshots(mine) > 0
    for gone in (written, prompt, f'"{text}"'):
        assert set(holders(mine, gone)) <= {"forgotten_prompts.txt"}, gone
    for name, frame in rows.items():
        assert Lake(mine).select(f"SELECT * FROM lake.{name} ORDER BY ALL", {}).equals(frame), name


def test_statistics_of_the_catalog_hold_no_text(home: Home, tmp_path: Path) -> None:
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", [f"aaa {SECRET}", f"zzz {SECRET}", "middle"])}
    materialize(["prompts"], config)
    ids = (
        Lake(home)
        .snapshot("prompts")
        .frame()
        .filter(pl.col("messages").list.last().struct.field("content").str.contains(SECRET))["prompt_id"]
    )
    for prompt in ids:
        forget(home, remembered(home, prompt))
    expire_snapshots(home)
    assert holders(home, SECRET) == []
    materialize(["prompts"], config)  # the lake goes on
    assert Lake(home).snapshot("prompts").frame().height == 1


def of_versions(home: Home) -> dict[str, int]:
    """Rows of revision_rounds by version, counted without a filter."""
    rows = Lake(home).select("SELECT constitution_version, count(*) FROM lake.revision_rounds GROUP BY ALL", {})
    return dict(rows.sort("constitution_version").iter_rows())


def problems_of_the_lake(home: Home) -> list[str]:
    found = examine_integrity(home, full=True)
    return [one.text for one in found if one.level == Level.problem and one.topic == "lake"]


def commit_again(home: Home, version: str, of: str) -> None:
    """Materialize revision_rounds of a version with the rows that `of` has."""
    rows = f"SELECT * EXCLUDE constitution_version FROM lake.revision_rounds WHERE constitution_version || '' = '{of}'"
    lake = Lake(home)
    staged = lake.stage("revision_rounds", version)
    staged.add(lake.select(rows, {}).to_dicts())
    staged.close()
    lake.commit(staged, Account("scripted", lake.data_version(staged)))
    lake.close()


@pytest.fixture
def expired(mine: Home) -> Home:
    """Three versions, of which a prompt was removed for good, with the snapshots."""
    commit_again(mine, "v3", of="v2")
    forget(mine, remembered(mine, a_prompt(mine, "sft")))
    expire_snapshots(mine)
    return mine


def test_every_version_keeps_its_rows_when_another_is_committed_after_the_snapshots_expired(expired: Home) -> None:
    before = of_versions(expired)
    assert list(before) == ["v1", "v2", "v3"]
    for committed in before:
        commit_again(expired, committed, of=committed)
        for version, rows in before.items():
            kept = Lake(expired).snapshot("revision_rounds", version).frame()
            assert kept.height == rows, (committed, version)
            assert not kept.select(TABLES["revision_rounds"].key).is_duplicated().any()
        assert of_versions(expired) == before
    assert problems_of_the_lake(expired) == []


def test_the_doctor_finds_rows_that_filters_miss_and_mends_them(expired: Home) -> None:
    before = of_versions(expired)
    texts = "SELECT table_id, column_id FROM ducklake_column WHERE column_type = 'varchar'"
    bounds = "UPDATE ducklake_table_column_stats SET min_value = NULL, max_value = NULL"
    execute(expired, "catalog", f"{bounds} WHERE (table_id, column_id) IN ({texts})")  # what the next commit replaces
    for version in ("v2", "v1"):
        commit_again(expired, version, of=version)
    assert of_versions(expired)["v1"] == 2 * before["v1"]  # committing v2 hid the rows that v1 was to replace
    found = [one for one in examine_integrity(expired) if "miss rows" in one.text]
    assert any(one.text.startswith("revision_rounds: filters on constitution_version") for one in found)
    assert {one.remedy for one in found} == {"cai doctor --mend"}
    said = CliRunner().invoke(app, ["doctor", "--mend", "--full"]).stdout
    assert "filters find every row again of" in said
    assert "revision_rounds of v1: several rows have one key" in said
    materialize(["revision_rounds"], {"revision_rounds": {"rounds": 2}}, "v1", voice="steady")
    assert of_versions(expired) == before
    assert problems_of_the_lake(expired) == []


def test_it_does_not_come_back_and_leaves_no_text_among_the_rejected_rows(home: Home, tmp_path: Path) -> None:
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", [SECRET, "another question"])}
    materialize(["prompts"], config)
    prompts = Lake(home).snapshot("prompts").frame()
    secret = prompts.filter(pl.col("messages").list.last().struct.field("content") == SECRET)["prompt_id"][0]
    forget(home, remembered(home, secret))
    materialize(["prompts"], config)
    assert Lake(home).snapshot("prompts").frame()["prompt_id"].to_list() == [
        one for one in prompts["prompt_id"] if one != secret
    ]
    (rejected,) = Lake(home).rejected("prompts").to_dicts()
    assert (rejected["row_id"], rejected["row"]) == ("p.jsonl:1", "{}")
    assert rejected["reason"].startswith("forgotten: ")


def test_pairs_of_a_forgotten_prompt_do_not_come_back_either(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound_of_rejected_rows(monkeypatch, 0.5)
    file = tmp_path / "people.jsonl"
    others = [f"question {number}" for number in range(30)]
    pairs = [{"prompt": prompt, "chosen": "good", "rejected": "bad"} for prompt in (SECRET, SECRET, *others)]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    config = {
        "human_preferences": {"sources": [str(file)]},
        "prompts": write_prompts(tmp_path / "p.jsonl", others[:1]),
        "response_pairs": {"source": "imported", "sources": [str(file)]},
    }
    materialize(["human_preferences"], config)
    people = Lake(home).snapshot("human_preferences").frame()
    secret = people.filter(pl.col("prompt").list.last().struct.field("content") == SECRET)["prompt_id"][0]
    found = remembered(home, secret)
    assert found.rows == {"human_preferences": 1, "rejected_rows": 1}  # the duplicate was set aside, text and all
    forget(home, found)
    bound_of_rejected_rows(monkeypatch, 0.0)  # a forgotten prompt is no bad row
    materialize(["human_preferences"], config)
    assert Lake(home).snapshot("human_preferences").frame().height == len(others)
    assert SECRET not in json.dumps(Lake(home).rejected("human_preferences").to_dicts())


@pytest.mark.parametrize(
    "turns", [["a talk with the harbour master about Jane Roe", "Why?", "Yes, please."], ["SSN 078"]]
)
def test_a_transcript_that_was_set_aside_goes_too_and_others_stay(
    home: Home, tmp_path: Path, turns: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """hh-rlhf has all turns in one text; and a short turn may stand in any other text."""
    bound_of_rejected_rows(monkeypatch, 1.0)
    talk = "".join(f"\n\n{speaker}: {turn}" for speaker, turn in zip(("Human", "Assistant") * 2, turns, strict=False))
    other = f"\n\nHuman: not {turns[-1]} but another one"
    pairs = [
        {name: f"{prompt}\n\nAssistant: {name}" for name in ("chosen", "rejected")}
        for prompt in (talk, other)
        for _ in range(2)  # the second is a duplicate, and set aside with its text
    ]
    file = tmp_path / "hh.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    materialize(["human_preferences"], {"human_preferences": {"sources": [str(file)]}})
    people = Lake(home).snapshot("human_preferences").frame()
    (mine,) = people.filter(pl.col("prompt").list.last().struct.field("content") == turns[-1])["prompt_id"]
    found = remembered(home, mine)
    assert found.rows == {"human_preferences": 1, "rejected_rows": 1}
    forget(home, found)
    (rejected,) = Lake(home).rejected("human_preferences").to_dicts()
    assert json.loads(rejected["row"])["chosen"].startswith(other)
    expire_snapshots(home)
    assert holders(home, f"Human: {turns[0]}") == []


def test_a_constitution_with_the_same_prompt_as_an_example_stays_and_is_named(home: Home, tmp_path: Path) -> None:
    example = load_constitution(PROJECT / "constitutions" / "v1.yaml").dialogues[0].prompt
    materialize(["constitution", "prompts"], {"prompts": write_prompts(tmp_path / "p.jsonl", [example, "another one"])})
    constitution = Lake(home).snapshot("constitution", "v1").frame()
    prompts = Lake(home).snapshot("prompts").frame()
    (mine,) = prompts.filter(pl.col("messages").list.last().struct.field("content") == example)["prompt_id"]
    found = remembered(home, mine)
    assert found.rows == {"prompts": 1}
    assert "constitutions/v1.yaml: a few-shot example has the same prompt" in found.elsewhere
    forget(home, found)
    assert Lake(home).snapshot("constitution", "v1").frame().equals(constitution)


def test_a_run_that_began_before_does_not_bring_it_back(mine: Home) -> None:
    """Its rows were staged, and its calls made, when the prompt was forgotten."""
    prompt = a_prompt(mine, "sft")
    lake = Lake(mine)
    staged = {name: lake.stage(name, "v1") for name in ("revision_rounds", "judgements")}
    for name, rows in staged.items():
        rows.add_frame(lake.snapshot(name, "v1").frame())
        rows.reject("somewhere", "bad: as if", {"prompt_id": prompt})
        rows.close()
    calls_of_prompt = "SELECT request_id, stage FROM calls WHERE prompt_id = :prompt"
    made = open_ledger(mine).read(calls_of_prompt, {"prompt": prompt})
    kept = lake.snapshot("revision_rounds", "v1").frame().filter(pl.col("prompt_id") != prompt)
    found = remembered(mine, prompt)
    forget(mine, found)
    for rows in staged.values():
        lake.commit(rows, Account("a run", lake.data_version(rows)))
    assert lake.snapshot("revision_rounds", "v1").frame().equals(kept)
    assert not lake.snapshot("judgements", "v1").frame()["pair_id"].is_in(list(found.pair_ids)).any()
    assert lake.rejected("revision_rounds", "v1").is_empty()
    query = "SELECT rows, rejected FROM lake.materializations WHERE table_name = 'revision_rounds' ORDER BY ALL"
    assert lake.select(f"{query} DESC", {}).height
    account = lake.select("FROM lake.materializations WHERE run_id = 'a run' AND table_name = 'revision_rounds'", {})
    assert account.select("rows", "rejected").row(0) == (kept.height, 0)

    ledger = open_ledger(mine)
    answer = Answer("an answer", "stop", 1, 1, 0.1)
    calls = [PaidCall(request, "model", Slot(stage, prompt), answer) for request, stage in made]
    other = PaidCall("f" * 64, "model", Slot("stage", "0" * 32), answer)
    assert ledger.put([*calls, other]) == set()
    assert ledger.calls_of(prompt) == 0
    assert ledger.calls_of("0" * 32) == 1
    assert examine(mine) == []


def examine(home: Home) -> list[str]:
    return [finding.text for finding in examine_integrity(home) if "removed for good" in finding.text]


def test_doctor_finds_a_forgotten_prompt_that_is_there_again(mine: Home) -> None:
    prompt = a_prompt(mine)
    add_forgotten_prompt(mine, prompt, [])
    assert examine(mine) == [f"prompt {prompt} was removed for good, and is there again"]


def test_the_snapshots_that_hold_it_are_those_in_which_it_can_be_read(mine: Home) -> None:
    prompt = a_prompt(mine)
    lake = Lake(mine)
    found = remembered(mine, prompt)

    def readable() -> list[int]:
        """By reading each table in each snapshot."""
        snapshots = lake.select("SELECT snapshot_id AS id FROM ducklake_snapshots('lake') ORDER BY id", {})["id"]
        return [one for one in snapshots if any(_reads(lake, table, one, prompt) for table in found.rows)]

    assert found.snapshots == readable()
    assert 0 not in found.snapshots
    forget(mine, found)
    again = remembered(mine, prompt)
    assert again.snapshots == found.snapshots == readable()
    assert not again.any_rows
    assert {one.checkpoint.key for one in again.checkpoints} == {one.checkpoint.key for one in found.checkpoints}
    said = CliRunner().invoke(app, ["forget", prompt, "--dry-run"]).stdout
    assert f"can still be read: {found.snapshots[0]} to {found.snapshots[-1]}." in said
    expire_snapshots(mine)
    assert remembered(mine, prompt).snapshots == []
    assert "No snapshot of the lake holds it." in CliRunner().invoke(app, ["forget", prompt, "--dry-run"]).stdout


def _reads(lake: Lake, table: str, snapshot: int, prompt: str) -> bool:
    column = "prompt_id" if "prompt_id" in TABLES[table].schema else None
    if column is None:
        return False
    query = f"SELECT 1 FROM lake.{table} AT (VERSION => {snapshot}) WHERE {column} = $prompt LIMIT 1"
    try:
        return lake.select(query, {"prompt": prompt}).height > 0
    except duckdb.Error:  # the table was not there yet
        return False


def test_a_prompt_that_only_older_snapshots_hold_can_be_forgotten(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "people.jsonl"
    for prompt in (SECRET, "another"):
        file.write_text(json.dumps({"prompt": prompt, "chosen": "good", "rejected": "bad"}) + "\n")
        materialize(["human_preferences"], {"human_preferences": {"sources": [str(file)]}})
        if prompt == SECRET:
            (secret,) = Lake(home).snapshot("human_preferences").frame()["prompt_id"]
    found = remembered(home, secret)
    assert not found.any_rows
    assert found.snapshots
    assert found.pair_ids
    forget(home, found)
    expire_snapshots(home)
    assert holders(home, SECRET) == []


def test_what_is_left_of_a_table_is_what_making_it_again_gives(home: Home, tmp_path: Path) -> None:
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", [SECRET, "another", "a third"])}
    materialize(["prompts", "initial_responses"], config)
    prompts = Lake(home).snapshot("prompts").frame()
    (secret,) = prompts.filter(pl.col("messages").list.last().struct.field("content") == SECRET)["prompt_id"]
    written = Lake(home).data_version_of(Lake(home).snapshot("prompts"))
    forget(home, remembered(home, secret))
    left = {name: Lake(home).data_version_of(Lake(home).snapshot(name)) for name in ("prompts", "initial_responses")}
    assert left["prompts"] != written
    materialize(["prompts", "initial_responses"], config)
    for name, version in left.items():
        assert Lake(home).data_version_of(Lake(home).snapshot(name)) == version


def test_checkpoints_that_saw_it_are_stale_until_they_are_made_again(mine: Home) -> None:
    prompt = a_prompt(mine, "preference")

    def stale() -> set[str]:
        status = read_status(mine, PROJECT / "constitutions", ["v2"])
        return {one.asset for one in status.assets if one.state == State.stale}

    assert stale() == set()
    forget(mine, remembered(mine, prompt))
    assert {"reward_model", "reward_model_evaluation"} <= stale()
    assert "initial_responses" not in stale()  # it lost the same rows as the prompts it is made of
    key = Lake(mine).snapshot("reward_model", "v2").frame()["checkpoint_key"].item()
    tables = {one.facts["table"]: one.facts for one in trace(mine, key).backwards.children if one.kind == "snapshot"}
    assert tables["preference_pairs"]["unchanged"] is False


def test_a_file_of_a_commit_that_died_goes_with_the_snapshots(mine: Home) -> None:
    orphan = mine.tables / "main" / "prompts" / "of-a-killed-run.parquet"
    file = io.BytesIO()
    pl.DataFrame({"text": [SECRET]}).write_parquet(file)
    orphan.write_bytes(file.getvalue())
    expire_snapshots(mine)
    assert not orphan.exists()


def test_numbers_are_said_in_short() -> None:
    assert ranges([3, 4, 5, 9, 11, 12]) == "3 to 5, 9, 11 to 12"
    assert ranges([7]) == "7"


def test_the_list_of_the_forgotten_is_of_hashes(mine: Home) -> None:
    first, second = a_prompt(mine, "sft"), a_prompt(mine, "preference")
    for prompt in (first, second, first):
        forget(mine, remembered(mine, prompt))
    assert forgotten_prompts(mine) == {first, second}
    assert re.fullmatch(r"([0-9a-f]{32}( [0-9a-f]{32})*\n){2}", mine.forgotten.read_text())


def test_what_is_no_prompt_is_refused(mine: Home) -> None:
    for unknown in ("0" * 32, "abcdef012345", "no-such", ""):
        with pytest.raises(ForgetError):
            remembered(mine, unknown)
    assert not mine.forgotten.exists()


def test_the_command_asks_and_a_dry_run_removes_nothing(mine: Home) -> None:
    prompt = a_prompt(mine)
    before = Lake(mine).snapshot("prompts").frame()
    refused = CliRunner().invoke(app, ["forget", prompt[:12]], input="n\n")
    assert refused.exit_code == 1
    shown = json.loads(CliRunner().invoke(app, ["forget", prompt, "--dry-run", "--json"]).stdout)
    assert shown["removed"] is False
    assert shown["rows"]["prompts"] == 1
    assert Lake(mine).snapshot("prompts").frame().equals(before)
    assert CliRunner().invoke(app, ["forget", prompt, "--json"]).exit_code == 2
    done = CliRunner().invoke(app, ["forget", prompt], input="y\n")
    assert done.exit_code == 0
    assert "--expire-snapshots" in done.stdout
    assert "prompts.jsonl:" in done.stdout
    assert prompt not in Lake(mine).snapshot("prompts").frame()["prompt_id"]
    told = json.loads(CliRunner().invoke(app, ["forget", prompt, "--yes", "--expire-snapshots", "--json"]).stdout)
    assert told["forgotten_before"]
    assert told["snapshots_expired"] > 0
