"""A trace leads from any id back to the prompt's file and forward to every checkpoint, and what it shows is text."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from cai_dagster.calls.ledger import open_ledger
from cai_dagster.commands.cli import app
from cai_dagster.explain.nodes import Node, Trace, TraceError
from cai_dagster.explain.row_lineage import RowLineage
from cai_dagster.explain.rows import RowFilter
from cai_dagster.explain.trace import trace
from cai_dagster.home import Home
from cai_dagster.lake.connection import LakeError
from cai_dagster.lake.reader import LakeReader
from cai_dagster.lake.snapshots import Account
from cai_dagster.project import PROJECT
from cai_dagster.tables.registry import TABLES, made_by, tables_with_calls_of
from cai_dagster.tables.table import Maker
from cai_dagster.upkeep.forget import forget, remembered
from resources.lake import open_lake
from tests.explained_home import copied
from tests.hostile import HOSTILE
from tests.scripted_graph import WITHOUT_TRAINING, materialize, pretend_trained, write_prompts

pytestmark = pytest.mark.usefixtures("explained")


@pytest.fixture(autouse=True)
def environment(explained: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_HOME", str(explained.root))


def table(home: Home, name: str, version: str | None = "v1") -> pl.DataFrame:
    return open_lake(home).snapshot(name, version).frame()


def nodes(node: Node, kind: str) -> list[Node]:
    """All nodes of a kind below a node, and itself."""
    return [one for one in _below(node) if one.kind == kind]


def _below(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _below(child)


def saw(found: Trace) -> dict[tuple[str, str], int]:
    """(asset, version) of each checkpoint → how many of its training rows."""
    assert found.checkpoints is not None
    return {(one.checkpoint.asset, one.checkpoint.constitution_version): one.training_rows for one in found.checkpoints}


def rows_of(found: Trace) -> dict[tuple[str, str | None], int]:
    return {(count.table, count.constitution_version): count.rows for count in found.rows}


def prompt_of(home: Home, split: str) -> str:
    return table(home, "prompts", None).filter(pl.col("split") == split)["prompt_id"][0]


def test_a_pair_leads_back_to_judgements_responses_requests_and_the_line_of_a_file(explained: Home) -> None:
    pair = table(explained, "response_pairs", "v2").row(0, named=True)
    judged = table(explained, "judgements", "v2").filter(pl.col("pair_id") == pair["pair_id"])
    principle = table(explained, "constitution", "v2").filter(pl.col("principle_id") == judged["principle_id"][0])
    found = trace(explained, pair["pair_id"], "v2")
    assert found.kind == "pair"
    assert found.backwards.texts == {name: pair[name] for name in ("completion_0", "completion_1")}
    judgements = nodes(found.backwards, "judgement")
    assert [node.facts["order"] for node in judgements] == ["01", "10"]
    for node, row in zip(judgements, judged.sort("order").iter_rows(named=True), strict=True):
        assert node.facts["p_a"] == pytest.approx(pl.select(pl.lit(row["logp_a"]).exp()).item())
        assert node.facts["principles"] == principle["slug"].to_list()
        assert list(node.texts.values()) == principle["comparison_request"].to_list()
        assert [call.id for call in node.children] == [row["request_id"]]
        assert node.children[0].facts["stage"] == "judgements"
    (prompt,) = nodes(found.backwards, "prompt")
    assert re.fullmatch(r"prompts\.jsonl:\d+", prompt.facts["source"])
    (first,) = nodes(found.backwards, "first response")
    response = table(explained, "initial_responses", None).filter(pl.col("prompt_id") == pair["prompt_id"])
    assert first.texts["completion"] == response["completion"][0]
    calls = nodes(found.backwards, "request")
    assert all(call.facts["in_ledger"] and call.facts["completion_tokens"] > 0 for call in calls)
    assert {pair["request_id_0"], pair["request_id_1"], response["request_id"][0]} <= {call.id for call in calls}
    snapshots = [node.facts["snapshot"] for node in _below(found.backwards) if "snapshot" in node.facts]
    assert all(snapshot > 0 for snapshot in snapshots)


def test_the_last_written_version_is_told_of_unless_another_is_asked_for(explained: Home) -> None:
    shared = set(table(explained, "revision_rounds", "v1")["prompt_id"])
    prompt = min(shared & set(table(explained, "revision_rounds", "v2")["prompt_id"]))
    assert trace(explained, prompt).constitution_version == "v1"  # its pairs were labelled anew after v2 was made
    assert set(trace(explained, prompt).versions) == {"v1", "v2"}
    rounds = nodes(trace(explained, prompt, "v2").backwards, "revision round")
    assert [node.facts["round"] for node in rounds] == [1, 2]
    assert {node.facts["constitution_version"] for node in rounds} == {"v2"}
    with pytest.raises(TraceError, match=r"no rows in constitution version 'v3'.*v2"):
        trace(explained, prompt, "v3")


def test_a_prompts_rows_are_counted_in_every_table_and_version(explained: Home) -> None:
    prompt = prompt_of(explained, "evaluation")
    counted = rows_of(trace(explained, prompt))
    pairs = {version: table(explained, "response_pairs", version) for version in ("v1", "v2")}
    for version, frame in pairs.items():
        mine = frame.filter(pl.col("prompt_id") == prompt)
        judged = table(explained, "judgements", version)
        assert counted["response_pairs", version] == mine.height > 0
        assert (
            counted["judgements", version] == judged.filter(pl.col("pair_id").is_in(mine["pair_id"].implode())).height
        )
    assert counted["prompts", None] == 1
    assert counted["policy_judgements", "v1"] > 0
    assert ("policy_judgements", "v2") not in counted


@pytest.mark.parametrize("split", ["sft", "preference", "evaluation"])
def test_a_prompt_leads_forward_to_the_checkpoints_that_were_trained_on_it(explained: Home, split: str) -> None:
    trained = saw(trace(explained, prompt_of(explained, split)))
    direct = {name for name, rows in trained.items() if rows}
    by_split = {
        "sft": {("sl_cai_model", "v1"), ("sl_cai_model", "v2"), ("teacher_sft_model", "v1")},
        "preference": {("reward_model", "v1"), ("reward_model", "v2"), ("dpo_model", "v1"), ("rlaif_model", "v1")},
        "evaluation": set(),
    }
    assert direct == by_split[split]
    made_from = {name for name, rows in trained.items() if not rows}
    later = {("reward_model", "v1"), ("reward_model", "v2"), ("dpo_model", "v1"), ("rlaif_model", "v1")}
    assert made_from == (later if split == "sft" else set())


def test_counts_of_training_rows_are_those_of_the_records(explained: Home) -> None:
    lineage = RowLineage(LakeReader(explained), explained)
    assert {checkpoint.asset for checkpoint in lineage.checkpoints} == set(made_by(Maker.training))
    for checkpoint in lineage.checkpoints:
        counted = sum(lineage.read(checkpoint, rows, "count(*) AS n")[0][0]["n"] for rows in checkpoint.rows)
        assert counted == checkpoint.record["row_counts"]["trained"], checkpoint.asset


def test_training_rows_are_those_of_the_snapshot_and_not_those_of_today(explained: Home) -> None:
    model = json.loads(table(explained, "reward_model")["record"][0])
    found = trace(explained, model["checkpoint_key"], examples=50)
    (labelled, by_people) = nodes(found.backwards, "training rows")
    assert labelled.facts["rows"] + by_people.facts["rows"] == model["row_counts"]["trained"]
    assert {node.facts["label_policy"] for node in nodes(labelled, "label")} == {"soft/mean"}
    assert set(table(explained, "preference_pairs")["label_policy"]) == {"hard/mean"}
    assert f"AT (VERSION => {model['lake_snapshots']['preference_pairs']})" in labelled.facts["sql"]
    assert open_lake(explained).select(labelled.facts["sql"], {}).height == labelled.facts["rows"]
    changed = {node.facts["table"]: node.facts["unchanged"] for node in nodes(found.backwards, "snapshot")}
    assert changed == {"preference_pairs": False, "human_preferences": True, "sl_cai_model": True}
    (base,) = nodes(found.backwards, "base model")
    assert base.id == table(explained, "sl_cai_model")["checkpoint_key"][0]
    assert saw(found) == {("rlaif_model", "v1"): 0}


def test_what_checkpoints_saw_is_the_same_in_one_query_as_snapshot_by_snapshot(
    explained: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version v1 was labelled anew before; here v2 is as well, twice, and a prompt of v1 is forgotten."""
    home = copied(explained, tmp_path / "copy")
    lake = open_lake(home)
    for drop in (3, 0):
        labelled = table(home, "preference_pairs", "v2")
        staged = lake.stage("preference_pairs", "v2")
        staged.add_frame(labelled.slice(drop).with_columns(pl.lit(f"anew {drop}").alias("label_policy")))
        staged.close()
        lake.commit(staged, Account("anew", lake.data_version(staged)))
    reader = LakeReader(home)
    lineage = RowLineage(reader, home)
    prompts = table(home, "prompts", None)["prompt_id"].to_list()
    pairs = table(explained, "preference_pairs")["pair_id"].to_list()
    principles = table(home, "constitution")["principle_id"].to_list()
    filters = [*map(lineage.of_prompt, prompts), *(RowFilter("pair", (one,)) for one in pairs)]
    filters += [lineage.of_principles([one]) for one in principles]
    at_once = [lineage.that_saw(one) for one in filters]
    monkeypatch.setattr(RowLineage, "_is_in_history", lambda *_: False)
    assert at_once == [RowLineage(reader, home).that_saw(one) for one in filters]
    assert any(one.checkpoint.constitution_version == "v2" for found in at_once for one in found)

    forgotten = prompt_of(home, "preference")
    before = {one.checkpoint.key for one in lineage.that_saw(lineage.of_prompt(forgotten))}
    reader.close()
    monkeypatch.undo()
    forget(home, remembered(home, forgotten))
    lineage = RowLineage(LakeReader(home), home)
    assert {one.checkpoint.key for one in lineage.that_saw(lineage.of_prompt(forgotten))} == before


