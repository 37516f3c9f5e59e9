"""What a report says is what the tables say; it is whole or as it was before, and small whatever the texts are."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from cai_dagster.commands.cli import app
from cai_dagster.constitution.constitution import load_constitution
from cai_dagster.evaluation.calibration import reliability
from cai_dagster.home import Home
from cai_dagster.lake.connection import LakeError
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.snapshots import Account
from cai_dagster.pages.html import PageError
from cai_dagster.pages.svg_charts import _safe
from cai_dagster.project import PROJECT
from cai_dagster.report import examples as report_examples
from cai_dagster.report import facts as report_facts
from cai_dagster.report import histograms
from cai_dagster.report import page as report
from cai_dagster.report.charts import charts_of
from cai_dagster.report.facts import Facts, facts_of, thinned
from cai_dagster.report.page import report_path, write_report
from cai_dagster.report.tables import ReportTables
from cai_dagster.tables.registry import TABLES
from resources.lake import open_lake
from tests.hostile import LOOPING
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
        "prompts": {"bad_dialogue": 1}
    }
    assert [stage.table for stage in facts.funnel] == list(report_facts.FUNNEL)


def test_p_a_is_counted_by_order(made: Home, facts: Facts) -> None:
    assert facts.p_a is not None
    judged = frame(made, "judgements")
    for order, name in histograms.ORDERS.items():
        expected = [0] * histograms.BINS
        for row in judged.filter(pl.col("order") == order).iter_rows(named=True):
            p = 1 / (1 + math.exp(row["logp_b"] - row["logp_a"]))
            expected[int(p * histograms.BINS)] += 1
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
    monkeypatch.setattr(report_examples, "MOST_DIALOGUES", drawn + 2)
    sample = facts_of(open_lake(made), VERSION)
    assert len(sample.dialogues) == drawn + 2 < sample.dialogues_of
    assert len({slug for dialogue in sample.dialogues for slug in dialogue.principles}) == drawn
    assert {dialogue.category for dialogue in sample.dialogues} == {"odd", "even"}
    again = facts_of(open_lake(made), VERSION)
    assert [one.prompt_id for one in sample.dialogues] == [one.prompt_id for one in again.dialogues]


def test_all_facts_are_of_one_snapshot_and_one_version(made: Home) -> None:
    lake = Lake(made)
    before = facts_of(lake, VERSION)
    tables = ReportTables(lake, VERSION)
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
    written = ("prompts", "judgements", "revision_rounds", "judge_calibration", "policy_evaluation")
    for table in (*written, "sl_cai_model", "reward_model"):
        assert f"<code>cai run --only {table} --version {VERSION}</code>" in page
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
    requests = dict.fromkeys(report_examples.REQUESTS, long)
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
    page = written.path.read_text()
    assert 0 < page.count('<article class="panel" data-') < report_examples.MOST_DIALOGUES
    assert 0 < page.count('<article class="panel">') < report_examples.MOST_PAIRS
    principles = page.count('<details class="principle">')
    assert 0 < principles < count == len(written.facts.principles)
    assert f"{count - principles} of them are left out" in page


EVERY_OTHER = [" ".join(f"{chr(0x4E00 + n)} {letters[n % 3]}" for n in range(600)) for letters in ("abc", "xyz")]


@pytest.mark.parametrize(("before", "after"), [EVERY_OTHER, *LOOPING])
def test_a_report_is_small_however_much_a_revision_changes(home: Home, tmp_path: Path, before: str, after: str) -> None:
    """Each changed word has markup of its own, four times as long as the word."""
    lake = Lake(home)
    ids = [f"{number + 1:032x}" for number in range(40)]
    fill(lake, "constitution", [{"principle_id": ids[0], "slug": "p"}])
    fill(lake, "prompts", [{"prompt_id": key, "messages": [{"role": "user", "content": "q"}]} for key in ids])
    texts = {"response": before, "critique": "c", "revision": after, "sample": 0, "principle_id": ids[0]}
    rounds = 16 if (before, after) == tuple(EVERY_OTHER) else 1
    fill(lake, "revision_rounds", [{"prompt_id": k, "round": n + 1, **texts} for k in ids for n in range(rounds)])
    written = write_report(lake, VERSION, tmp_path / "r.html")
    assert written.bytes < MOST_BYTES
    shown = written.path.read_text().count("data-principles=")
    assert (0 < shown < 40) if rounds > 1 else (shown == 40)


def written_page(lake: Lake, tmp_path: Path) -> str:
    return write_report(lake, VERSION, tmp_path / "r.html").path.read_text()


def test_a_round_whose_principle_was_edited_since_stays_what_it_was(home: Home, tmp_path: Path) -> None:
    lake = Lake(home)
    old, now, prompt = "1" * 32, "2" * 32, "3" * 32
    fill(lake, "constitution", [{"principle_id": now, "slug": "kindness"}])
    fill(lake, "prompts", [{"prompt_id": prompt, "messages": [{"role": "user", "content": "q"}]}])
    rounds = [(1, old, "y0", "y1"), (2, now, "y1", "y2")]
    fill(
        lake,
        "revision_rounds",
        [
            {"prompt_id": prompt, "sample": 0, "round": n, "principle_id": principle, "response": y, "revision": z}
            for n, principle, y, z in rounds
        ],
    )
    (dialogue,) = facts_of(lake, VERSION).dialogues
    assert dialogue.response == "y0"
    assert [(one.number, one.principle, one.after) for one in dialogue.rounds] == [
        (1, "(an earlier wording, 11111111)", "y1"),
        (2, "kindness", "y2"),
    ]
    fill(lake, "constitution", [{"principle_id": "4" * 32, "slug": "honesty"}])
    page = written_page(lake, tmp_path)
    assert "the table has no rows" not in page
    assert page.count("<h4>Round") == 2
    assert "1 of 1, drawn" in page


def test_a_dialogue_whose_prompt_is_gone_is_still_shown(home: Home, tmp_path: Path) -> None:
    lake = Lake(home)
    fill(lake, "constitution", [{}])
    fill(lake, "prompts", [{"prompt_id": "a" * 32}])
    fill(lake, "revision_rounds", [{"prompt_id": "b" * 32, "round": 1, "sample": 0}])
    assert "its prompt is no longer in the table prompts" in written_page(lake, tmp_path)


def test_dialogues_that_do_not_fit_are_not_said_to_be_none(
    made: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "DIALOGUES_BYTES", 10)
    assert "None of the 40 is shown" in written_page(open_lake(made), tmp_path)


def test_a_table_of_revisions_without_rows_is_said_to_be_empty(home: Home, tmp_path: Path) -> None:
    lake = Lake(home)
    fill(lake, "constitution", [{}])
    fill(lake, "prompts", [{}])
    fill(lake, "revision_rounds", [])
    assert "the table has no rows" in written_page(lake, tmp_path)


def test_only_judgements_under_several_principles_are_called_so(home: Home) -> None:
    lake = Lake(home)
    fill(lake, "constitution", [{"principle_id": "1" * 32, "slug": "kindness"}])
    asked = {"1" * 32: ["1" * 32], "2" * 32: ["2" * 32], "3" * 32: ["1" * 32, "2" * 32], "4" * 32: ["1" * 32, "4" * 32]}
    said = {"logp_a": -0.4, "logp_b": -1.2}
    rows = [{"principle_id": key, "principle_ids": several, **said} for key, several in asked.items()]
    fill(lake, "judgements", rows)
    bias = facts_of(lake, VERSION).bias
    assert bias is not None
    assert {row["slug"]: row["judgements"] for row in bias.by_principle} == {
        "several together": 2,
        "kindness": 1,
        "(an earlier wording, 22222222)": 1,
    }


def test_what_is_out_of_date_or_refused_is_named_at_the_top_and_where_it_is_shown(home: Home, tmp_path: Path) -> None:
    lake = Lake(home)
    fill(lake, "constitution", load_constitution(PROJECT / "constitutions" / f"{VERSION}.yaml").to_rows())
    fill(lake, "prompts", [{}])
    fill(lake, "initial_responses", [{}])
    fill(lake, "revision_rounds", [{}])
    assert "Out of date" not in written_page(lake, tmp_path)
    check = {"table_name": "constitution", "constitution_version": VERSION, "check_name": "coverage", "run_id": "r"}
    found = {"passed": False, "severity": "ERROR", "value": 0.1, "bounds": "at least 0.9", "rows": 1}
    moment = {"checked_at": datetime(2026, 1, 1)}  # noqa: DTZ001 - as stored
    lake.append("check_results", {**check, **found, **moment, "data_version": "constitution"})
    changed = lake.stage("prompts", None)
    changed.add([{**hostile_row(TABLES["prompts"], 3), "split": "evaluation"}])
    changed.close()
    lake.commit(changed, Account("another run", "others"))

    facts = facts_of(lake, VERSION)
    assert {name: one.because for name, one in facts.suspect.items()} == {
        "constitution": "check coverage failed",
        "initial_responses": "prompts changed since",
        "revision_rounds": "prompts changed since",
    }
    top, below = written_page(lake, tmp_path).split('<dl class="figures">')
    assert "<li><code>revision_rounds</code>: prompts changed since</li>" in top
    rows = below[below.index('id="rows"') : below.index('id="checks"')]
    dialogues = below[below.index('id="dialogues"') :]
    assert "Refused by a check:</strong> <code>constitution</code>: check coverage failed" in below
    for section in (rows, dialogues):
        assert "Out of date:</strong> <code>revision_rounds</code>: prompts changed since" in section


def test_a_constitution_whose_file_changed_since_is_out_of_date(home: Home, tmp_path: Path) -> None:
    lake = Lake(home)
    fill(lake, "constitution", [{}])
    (tmp_path / f"{VERSION}.yaml").write_text((PROJECT / "constitutions" / "v2.yaml").read_text())
    (constitution,) = facts_of(lake, VERSION, tmp_path).suspect.values()
    assert constitution.because == "v1.yaml changed since"


def test_a_check_of_rows_that_were_replaced_since_is_not_counted_as_passed(home: Home, tmp_path: Path) -> None:
    lake = Lake(home)
    fill(lake, "constitution", [{}])
    check = {"table_name": "constitution", "constitution_version": VERSION, "run_id": "r", "value": 1.0, "rows": 1}
    found = {"passed": True, "severity": "WARN", "bounds": "any", "checked_at": datetime(2026, 1, 1)}  # noqa: DTZ001
    lake.append("check_results", {**check, **found, "check_name": "now", "data_version": "constitution"})
    lake.append("check_results", {**check, **found, "check_name": "then", "data_version": "another"})
    facts = facts_of(lake, VERSION)
    assert {one["check_name"]: one["outdated"] for one in facts.checks} == {"now": False, "then": True}
    page = written_page(lake, tmp_path)
    assert "<dd>1 of 2</dd>" in page
    assert "passed, of earlier rows" in page


def evaluated(lake: Lake, slices: Sequence[tuple[str, str | None]]) -> None:
    rows = [{"slice": kind, "slice_value": value} for kind, value in slices]
    fill(lake, "reward_model_evaluation", [{**row, "accuracy": n / 1_000} for n, row in enumerate(rows)])


def test_no_slice_of_the_reward_model_is_left_out_in_silence(home: Home, tmp_path: Path) -> None:
    lake = Lake(home)
    fill(lake, "constitution", [{}])
    subsets = [("benchmark_subset", f"bench/{n:03}") for n in range(250)]
    principles = [("principle", f"principle-{n:02}") for n in range(16)]
    evaluated(lake, [*subsets, ("benchmark_category", "bench/000"), *principles, ("all", None)])
    chart = charts_of(facts_of(lake, VERSION))["accuracy"]
    names = [row[0] for row in chart.rows]
    shown = ["all", *(f"principle: {name}" for _, name in principles), "benchmark category: bench/000"]
    assert names == [*shown, "benchmark subset: bench/000", "benchmark subset: bench/001"]
    assert chart.caption.endswith(f"; {268 - 20} more in the table below")
    page = written_page(lake, tmp_path)
    assert "All 268 slices" in page
    assert '<th scope="row">benchmark subset: bench/181</th>' in page
    assert "68 more are in the table <code>reward_model_evaluation</code>" in page


def test_slices_of_one_name_have_a_line_each(home: Home) -> None:
    lake = Lake(home)
    fill(lake, "constitution", [{}])
    long = "x" * 200
    evaluated(lake, [("principle", f"{long}{n}") for n in range(2)])
    rows = charts_of(facts_of(lake, VERSION))["accuracy"].rows
    assert len({row[0] for row in rows}) == 2
    assert {row[1] for row in rows} == {"0.000", "0.001"}


def test_it_says_how_things_were_made_and_why_prompts_become_fewer(made: Home, facts: Facts, tmp_path: Path) -> None:
    assert dict(facts.how) == {
        "policy model": [frame(made, "initial_responses")["policy_model"][0]],
        "critique and revision rounds": ["2"],
        "pairs made of": ["sl_cai_model"],
        "feedback model": [frame(made, "judgements")["feedback_model"][0]],
        "judging method": ["one_principle"],
        "label policy": [frame(made, "preference_pairs")["label_policy"][0]],
    }
    splits = frame(made, "prompts")["split"].value_counts()
    assert dict(facts.splits) == dict(splits.iter_rows())
    page = written_page(open_lake(made), tmp_path)
    assert f"{facts.splits['sft']} for fine-tuning (<code>sft_dataset</code>)" in page


def test_policies_are_shown_each_against_each(home: Home, tmp_path: Path) -> None:
    lake = Lake(home)
    fill(lake, "constitution", [{}])
    rates = {("a", "all"): 0.25, ("b", "all"): 0.75, ("a", "b"): 0.25, ("b", "a"): 0.75}
    rows = [{"policy": one, "opponent": other, "win_rate": rate} for (one, other), rate in rates.items()]
    fill(lake, "policy_evaluation", rows)
    page = written_page(lake, tmp_path)
    matrix = page[page.index("Each against each") :]
    cells = '<td class="number">–</td><td class="number">75%</td>'
    assert f'<th scope="row">b</th>{cells}' in matrix
    fill(lake, "policy_evaluation", rows[:2])
    assert "Each against each" not in written_page(lake, tmp_path)


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
    assert event.tags is not None
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
from cai_dagster.lake.lake import Lake
from cai_dagster.report.page import write_report
write_report(Lake(Home(Path({str(made.root)!r}))), "v1", Path({str(tmp_path / "r.html")!r}))
print(sorted({{"dagster", "torch", "transformers", "vllm"}} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
