"""Two versions beside each other, by hand: what is edited, shared, flipped, preferred; and how it is shown."""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from io import StringIO
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from cai_dagster.compare.compared_rows import ComparedRows
from cai_dagster.compare.completions import CompletionExample, Completions
from cai_dagster.compare.diff import ConstitutionDiff, compare_versions
from cai_dagster.compare.labels import LabelChange, Labels
from cai_dagster.compare.principles import EarlierWording, PrincipleChange, TextChange
from cai_dagster.compare.runs import Cost, CostChange
from cai_dagster.compare.scores import (
    PolicyChange,
    PolicyWinRate,
    RewardModelChange,
    RewardModelScore,
    WinRate,
    win_rates,
)
from cai_dagster.compare.version import VersionTables
from cai_dagster.compare.views import markdown_summary, page, print_diff
from cai_dagster.constitution.constitution import Comparison, Constitution, Principle
from cai_dagster.inputs.pairs import pair_id
from cai_dagster.settings import active_settings
from cai_dagster.tables.registry import TABLES
from cai_dagster.tables.validation import pandera_schema
from tests.hostile import HOSTILE

SETTINGS = active_settings().constitution_diff.model_copy(update={"resamples": 300, "examples": 3})
KIND = Principle("kind", "Is it kind?", "Make it kind.", "Which is kinder?", tags=("a",))
HONEST = Principle("honest", "Is it honest?", "Make it honest.", "Which is more honest?")
BRIEF = Principle("brief", "Is it brief?", "Make it brief.", "Which is briefer?")
KINDER = replace(KIND, critique_request="Is it very kind?")
PROMPTS = pl.DataFrame(
    [
        {
            "prompt_id": f"{number:x}",
            "messages": [{"role": "user", "content": f"question {number}"}],
            "source": "s",
            "sources": ["s"],
            "category": None,
            "split": "sft",
        }
        for number in range(6)
    ],
    schema=TABLES["prompts"].schema,
)