@pytest.mark.parametrize("samples", [1, 2])
def test_a_principle_leads_to_pairs_of_its_revisions_and_what_was_trained_on_them(
    home: Home, tmp_path: Path, samples: int
) -> None:
    config = {
        "prompts": write_prompts(tmp_path / "p.jsonl", [f"question {n}" for n in range(30)]),
        "initial_responses": {"samples": samples},
        "revision_rounds": {"rounds": 2},
        "sft_dataset": {"min_rows": 1},
        "response_pairs": {"source": "revisions"},
    }
    materialize(WITHOUT_TRAINING, config)
    pretend_trained(home, tmp_path / "checkpoint")
    materialize(["response_pairs", "judgements", "preference_pairs"], config)
    rounds, pairs = table(home, "revision_rounds"), table(home, "response_pairs")
    last = rounds.filter(pl.col("round") == 2).select("prompt_id", "sample", request_id_1="revision_request_id")
    written = rounds.join(last.join(pairs, on=["prompt_id", "request_id_1"]), on=["prompt_id", "sample"])
    judged = table(home, "judgements").join(pairs.select("pair_id"), on="pair_id")
    labelled = table(home, "preference_pairs")["pair_id"]
    for principle in rounds["principle_id"].unique():
        mine = written.filter(pl.col("principle_id") == principle)["pair_id"].unique()
        under = judged.filter(pl.col("principle_id") == principle)["pair_id"].unique()
        counted = rows_of(trace(home, principle))
        assert counted.get(("response_pairs", "v1"), 0) == len(mine)
        assert counted.get(("preference_pairs", "v1"), 0) == len(set(labelled) & {*mine, *under})
    assert written.height > 0


