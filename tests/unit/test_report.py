"""What a report says is what the tables say; it is whole or as it was before, and small whatever the texts are."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from cai_dagster import report_facts
from cai_dagster.calibration import reliability
from cai_dagster.cli import app
from cai_dagster.home import PROJECT, Home
from cai_dagster.lake import Lake, LakeError
from cai_dagster.pages import PageError
from cai_dagster.report import report_path, write_report
from cai_dagster.report_charts import _safe, charts_of
from cai_dagster.report_facts import Facts, facts_of, thinned
from cai_dagster.snapshots import Account
from cai_dagster.tables import TABLES
from resources.lake import open_lake
from tests.hostile_lake import VERSION, hostile_row
from tests.scripted_graph import WITHOUT_TRAINING, materialize, metadata, pretend_trained, write_prompts

just = pytest.approx
LATER = ["response_pairs", "judgements", "preference_pairs"]
MOST_BYTES = 5_000_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose tables a scripted model has filled: 40 prompts of two categories, one of them set aside."""
    home = Home((tmp_path_factory.mktemp("report") / "home").resolve())
    folder = home.root.parent
    prompts = write_prompts(folder / "p.jsonl", [f"question {n}" for n in range(40)])
    lines = [json.loads(line) for line in Path(prompts["sources"][0]).read_text().splitlines()]
    for number, line in enumerate(lines):
        line["category"] = ("odd", "even")[number % 2]
    lines.append({"prompt": "null \0 byte", "category": "odd"})
    Path(prompts["sources"][0]).write_text("".join(json.dumps(line) + "\n" for line in lines))
    config: dict[str, Any] = {"prompts": prompts, "sft_dataset": {"min_rows": 1}, "revision_rounds": {"rounds": 2}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAI_HOME", str(home.root))
        materialize(WITHOUT_TRAINING, config)
        pretend_trained(home, folder / "checkpoint")
        materialize(LATER, config)
    return home


@pytest.fixture(scope="module")
def facts(made: Home) -> Facts:
    return facts_of(open_lake(made), VERSION)


def frame(home: Home, table: str) -> pl.DataFrame:
    return open_lake(home).snapshot(table, VERSION if TABLES[table].versioned else None).frame()


def fill(lake: Lake, table: str, rows: list[dict[str, Any]]) -> None:
    """Replace a table's rows by rows like the hostile ones, but for what is given."""
    staged = lake.stage(table, VERSION if TABLES[table].versioned else None)
    staged.add({**hostile_row(TABLES[table], number % 12), **row} for number, row in enumerate(rows))
    staged.close()
    assert not staged.rejected_count
    lake.commit(staged, Account("run", table))


def test_the_funnel_counts_rows_prompts_and_what_was_set_aside(made: Home, facts: Facts) -> None:
    for stage in facts.funnel:
        rows = frame(made, stage.table)
        assert stage.rows == rows.height
        assert stage.prompts == (rows["prompt_id"].n_unique() if "prompt_id" in rows.columns else None)
    assert {stage.table: dict(stage.rejected) for stage in facts.funnel if stage.rejected} == {
        "prompts": {"bad_prompt": 1}
    }
    assert [stage.table for stage in facts.funnel] == list(report_facts.FUNNEL)


def test_p_a_is_counted_by_order(made: Home, facts: Facts) -> None:
    assert facts.p_a is not None
    judged = frame(made, "judgements")
    for order, name in report_facts.ORDERS.items():
        expected = [0] * report_facts.BINS
        for row in judged.filter(pl.col("order") == order).iter_rows(named=True):
            p = 1 / (1 + math.exp(row["logp_b"] - row["logp_a"]))
            expected[int(p * report_facts.BINS)] += 1
        assert list(facts.p_a.counts[name]) == expected


def test_biases_are_those_of_the_judgements(made: Home, facts: Facts) -> None:
    assert facts.bias is not None
    judged = frame(made, "judgements")
    both = judged.group_by("pair_id", "principle_id").agg((pl.col("logp_a") > pl.col("logp_b")).alias("says_a"))
    same = [len(set(says)) == 1 for says in both["says_a"] if len(says) == 2]
    assert facts.bias.same_letter == sum(same) / len(same)
    mass = [math.exp(a) + math.exp(b) for a, b in judged.select("logp_a", "logp_b").iter_rows()]
    assert facts.bias.label_mass == just(sum(mass) / len(mass))
    assert facts.bias.judgements == judged.height == sum(row["judgements"] for row in facts.bias.by_principle)


def test_length_bias_is_measured_by_the_ratio_of_lengths(home: Home) -> None:
    lake = Lake(home)
    fill(lake, "constitution", [{}])
    lengths = [(10, 10), (105, 100), (100, 130), (100, 1_000), (90, 30)]
    ids = [f"{number + 1:032x}" for number in range(len(lengths))]
    texts = [{"completion_0": "x" * one, "completion_1": "y" * other} for one, other in lengths]
    fill(lake, "response_pairs", [{"pair_id": key, **pair} for key, pair in zip(ids, texts, strict=True)])
    sure = {"logp_a": math.log(0.75), "logp_b": math.log(0.25), "principle_id": "1" * 32}
    fill(lake, "judgements", [{"pair_id": key, "order": order, **sure} for key in ids for order in ("01", "10")])
    bias = facts_of(lake, VERSION).bias
    assert bias is not None
    assert bias.same_letter == 1  # always (A)
    assert bias.by_length == [(ratio, 1, just(0.5)) for ratio in (1.0, 1.25, 2.0, 4.0)]
    assert bias.longer_preferred == 0.5

    fill(lake, "judgements", [{"pair_id": key, "order": "01", **sure} for key in ids])
    bias = facts_of(lake, VERSION).bias
    assert bias is not None
    assert bias.same_letter is None
    assert bias.by_length == [(1.0, 1, just(0.75)), (1.25, 1, just(0.25)), (2.0, 1, just(0.75)), (4.0, 1, just(0.25))]
    assert bias.longer_preferred == 0.5


def test_a_judgement_in_which_neither_letter_is_possible_is_no_verdict(home: Home) -> None:
    lake = Lake(home)
    fill(lake, "constitution", [{}])
    fill(lake, "judgements", [{"logp_a": -math.inf, "logp_b": -math.inf}, {"logp_a": 0.0, "logp_b": -math.inf}])
    facts = facts_of(lake, VERSION)
    assert facts.p_a is not None
    assert sum(map(sum, facts.p_a.counts.values())) == 1
    assert facts.bias is not None
    assert facts.bias.judgements == 1


def test_pairs_without_a_label_are_counted_by_reason(home: Home) -> None:
    lake = Lake(home)
    fill(lake, "constitution", [{}])
    ids = [f"{number + 1:032x}" for number in range(4)]
    texts = [{"completion_0": "one", "completion_1": "one" if number == 0 else "two"} for number in range(4)]
    fill(lake, "response_pairs", [{"pair_id": key, **pair} for key, pair in zip(ids, texts, strict=True)])
    fill(lake, "judgements", [{"pair_id": key} for key in ids[2:]])
    fill(lake, "preference_pairs", [{"pair_id": ids[3]}])
    expected = {"identical texts": 1, "not judged": 1, "a tie, or orders that disagree": 1}
    assert facts_of(lake, VERSION).unlabelled == expected


def test_reliability_is_that_of_the_calibration(hostile_home: Home) -> None:
    lake = Lake(hostile_home)
    calibration = facts_of(lake, VERSION).calibration
    assert calibration is not None
    tables = ("calibration_judgements", "human_preferences")
    judged, humans = (lake.snapshot(name, VERSION if TABLES[name].versioned else None).frame() for name in tables)
    bins = [(one.confidence, one.agreement, one.share) for one in reliability(judged, humans)]
    assert [list(one) for one in calibration.reliability] == [just(list(one)) for one in bins]


def test_rewards_are_those_of_the_held_out_pairs_once_they_are_kept(home: Home) -> None:
    lake = Lake(home)
    fill(lake, "constitution", [{}])
    chosen, rejected = [0] * 19 + [3], [2] + [0] * 18 + [1]
    part = {"slice": "principle", "slice_value": "kind", "chosen_rewards": [9] * 20}
    kept = {"reward_low": -2.0, "reward_high": 6.0, "chosen_rewards": chosen, "rejected_rewards": rejected}
    fill(lake, "reward_model_evaluation", [part, {"slice": "all", "slice_value": None, **kept}])
    facts = facts_of(lake, VERSION)
    assert facts.rewards is not None
    assert facts.rewards.counts == {"chosen": chosen, "rejected": rejected}
    assert facts.rewards.edges[:2] == [-2.0, just(-1.6)]
    assert facts.rewards.edges[-1] == 6.0
    assert ["rejected", "-2 to -1.6", "2"] in charts_of(facts)["rewards"].rows

    older = dict.fromkeys(kept)
    fill(lake, "reward_model_evaluation", [{"slice": "all", "slice_value": None, **older}])
    assert facts_of(lake, VERSION).rewards is None


def test_dialogues_follow_a_response_through_its_revisions(made: Home, facts: Facts) -> None:
    rounds = frame(made, "revision_rounds").join(frame(made, "constitution"), on="principle_id")
    assert len(facts.dialogues) == facts.dialogues_of == 40
    for dialogue in facts.dialogues:
        rows = rounds.filter(pl.col("prompt_id") == dialogue.prompt_id).sort("round").to_dicts()
        assert dialogue.response == rows[0]["response"]
        assert [(one.number, one.principle, one.critique, one.before, one.after) for one in dialogue.rounds] == [
            (row["round"], row["slug"], row["critique"], row["response"], row["revision"]) for row in rows
        ]


def test_a_small_sample_has_every_principle_and_category_and_is_the_same_again(
    made: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = frame(made, "revision_rounds")
    drawn = rounds["principle_id"].n_unique()
    monkeypatch.setattr(report_facts, "MOST_DIALOGUES", drawn + 2)
    sample = facts_of(open_lake(made), VERSION)
    assert len(sample.dialogues) == drawn + 2 < sample.dialogues_of
    assert len({slug for dialogue in sample.dialogues for slug in dialogue.principles}) == drawn
    assert {dialogue.category for dialogue in sample.dialogues} == {"odd", "even"}
    again = facts_of(open_lake(made), VERSION)
    assert [one.prompt_id for one in sample.dialogues] == [one.prompt_id for one in again.dialogues]


def test_all_facts_are_of_one_snapshot_and_one_version(made: Home) -> None:
    lake = Lake(made)
    before = facts_of(lake, VERSION)
    tables = report_facts._Tables(lake, VERSION)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAI_HOME", str(made.root))
        materialize(["constitution", "revision_rounds"], {"revision_rounds": {"rounds": 1}}, version="v2")
    assert facts_of(lake, VERSION).funnel == before.funnel
    assert facts_of(lake, "v2").dialogues_of == 40
    assert report_facts._funnel(tables) == before.funnel
    assert facts_of(lake, VERSION).data_version == before.data_version != facts_of(lake, "v2").data_version


def test_what_has_not_been_made_is_named_with_how_to_make_it(home: Home, tmp_path: Path) -> None:
    lake = Lake(home)
    fill(lake, "constitution", [{}])
    page = write_report(lake, VERSION, tmp_path / "r.html").path.read_text()
    tables = ("judgements", "judge_calibration", "sl_cai_model", "reward_model", "policy_evaluation", "revision_rounds")
    for table in tables:
        assert f"key:{table}' --partition {VERSION}</code>" in page
    assert "key:prompts'</code>" in page  # it has no partitions
    assert "<svg" not in page


def test_a_version_that_was_never_materialized_has_no_report(made: Home, tmp_path: Path) -> None:
    for version in ("v9", "../../etc/passwd", ""):
        with pytest.raises(LakeError, match="has not been materialized"):
            write_report(Lake(made), version, tmp_path / "r.html")
    assert not list(tmp_path.glob("*.html"))


def test_a_report_is_small_whatever_the_texts_are(home: Home, tmp_path: Path) -> None:
    lake = Lake(home)
    long = "\x1b'\"&<" * 20_000
    count = 60
    ids = [f"{number + 1:032x}" for number in range(count)]
    requests = dict.fromkeys(report_facts.REQUESTS, long)
    fill(lake, "constitution", [{"principle_id": key, "slug": key, **requests} for key in ids])
    fill(lake, "prompts", [{"prompt_id": key, "messages": [{"role": "user", "content": long}] * 9} for key in ids])
    texts = {"response": long, "critique": long, "revision": f"{long} ", "sample": 0}
    rounds = [{"prompt_id": key, "principle_id": key, "round": number, **texts} for key in ids for number in (1, 2, 3)]
    fill(lake, "revision_rounds", rounds)
    turn = [{"role": "assistant", "content": long}]
    pair = {"prompt": [{"role": "user", "content": long}] * 9, "chosen": turn, "rejected": turn}
    fill(lake, "preference_pairs", [{"pair_id": key, "prompt_id": key, **pair} for key in ids])
    written = write_report(lake, VERSION, tmp_path / "r.html")
    assert written.bytes == written.path.stat().st_size < MOST_BYTES
    facts = written.facts
    assert 0 < len(facts.dialogues) < report_facts.MOST_DIALOGUES
    assert 0 < len(facts.pairs) < report_facts.MOST_PAIRS
    assert len(facts.principles) + facts.principles_left_out == count
    assert f"{facts.principles_left_out} of them are left out" in written.path.read_text()


def test_nothing_half_written_is_left(made: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.html"
    path.write_text("the one before")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(PageError, match="cannot be written: no;"):
            write_report(Lake(made), VERSION, path)
    assert path.read_text() == "the one before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_drawing_with_anything_but_shapes_and_text_is_refused(facts: Facts) -> None:
    for svg in (
        '<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg"><g onload="x"/></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"><g xlink:href="x"/></svg>',
    ):
        with pytest.raises(ValueError, match="a chart has an element"):
            _safe(svg)
    assert {"funnel", "p_a", "p_chosen", "tokens"} <= set(charts_of(facts))


@pytest.mark.parametrize("length", [0, 1, 2, 299, 300, 301, 10_000])
def test_a_thinned_curve_keeps_its_ends(length: int) -> None:
    curve = [(number, float(number)) for number in range(length)]
    kept = thinned(curve)
    assert len(kept) <= report_facts.MOST_POINTS + 1
    assert kept[:1] == curve[:1]
    assert kept[-1:] == curve[-1:]
    assert sorted(set(kept)) == kept


def test_the_asset_writes_it_and_says_where(made: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_HOME", str(made.root))
    result = materialize(["report"], {})
    shown = metadata(result, "report")
    path = Path(shown["path"])
    assert path == report_path(made, VERSION)
    assert path.stat().st_size == shown["bytes"]
    assert "| prompts | 40 |" in shown["at_a_glance"]
    (event,) = result.asset_materializations_for_node("report")
    assert event.tags["dagster/data_version"] == facts_of(open_lake(made), VERSION).data_version


def test_the_asset_of_a_version_without_tables_fails_plainly(home: Home) -> None:
    result = materialize(["report"], {}, raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "constitution has not been materialized" in str(failure.step_failure_data.user_failure_data)


def test_the_command_writes_where_it_is_told(made: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_HOME", str(made.root))
    said = CliRunner().invoke(app, ["report", VERSION, "--output", str(tmp_path / "in" / "r.html"), "--json"])
    assert said.exit_code == 0
    document = json.loads(said.output)
    assert document["path"] == str(tmp_path / "in" / "r.html")
    assert document["bytes"] == (tmp_path / "in" / "r.html").stat().st_size
    assert set(document) == {"path", "bytes", "snapshot_id"}
    assert str(report_path(made, VERSION)) in CliRunner().invoke(app, ["report"]).output


def test_a_report_imports_neither_dagster_nor_a_model(made: Home, tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from cai_dagster.home import Home
from cai_dagster.lake import Lake
from cai_dagster.report import write_report
write_report(Lake(Home(Path({str(made.root)!r}))), "v1", Path({str(tmp_path / "r.html")!r}))
print(sorted({{"dagster", "torch", "transformers", "vllm", "matplotlib"}} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