def frame(table: str, version: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows of a table; a column that is not given is one that does not matter here."""
    schema = TABLES[table].schema
    filled = [{**dict.fromkeys(schema), "constitution_version": version, **row} for row in rows]
    return pl.DataFrame(filled, schema=schema)


def rounds(version: str, *texts: tuple[int, int, Principle, str]) -> pl.DataFrame:
    """(prompt, round, principle, revision)"""
    return frame(
        "revision_rounds",
        version,
        [
            {
                "prompt_id": f"{prompt:x}",
                "sample": 0,
                "round": number,
                "principle_id": principle.id,
                "response": "y",
                "critique": f"critique by {principle.id}",
                "revision": text,
            }
            for prompt, number, principle, text in texts
        ],
    )


def version(name: str, *principles: Principle, **tables: pl.DataFrame) -> VersionTables:
    return VersionTables(name, Constitution(name, principles), tables)


def prompt_texts(ids: Sequence[str]) -> dict[str, str]:
    wanted = PROMPTS.filter(pl.col("prompt_id").is_in(ids))
    return {row["prompt_id"]: row["messages"][-1]["content"] for row in wanted.iter_rows(named=True)}


def compared(before: VersionTables, after: VersionTables) -> ComparedRows:
    """All rows at once."""
    made = (before.tables.keys(), after.tables.keys())
    rows = ComparedRows(before.constitution, after.constitution, made, SETTINGS.examples)
    rows.add(before.tables, after.tables)
    return rows


def diff_of(before: VersionTables, after: VersionTables) -> ConstitutionDiff:
    return compare_versions(before, after, compared(before, after), prompt_texts, SETTINGS)


def rates_of(before: VersionTables, after: VersionTables) -> list[WinRate]:
    return win_rates(before, after, compared(before, after).revision_pairs, SETTINGS)


def test_principles_are_the_same_where_their_slugs_are() -> None:
    changed = (KINDER, replace(HONEST, weight=2.0), BRIEF)
    made = diff_of(version("v1", KIND, HONEST, replace(BRIEF, slug="short")), version("v2", *changed))
    assert [(one.slug, one.change) for one in made.principles] == [
        ("kind", "edited"),
        ("honest", "re-weighted"),
        ("brief", "added"),
        ("short", "removed"),
    ]
    assert made.unchanged_principles == 0
    assert made.principles[0].texts == (TextChange("critique_request", "Is it kind?", "Is it very kind?"),)
    assert (made.principles[1].weight_before, made.principles[1].weight_after) == (1.0, 2.0)
    assert made.principles[2].weight_before is None
    assert made.principles[2].texts[0] == TextChange("critique_request", None, "Is it brief?")


def test_a_principle_may_change_in_several_ways_and_its_tags_are_no_text_of_a_call() -> None:
    both = diff_of(version("v1", KIND), version("v2", replace(KINDER, weight=3.0, tags=("b",))))
    assert both.principles[0].change == "edited, re-weighted, re-tagged"
    tags = diff_of(version("v1", KIND), version("v2", replace(KIND, tags=("b",))))
    assert tags.principles[0].change == "re-tagged"
    assert diff_of(version("v1", KIND), version("v2", KIND)).unchanged_principles == 1


def test_few_shot_examples_that_differ_are_named() -> None:
    one, other = version("v1", KIND), version("v2", KIND)
    shown = Comparison("p", "a", "b", "which?", "A")
    other = replace(other, constitution=replace(other.constitution, comparisons=(shown,)))
    assert diff_of(one, other).few_shot_changed == ("comparisons",)
    assert diff_of(one, one).few_shot_changed == ()


def test_rows_are_shared_when_all_but_the_version_is_equal() -> None:
    one = rounds("v1", (0, 1, KIND, "a"), (1, 1, HONEST, "b"), (2, 1, HONEST, "c"))
    other = rounds("v2", (0, 1, KINDER, "a"), (1, 1, HONEST, "b"), (3, 1, HONEST, "c"))
    (table,) = diff_of(
        version("v1", KIND, HONEST, revision_rounds=one), version("v2", KINDER, HONEST, revision_rounds=other)
    ).tables
    assert (table.rows_before, table.rows_after) == (3, 3)
    assert (table.shared, table.changed, table.only_before, table.only_after) == (1, 1, 1, 1)


def test_completions_are_the_last_rounds_and_examples_name_the_round_that_went_another_way() -> None:
    one = rounds("v1", (0, 1, HONEST, "a"), (0, 2, KIND, "b"), (0, 3, HONEST, "c"), (1, 1, HONEST, "same"))
    other = rounds("v2", (0, 1, HONEST, "a"), (0, 2, KINDER, "x"), (0, 3, HONEST, "y"), (1, 1, HONEST, "same"))
    made = diff_of(
        version("v1", KIND, HONEST, revision_rounds=one), version("v2", KINDER, HONEST, revision_rounds=other)
    )
    assert made.completions == Completions(
        2, 1, (CompletionExample("0", 0, "question 0", 2, "kind", "kind", "c", "y"),)
    )
    (kind,) = made.principles
    assert (kind.drawn_before, kind.drawn_after) == (1, 1)


def test_a_round_whose_principle_has_another_comparison_request_alone_did_not_go_another_way() -> None:
    compared = replace(KIND, comparison_request="Which is the kindest?")
    honest = replace(HONEST, critique_request="Is it truly honest?")
    same = pl.when(pl.col("round") == 1).then(pl.lit("the same critique")).otherwise("critique").alias("critique")
    one = rounds("v1", (0, 1, KIND, "a"), (0, 2, HONEST, "b")).with_columns(same)
    other = rounds("v2", (0, 1, compared, "a"), (0, 2, honest, "x")).with_columns(same)
    before = version("v1", KIND, HONEST, revision_rounds=one)
    for edited in (compared, replace(compared, comparison_request="Edited in place, so that nobody has its wording.")):
        made = diff_of(before, version("v2", edited, honest, revision_rounds=other)).completions
        assert made is not None
        (example,) = made.examples
        assert (example.round, example.principle_before, example.principle_after) == (2, "honest", "honest")


def test_where_one_version_has_fewer_rounds_the_first_further_one_is_where_they_differ() -> None:
    fewer = version("v1", KIND, HONEST, revision_rounds=rounds("v1", (0, 1, KIND, "a")))
    more = version("v2", KIND, HONEST, revision_rounds=rounds("v2", (0, 1, KIND, "a"), (0, 2, HONEST, "b")))
    assert diff_of(fewer, more).completions == Completions(
        1, 1, (CompletionExample("0", 0, "question 0", 2, None, "honest", "a", "b"),)
    )
    assert diff_of(more, fewer).completions == Completions(
        1, 1, (CompletionExample("0", 0, "question 0", 2, "honest", None, "b", "a"),)
    )
    for made in (diff_of(fewer, more), diff_of(more, fewer)):
        assert "(round 2, which v2 alone has, honest)" in shown(made)
        assert "round 2, which v2 alone has, honest</p>" in page(made)


def test_examples_are_of_as_many_principles_as_there_are() -> None:
    edited = replace(HONEST, revision_request="Make it true.")
    one = rounds("v1", *((number, 1, KIND if number < 4 else HONEST, "a") for number in range(6)))
    other = rounds("v2", *((number, 1, KINDER if number < 4 else edited, "b") for number in range(6)))
    made = diff_of(
        version("v1", KIND, HONEST, revision_rounds=one), version("v2", KINDER, edited, revision_rounds=other)
    )
    assert made.completions is not None
    assert {example.principle_after for example in made.completions.examples[:2]} == {"kind", "honest"}
    assert len(made.completions.examples) == SETTINGS.examples


def test_rounds_of_an_edition_that_was_edited_in_place_are_named_and_counted() -> None:
    older = replace(KIND, revision_request="Make it kinder.")
    one = rounds("v1", (0, 1, KIND, "a"), (1, 1, KIND, "a"))
    other = rounds("v2", (0, 1, older, "b"), (1, 1, KIND, "b"))
    made = diff_of(version("v1", KIND, revision_rounds=one), version("v2", KINDER, revision_rounds=other))
    name = f"(an earlier wording, {older.id[:8]})"
    assert sorted(made.earlier_wordings, key=lambda wording: wording.principle) == [
        EarlierWording("v2", "revision_rounds", name, 1),
        EarlierWording("v2", "revision_rounds", "kind", 1),  # its wording is the one that v1 has
    ]
    assert made.completions is not None
    assert {example.principle_after for example in made.completions.examples} == {name, "kind"}
    (kind,) = made.principles
    assert (kind.drawn_before, kind.drawn_after) == (2, 1)
    drawn = {row["name"]: (row["before"], row["after"]) for row in made.to_rows() if row["measure"] == "drawn"}
    assert drawn == {"kind": (2, 1), name: (None, 1)}
    for made_text in (shown(made), unescape(page(made)), markdown_summary(made).replace("\\", "")):
        text = " ".join(made_text.split())
        assert "v2's rounds are of an earlier edition of its constitution" in text
        assert f"1 under {name}" in text
        assert "Materialize revision_rounds for v2 again." in text
        assert "v1's rounds" not in text


def test_pairs_judged_under_an_earlier_wording_say_so() -> None:
    older = replace(KIND, comparison_request="Which is kindest?")
    before = labelled("v1", KIND, {0: 0.9})
    after = replace(labelled("v2", older, {0: 0.2}), constitution=Constitution("v2", (KINDER,)))
    made = diff_of(before, after)
    name = f"(an earlier wording, {older.id[:8]})"
    assert made.labels is not None
    assert made.labels.flips[0].principles_after == (name,)
    assert made.earlier_wordings == (EarlierWording("v2", "judgements", name, 2),)
    assert "Materialize judgements for v2 again." in " ".join(shown(made).split())


def labelled(name: str, principle: Principle, p_first: dict[int, float], **more: pl.DataFrame) -> VersionTables:
    """Pairs 0, 1, … with P(completion_0) in both orders; exactly one half gives no label."""
    pairs = [
        {
            "pair_id": f"{number:x}",
            "prompt_id": f"{number:x}",
            "completion_0": f"a{number}",
            "completion_1": f"b{number}",
        }
        for number in p_first
    ]
    judged = [
        {
            "pair_id": f"{number:x}",
            "principle_id": principle.id,
            "principle_ids": [principle.id],
            "order": order,
            "logp_a": math.log(p if order == "01" else 1 - p),
            "logp_b": math.log(1 - p if order == "01" else p),
        }
        for number, p in p_first.items()
        for order in ("01", "10")
    ]
    labels = [
        {
            "pair_id": f"{number:x}",
            "chosen": [{"role": "assistant", "content": f"{'a' if p > 0.5 else 'b'}{number}"}],
            "p_chosen": max(p, 1 - p),
        }
        for number, p in p_first.items()
        if p != 0.5
    ]
    tables = {
        "response_pairs": frame("response_pairs", name, pairs),
        "judgements": frame("judgements", name, judged),
        "preference_pairs": frame("preference_pairs", name, labels),
    }
    return version(name, principle, **tables, **more)


def test_labels_that_flipped_were_gained_or_lost_and_how_far_p_moved() -> None:
    before = labelled("v1", KIND, {0: 0.9, 1: 0.9, 2: 0.5, 3: 0.7, 5: 0.2})
    after = labelled("v2", KINDER, {0: 0.8, 1: 0.3, 2: 0.6, 3: 0.5, 4: 0.9})
    labels = diff_of(before, after).labels
    assert labels is not None
    assert (labels.pairs, labels.flipped, labels.gained, labels.lost) == (4, 1, 1, 1)
    assert labels.agreement == 0.25
    assert labels.mean_p_change == pytest.approx((0.1 + 0.6 + 0.1 + 0.2) / 4)
    (flip,) = labels.flips
    assert (flip.prompt, flip.label_before, flip.label_after) == ("question 1", "completion_0", "completion_1")
    assert (flip.completion_0, flip.completion_1) == ("a1", "b1")
    assert (flip.p_before, flip.p_after) == pytest.approx((0.9, 0.3))
    assert (flip.principles_before, flip.principles_after) == (("kind",), ("kind",))
    assert [one.pair_id for one in labels.biggest_p_changes] == ["1", "3", "0"]


def test_labels_that_are_added_up_in_parts_are_those_of_all_at_once() -> None:
    draw = random.Random(0)
    before, after = (
        labelled(name, KIND, {number: draw.randint(1, 9) / 10 for number in range(16)}) for name in ("v1", "v2")
    )
    rows = ComparedRows(
        before.constitution, after.constitution, (before.tables.keys(), after.tables.keys()), SETTINGS.examples
    )
    for ids in ("01234", "567", "8", "9abcde", "f"):
        rows.add(*({name: of_pairs(table, ids) for name, table in one.tables.items()} for one in (before, after)))
    in_parts = compare_versions(before, after, rows, prompt_texts, SETTINGS)
    assert in_parts.labels is not None
    assert len(in_parts.labels.flips) == len(in_parts.labels.biggest_p_changes) == SETTINGS.examples
    assert in_parts == diff_of(before, after)


def of_pairs(table: pl.DataFrame, ids: str) -> pl.DataFrame:
    return table.filter(pl.col("pair_id").is_in(list(ids)))


def test_kappa_is_agreement_beyond_chance() -> None:
    before = labelled("v1", KIND, {0: 0.9, 1: 0.9, 2: 0.1, 3: 0.1})
    after = labelled("v2", KINDER, {0: 0.9, 1: 0.1, 2: 0.1, 3: 0.1})
    labels = diff_of(before, after).labels
    assert labels is not None
    assert labels.agreement == 0.75
    assert labels.cohen_kappa == pytest.approx((0.75 - 0.5) / 0.5)  # by chance: 1/2 · 1/4 + 1/2 · 3/4
    same = labelled("v1", KIND, {0: 0.9, 1: 0.8})
    assert diff_of(same, labelled("v2", KINDER, {0: 0.9, 1: 0.8})).labels.cohen_kappa is None  # pyright: ignore


def test_versions_without_labels_or_without_a_shared_pair_have_none_to_compare() -> None:
    before = labelled("v1", KIND, {0: 0.9})
    assert diff_of(before, version("v2", KIND)).labels is None
    apart = diff_of(before, labelled("v2", KINDER, {1: 0.9})).labels
    assert apart is not None
    assert (apart.pairs, apart.agreement, apart.mean_p_change) == (0, None, None)


def judged_revisions(*judgements: tuple[int, str, float, float], against: str = "v1") -> pl.DataFrame:
    """(prompt, judged by, P(A) when v1's revision is (A), P(A) when v2's is)"""
    rows = [
        {
            "against": against,
            "judged_by": judged_by,
            "prompt_id": f"{prompt:x}",
            "sample": 0,
            "pair_id": pair_id(f"{prompt:x}", f"old {prompt}", f"new {prompt}"),
            "principle_id": KIND.id,
            "order": order,
            "logp_a": math.log(p_a),
            "logp_b": math.log(1 - p_a),
        }
        for prompt, judged_by, *p_of_a in judgements
        for order, p_a in zip(("01", "10"), p_of_a, strict=True)
    ]
    return frame("version_judgements", "v2", rows)


def two_versions(judged: pl.DataFrame) -> tuple[VersionTables, VersionTables]:
    old = rounds("v1", *((number, 1, KIND, f"old {number}") for number in range(3)), (3, 1, HONEST, "same"))
    new = rounds("v2", *((number, 1, KINDER, f"new {number}") for number in range(3)), (3, 1, HONEST, "same"))
    before = version("v1", KIND, HONEST, revision_rounds=old)
    return before, version("v2", KINDER, HONEST, revision_rounds=new, version_judgements=judged)


def test_a_win_is_the_later_versions_over_both_orders_under_each_versions_principles() -> None:
    judged = judged_revisions(
        *((0, "v1", 0.2, 0.9), (1, "v1", 0.6, 0.6), (2, "v1", 0.9, 0.2)),
        *((0, "v2", 0.1, 0.9), (1, "v2", 0.3, 0.9), (2, "v2", 0.9, 0.2)),
    )
    by_old, by_new = rates_of(*two_versions(judged))
    assert (by_old.judged_by, by_old.pairs, by_old.prompts) == ("v1", 3, 3)
    assert by_old.win_rate == pytest.approx((1 + 0.5 + 0) / 3)  # a judge that follows the position makes a tie
    assert by_old.p_better == pytest.approx((0.85 + 0.5 + 0.15) / 3)
    assert by_new.win_rate == pytest.approx(2 / 3)
    assert by_new.low is not None
    assert by_new.high is not None
    assert by_new.low <= by_new.win_rate <= by_new.high


def test_what_was_judged_one_way_is_told_the_other_way_too() -> None:
    judged = judged_revisions((0, "v1", 0.2, 0.9), (1, "v1", 0.3, 0.8), (2, "v1", 0.9, 0.2), (0, "v2", 0.2, 0.9))
    one, other = two_versions(judged)
    forwards, backwards = diff_of(one, other), diff_of(other, one)
    assert [rate.judged_by for rate in backwards.win_rates] == ["v2", "v1"]
    rate, mirrored = forwards.win_rates[0], backwards.win_rates[1]
    assert rate.win_rate == pytest.approx(2 / 3)
    assert (mirrored.win_rate, mirrored.p_better) == pytest.approx((1 - rate.win_rate, 1 - rate.p_better))
    assert rate.low is not None
    assert rate.high is not None
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - rate.high, 1 - rate.low))
    assert (rate.mirrored, mirrored.mirrored) == (False, True)
    said = " ".join(shown(backwards).split())
    assert "Under the principles of v1: v1's revision is preferred to v2's in 33.3%" in said
    assert "What was judged is v2 against v1: this is the other side." in said
    assert "the other side" not in shown(forwards)


def test_judgements_of_other_versions_or_of_replaced_revisions_do_not_count() -> None:
    assert not rates_of(*two_versions(judged_revisions((0, "v0", 0.2, 0.9), against="v0")))
    before, after = two_versions(judged_revisions((0, "v1", 0.2, 0.9), (1, "v1", 0.2, 0.9)))
    replaced = before.tables["revision_rounds"].with_columns(
        pl.when(pl.col("prompt_id") == "0").then(pl.lit("newer")).otherwise("revision").alias("revision")
    )
    (rate,) = rates_of(replace(before, tables={"revision_rounds": replaced}), after)
    assert (rate.pairs, rate.low) == (1, None)


def test_checks_and_costs_stand_side_by_side() -> None:
    check = {"table_name": "judgements", "check_name": "label_mass", "passed": True, "severity": "ERROR"}
    cost = {"table_name": "judgements", "calls_paid": 10, "calls_found": 0, "tokens": 100, "seconds": 2.5}
    before = replace(version("v1", KIND), checks=[{**check, "value": 0.95, "bounds": "at least 0.9"}], costs=[cost])
    after = replace(
        version("v2", KIND),
        checks=[
            {**check, "value": 0.5, "passed": False, "bounds": "at least 0.9"},
            {**check, "check_name": "position_bias", "value": None, "bounds": "at most 0.3"},
        ],
        costs=[{**cost, "calls_paid": 2, "calls_found": 8}],
    )
    made = diff_of(before, after)
    assert [(one.check, one.before is None) for one in made.checks] == [("label_mass", False), ("position_bias", True)]
    assert made.costs == (CostChange("judgements", Cost(10, 0, 100, 2.5), Cost(2, 8, 100, 2.5)),)
    text = shown(made)
    assert re.search(r"label_mass +0\.95 ✓ \(at least 0\.9\) +0\.5 ✗ \(at least 0\.9\)", text)
    assert re.search(r"judgements +10 → 2 +0 → 8", text)


def scored_version(name: str, *evaluated: tuple[str, str | None, float], **wins: float) -> VersionTables:
    """(slice, slice_value, accuracy); the win rate of each policy against all others, and 0.5 against another."""
    score = {"checkpoint_key": "ab", "pairs": 20, "constant_log_loss": math.log(2), "brier_score": 0.2}
    score |= {"log_loss": 0.61, "calibration_error": 0.04, "length_correlation": None, "longer_wins_accuracy": 0.5}
    slices = [
        {**score, "slice": kind, "slice_value": value, "accuracy": accuracy}
        | {"accuracy_low": accuracy - 0.1, "accuracy_high": accuracy + 0.1}
        for kind, value, accuracy in evaluated
    ]
    rates = [
        {"policy": policy, "opponent": opponent, "prompts": 40, "win_rate": rate, "p_better": rate, "identical": 0.0}
        | {"win_rate_low": rate - 0.1, "win_rate_high": rate + 0.1}
        for policy, won in wins.items()
        for opponent, rate in (("all", won), ("another", 0.5))
    ]
    tables = {"reward_model_evaluation": slices, "policy_evaluation": rates}
    return version(name, KIND, **{table: frame(table, name, rows) for table, rows in tables.items() if rows})


def test_reward_models_and_policies_stand_side_by_side() -> None:
    before = scored_version(
        *("v1", ("all", None, 0.6), ("principle", "all", 0.5), ("principle", "kind", 0.4)),
        *(("benchmark", "b", 0.7), ("benchmark_subset", "b/s", 0.7)),
        dpo_model=0.6,
    )
    after = scored_version(
        *("v2", ("all", None, 0.7), ("principle", "kind", 0.8), ("principle", "honest", 0.3)),
        *(("benchmark", "b", 0.6), ("benchmark_subset", "b/s", 0.6)),
        dpo_model=0.75,
        best_of_n=0.2,
    )
    made = diff_of(before, after)
    assert [one.slice for one in made.reward_model] == ["all", "benchmark/b", "principle/kind"]
    everything = made.reward_model[0]
    assert everything.before == RewardModelScore(20, 0.6, 0.5, 0.7, 0.61, 0.04, None)
    assert everything.after is not None
    assert everything.after.accuracy == 0.7
    assert [(one.policy, one.before is None) for one in made.policies] == [("best_of_n", True), ("dpo_model", False)]
    assert made.policies[1].after == PolicyWinRate(40, 0.75, 0.65, 0.85)
    plain = shown(made)
    assert re.search(r"\naccuracy +60\.0% \(50\.0%–70\.0%\) of 20 +70\.0% \(60\.0%–80\.0%\) of 20 *\n", plain)
    assert re.search(r"\nbest_of_n +– +20\.0% \(10\.0%–30\.0%\) of 40 *\n", plain)
    for text in (plain, page(made), markdown_summary(made).replace("\\", "")):
        assert "accuracy, principle/kind" in text
        assert "length correlation" in text
        assert "honest" not in text
    table = frame("constitution_diff", "v2", made.to_rows())
    rows = pandera_schema(TABLES["constitution_diff"]).validate(table)
    assert rows.unique(TABLES["constitution_diff"].key).height == rows.height
    accuracy = rows.filter(
        pl.col("section") == "reward_model", pl.col("measure") == "accuracy", pl.col("name") == "all"
    )
    assert accuracy.select("before", "after", "low", "high").row(0) == pytest.approx((0.6, 0.7, 0.6, 0.8))
    best = rows.filter(pl.col("section") == "policy", pl.col("name") == "best_of_n").sort("measure")
    assert best.select("measure", "before", "after").rows() == [("prompts", None, 40.0), ("win_rate", None, 0.2)]


def test_a_reward_model_of_one_version_alone_is_shown_beside_nothing() -> None:
    made = diff_of(version("v1", KIND), scored_version("v2", ("all", None, 0.7), ("principle", "kind", 0.8)))
    (only,) = made.reward_model
    assert (only.slice, only.before) == ("all", None)
    assert made.to_json()["reward_model"][0]["before"] is None
    assert re.search(r"\nlog loss +– +0\.6100", shown(made))
    assert made.policies == ()
    assert "Policies" not in shown(made)


def test_what_one_version_lacks_is_null_and_shown_as_nothing() -> None:
    cost = {"table_name": "judgements", "calls_paid": 10, "calls_found": 0, "tokens": 100, "seconds": 2.5}
    one = version("v1", KIND, revision_rounds=rounds("v1", (0, 1, KIND, "a")))
    more = replace(labelled("v2", KIND, {0: 0.9}, revision_rounds=rounds("v2", (0, 1, KIND, "a"))), costs=[cost])
    more = replace(more, constitution=Constitution("v2", (KIND, BRIEF)))
    for before, after, lacking, other in ((one, more, "before", "after"), (more, one, "after", "before")):
        made = diff_of(before, after)
        found = made.to_json()
        (principle,) = found["principles"]
        assert (principle[f"weight_{lacking}"], principle[f"drawn_{lacking}"]) == (None, None)
        assert (principle[f"weight_{other}"], principle[f"drawn_{other}"]) == (1.0, 0)
        assert {text[lacking] for text in principle["texts"]} == {None}
        tables = {table["table"]: table for table in found["tables"]}
        judgements = tables["judgements"]
        assert judgements == {**dict.fromkeys(judgements), "table": "judgements", f"rows_{other}": 2}
        assert tables["revision_rounds"]["shared"] == 1
        assert found["costs"][0][lacking] is None
        rows = {(row["section"], row["name"], row["measure"]): row for row in made.to_rows()}
        assert rows["cost", "judgements", "calls_paid"][lacking] is None
        assert rows["rows", "judgements", "rows"][lacking] is None
        text = shown(made)
        assert re.search(r"judgements +(– +2|2 +–) +– +– +– +–", text)
        assert re.search(r"judgements +(– → 10|10 → –) ", text)
        assert "drawn in – → 0" in text or "drawn in 0 → –" in text
        assert "None" not in text + page(made) + markdown_summary(made)


def test_every_figure_is_a_row_of_the_table() -> None:
    before = labelled("v1", KIND, {0: 0.9, 1: 0.9}, revision_rounds=rounds("v1", (0, 1, KIND, "a")))
    after = labelled("v2", KINDER, {0: 0.8, 1: 0.3}, revision_rounds=rounds("v2", (0, 1, KINDER, "b")))
    made = diff_of(before, after)
    table = frame("constitution_diff", "v2", made.to_rows())
    assert pandera_schema(TABLES["constitution_diff"]).validate(table).height == len(made.to_rows())
    assert table.unique(TABLES["constitution_diff"].key).height == table.height
    assert set(table["against"]) == {"v1"}
    flipped = table.filter(pl.col("section") == "labels", pl.col("measure") == "flipped")
    assert flipped["after"].to_list() == [1.0]
    edited = table.filter(pl.col("name") == "kind", pl.col("measure") == "weight")
    assert edited["note"].to_list() == ["edited"]


def test_nothing_made_yet_still_compares_the_principles() -> None:
    made = diff_of(version("v1", KIND), version("v2", KINDER))
    for text in (shown(made), page(made), markdown_summary(made).replace("\\", "")):
        assert "1 edited, 0 unchanged" in text
        assert "revision_rounds has not been made for both v1 and v2." in text
        assert "cai diff v1 v2 --judge" in text
    assert "Is it {+very+} kind?" in shown(made)
    assert "<ins>very </ins>" in page(made)


def hostile_diff(text: str) -> ConstitutionDiff:
    """A text in every place where a text may stand."""
    made = diff_of(version("v1", KIND), version("v2", KINDER))
    example = LabelChange(
        "ab", "cd", text, text, f"other {text}", 0.2, 0.9, "completion_1", "completion_0", (text,), ()
    )
    return replace(
        made,
        before=text,
        principles=(PrincipleChange(text, "edited", (TextChange("critique_request", f"old {text}", text),), 1.0, 2.0),),
        completions=Completions(1, 1, (CompletionExample("cd", 0, text, 1, text, f"{text}!", text, f"new {text}"),)),
        labels=Labels(1, 0.0, None, 1, 0, 0, 0.7, (example,), (example, replace(example, pair_id="ef"))),
        earlier_wordings=(EarlierWording(text, "revision_rounds", text, 1),),
        reward_model=(RewardModelChange(text, RewardModelScore(2, 0.5, 0.4, 0.6, 0.7, 0.1, None), None),),
        policies=(PolicyChange(text, None, PolicyWinRate(2, 0.5, 0.4, 0.6)),),
    )


class Elements(HTMLParser):
    """The tags and the names of the attributes of a page."""

    def __init__(self, made: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(made.split("<body>", 1)[1])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def shown(made: ConstitutionDiff) -> str:
    out = StringIO()
    print_diff(made, Console(file=out, width=200, force_terminal=False))
    return out.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_more_than_text(text: str) -> None:
    made, harmless = hostile_diff(text), hostile_diff("harmless")
    control = r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
    html = page(made)
    assert Elements(html).tags == Elements(page(harmless)).tags
    assert Elements(html).attributes == Elements(page(harmless)).attributes
    assert not re.search(control, html)
    assert len(html) < 300_000
    printed = shown(made)
    assert not re.search(control, printed)
    assert len(printed) < 100_000
    # Markdown: every mark of the text is escaped, and it stays within its line and its cell.
    markdown, plain = markdown_summary(made), markdown_summary(harmless)
    assert len(markdown.splitlines()) == len(plain.splitlines())
    for line, reference in zip(markdown.splitlines(), plain.splitlines(), strict=True):
        assert len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", reference))
        assert not re.search(r"(?<!\\)[<\[\]{}`]", line)