def test_a_prompt_that_is_in_another_table_only_is_traced_and_a_forgotten_one_is_said_to_be(
    explained: Home, tmp_path: Path
) -> None:
    person = table(explained, "human_preferences", None)["prompt_id"][0]
    for identifier in (person, person[:12]):
        assert trace(explained, identifier).id == person
    assert rows_of(trace(explained, person))["human_preferences", None] == 1
    home = copied(explained, tmp_path / "copy")
    open_lake(home).delete({"prompts": f"prompt_id = '{prompt_of(home, 'sft')}'"})
    assert rows_of(trace(home, prompt_of(explained, "sft")))["revision_rounds", "v1"] > 0
    forgotten = prompt_of(explained, "preference")
    forget(home, remembered(home, forgotten))
    with pytest.raises(TraceError, match="was removed for good"):
        trace(home, forgotten)


def test_a_table_written_again_with_the_same_rows_is_unchanged(home: Home, tmp_path: Path) -> None:
    written: list[int] = []
    for texts in (["one", "two"], ["one", "two"], ["one", "two", "three"]):
        materialize(["prompts"], {"prompts": write_prompts(tmp_path / "p.jsonl", texts)})
        written.append(RowLineage(LakeReader(home), home).written["prompts", None])
    first, same, other = written
    assert first == same < other


def test_a_supervised_example_is_followed_through_its_rounds(explained: Home) -> None:
    key = table(explained, "sl_cai_model")["checkpoint_key"][0]
    (example,) = nodes(trace(explained, key).backwards, "example")
    row = table(explained, "sft_dataset").row(0, named=True)
    assert example.facts == {name: row[name] for name in ("prompt_id", "sample", "round")}
    rounds = nodes(example, "revision round")
    assert [node.facts["round"] for node in rounds] == list(range(1, row["round"] + 1))
    assert rounds[-1].texts["revision"] == row["messages"][-1]["content"]


def test_a_principle_leads_to_its_rows_and_to_checkpoints(explained: Home) -> None:
    rounds = table(explained, "revision_rounds")
    trained = table(explained, "sft_dataset").join(rounds, on=["prompt_id", "sample"])
    principle = trained["principle_id"][0]
    slug = table(explained, "constitution").filter(pl.col("principle_id") == principle)["slug"][0]
    by_id, by_slug = trace(explained, principle), trace(explained, slug)
    for found in (by_id, by_slug):
        assert rows_of(found)["revision_rounds", "v1"] == rounds.filter(pl.col("principle_id") == principle).height
        examples = trained.filter((pl.col("principle_id") == principle) & (pl.col("round_right") <= pl.col("round")))
        assert rows_of(found)["sft_dataset", "v1"] == examples.unique(["prompt_id", "sample", "round"]).height
        assert saw(found)["sl_cai_model", "v1"] == rows_of(found)["sft_dataset", "v1"]
    assert by_id.backwards.texts["critique_request"]
    of_v2 = trace(explained, slug, "v2")
    assert rows_of(of_v2).keys() == {one for one in rows_of(by_slug) if one[1] == "v2"}
    assert {version for _, version in saw(of_v2)} <= {"v2"}


def test_a_request_leads_to_the_rows_that_hold_its_answer(explained: Home) -> None:
    row = table(explained, "revision_rounds").row(0, named=True)
    found = trace(explained, row["revision_request_id"])
    assert found.kind == "request"
    assert found.backwards.texts == {"answer": row["revision"]}
    assert found.backwards.facts["stage"] == "revision_rounds/revision"
    assert rows_of(found)["revision_rounds", "v1"] == 1
    assert [node.id for node in nodes(found.backwards, "prompt")] == [row["prompt_id"]]


def test_a_sampled_pair_leads_back_to_the_checkpoint_that_wrote_it(explained: Home) -> None:
    (key,) = table(explained, "sl_cai_model", "v2")["checkpoint_key"]
    pair = table(explained, "response_pairs", "v2").row(0, named=True)
    for identifier in (pair["pair_id"], pair["request_id_0"]):
        policies = nodes(trace(explained, identifier, "v2").backwards, "policy")
        assert {node.id for node in policies} == {key}
        assert {node.facts["asset"] for node in policies} == {"sl_cai_model"}


@pytest.mark.parametrize("name", ["human_preferences", "policy_judgements"])
def test_pairs_of_people_and_of_policies_are_traced_too(explained: Home, name: str) -> None:
    rows = table(explained, name, None if name == "human_preferences" else "v1")
    pair = rows.filter(~pl.col("pair_id").is_in(table(explained, "response_pairs")["pair_id"].implode())).row(
        0, named=True
    )
    found = trace(explained, pair["pair_id"])
    assert nodes(found.backwards, "judgement")
    assert [node.id for node in nodes(found.backwards, "prompt")] == [pair["prompt_id"]]


def test_the_first_digits_are_enough_and_too_few_are_named(explained: Home) -> None:
    ids = table(explained, "prompts", None)["prompt_id"].to_list()
    assert trace(explained, ids[0][:12]).id == ids[0]
    with pytest.raises(TraceError, match="too short"):
        trace(explained, ids[0][:2])
    for unknown in ("0" * 32, "0" * 64, "f" * 80, "no-such-slug", "", "'; DROP TABLE prompts; --"):
        with pytest.raises(TraceError, match="nothing in this home has the id"):
            trace(explained, unknown)
    slugs = sorted(table(explained, "constitution")["slug"])
    letter = next(slug[0] for slug in slugs if sum(other[0] == slug[0] for other in slugs) > 1)
    with pytest.raises(TraceError, match="is the beginning of several ids: principle "):
        trace(explained, letter)


def test_an_expired_snapshot_is_said_and_the_rows_of_today_are_shown(explained: Home, tmp_path: Path) -> None:
    home = copied(explained, tmp_path / "copy")
    lake = open_lake(home)
    current = lake.snapshot("prompts").snapshot_id
    everything_before = f"versions => [{', '.join(str(number) for number in range(current))}]"
    lake.select(f"FROM ducklake_expire_snapshots('lake', {everything_before})", {})
    key = table(home, "reward_model")["checkpoint_key"][0]
    found = trace(home, key)
    (labelled, _) = nodes(found.backwards, "training rows")
    assert not labelled.facts["exact"]
    assert {node.facts["label_policy"] for node in nodes(labelled, "label")} == {"hard/mean"}
    pair = table(home, "preference_pairs").filter(pl.col("split") == "preference")["pair_id"][0]
    (reward_model,) = [one for one in trace(home, pair).checkpoints or () if one.checkpoint.key == key]
    assert not reward_model.exact


def test_every_row_that_names_a_call_is_in_a_table_that_is_searched_for_its_stage(explained: Home) -> None:
    stages = {
        row.request_id: row.stage for row in open_ledger(explained).read("SELECT request_id, stage FROM calls", {})
    }
    reader = LakeReader(explained)
    filled = RowLineage(reader, explained).filled
    seen: set[tuple[str, str]] = set()
    for name in filled:
        for column in TABLES[name].call_columns:
            values = f"unnest({column})" if column.endswith("s") else column
            for row in reader.rows(f"SELECT DISTINCT {values} AS request_id FROM lake.{name}"):
                if row["request_id"] in stages:
                    assert name in tables_with_calls_of(stages[row["request_id"]]), (column, stages[row["request_id"]])
                    seen.add((name, stages[row["request_id"]]))
    assert {name for name, _ in seen} >= {"revision_rounds", "response_pairs", "judgements", "policy_responses"}
    assert tables_with_calls_of("a stage of another version") == [
        name for name, one in TABLES.items() if one.call_columns
    ]


def test_a_home_without_a_lake_says_so(home: Home) -> None:
    with pytest.raises(LakeError, match="nothing has been materialized"):
        trace(home, "abcd")


def test_a_call_that_is_made_again_says_why(explained: Home, tmp_path: Path) -> None:
    home = copied(explained, tmp_path / "copy")
    row = table(home, "initial_responses", None).row(0, named=True)
    open_ledger(home).retry([row["request_id"]], "length")
    assert trace(home, row["request_id"]).backwards.facts["retried_for"] == "length"


def test_a_checkpoint_whose_record_names_no_snapshot_has_no_known_rows(home: Home, tmp_path: Path) -> None:
    pretend_trained(home, tmp_path / "checkpoint")
    lineage = RowLineage(LakeReader(home), home)
    assert [checkpoint.rows for checkpoint in lineage.checkpoints] == [[]]


def test_the_tree_shows_every_text_as_text(explained: Home) -> None:
    prompts = table(explained, "prompts", None)
    hostile = [row["prompt_id"] for row in prompts.iter_rows(named=True) if row["messages"][-1]["content"] in HOSTILE]
    assert len(hostile) == len(HOSTILE) - 1
    for prompt in hostile:
        finished = CliRunner().invoke(app, ["trace", prompt, "--full"])
        assert finished.exit_code == 0
        assert not {character for character in finished.stdout if not character.isprintable() and character != "\n"}


def test_nothing_is_imported_that_takes_longer_than_to_answer(explained: Home) -> None:
    pair = table(explained, "response_pairs")["pair_id"][0]
    program = f"""
import contextlib, io, json, sys
from cai_dagster.commands.cli import app
with contextlib.redirect_stdout(io.StringIO()):
    app(["trace", "{pair}", "--json"], standalone_mode=False)
print(json.dumps(sorted(sys.modules)))
"""
    finished = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(finished.stdout))
    heavy = {"dagster", "pydantic", "yaml", "polars", "pandera", "pyarrow", "numpy", "sqlalchemy", "tenacity", "torch"}
    assert "duckdb" in loaded
    assert loaded.isdisjoint(heavy)


def test_json_is_one_document_with_the_whole_texts(explained: Home) -> None:
    pair = table(explained, "response_pairs").row(0, named=True)
    finished = CliRunner().invoke(app, ["trace", pair["pair_id"], "--version", "v1", "--json"])
    told = json.loads(finished.stdout)
    assert told.keys() == {"kind", "id", "constitution_version", "versions", "backwards", "forwards"}
    assert told["backwards"].keys() == {"kind", "id", "facts", "texts", "children"}
    assert told["backwards"]["texts"]["completion_1"] == pair["completion_1"]
    assert told["forwards"]["rows"][0].keys() == {"table", "constitution_version", "rows", "snapshot", "example"}
    checkpoints = {"asset", "checkpoint_key", "constitution_version", "in_use_for", "training_rows", "exact", "through"}
    assert all(one.keys() == checkpoints for one in told["forwards"]["checkpoints"])
