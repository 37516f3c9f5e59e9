import itertools
import math
from datetime import datetime
from typing import Any

import polars as pl
import pytest

from cai_dagster.checks import measurements
from cai_dagster.checks.declarations import CHECKS, Check
from cai_dagster.checks.measurement import Measurement, Tables
from cai_dagster.checks.measurements import (
    EXAMPLES,
    EXCERPT,
    drift,
    identical_pairs,
    judge_agreement,
    label_mass,
    language_change,
    length_ratio,
    missing_judgements,
    near_duplicates,
    position_bias,
    principle_coverage,
    refusals,
    rejected_share,
    repetition,
    reward_accuracy,
    reward_length_correlation,
    reward_over_length,
    shared_phrase,
    unchanged_revisions,
    undecided_pairs,
    unfinished_completions,
)
from cai_dagster.checks.settings import ChecksSettings
from cai_dagster.settings import SETTINGS_FILE, load_settings
from cai_dagster.tables.registry import TABLES
from tests.hostile import HOSTILE

DEFAULT_SETTINGS = load_settings(SETTINGS_FILE, "default")
DEFAULTS: dict[Any, Any] = {pl.String: "ab", pl.Int64: 0, pl.Float64: 0.75}


def frame(table: str, *rows: dict[str, Any]) -> pl.DataFrame:
    """Rows of a table; columns that a row does not name have some value of their type."""
    schema = TABLES[table].schema
    defaults = {name: DEFAULTS.get(dtype, []) for name, dtype in schema.items()}
    return pl.DataFrame([{**defaults, **row} for row in rows], schema=schema)


def tables(rows: pl.DataFrame, rejected: pl.DataFrame | None = None, **others: pl.DataFrame) -> Tables:
    return Tables(
        rows.lazy(),
        frame("rejected_rows") if rejected is None else rejected,
        {name: other.lazy() for name, other in others.items()},
    )


def judgement(pair_id: str, order: str, p_a: float, p_b: float, principle_id: str = "ab") -> dict[str, Any]:
    return {
        "pair_id": pair_id,
        "principle_id": principle_id,
        "order": order,
        "logp_a": math.log(p_a),
        "logp_b": math.log(p_b),
    }


def test_rejected_share_is_of_all_rows() -> None:
    rejected = frame("rejected_rows", {"row_id": "x", "reason": "empty_completion: none"}, {"row_id": "y"})
    measured = rejected_share(tables(frame("prompts", {}, {}, {}), rejected))
    assert (measured.value, measured.rows) == (0.4, 5)
    assert measured.examples[0] == {"row_id": "x", "reason": "empty_completion: none", "row": "ab"}
    assert [example["row_id"] for example in measured.examples] == ["x", "y"]


def test_rejected_share_is_all_where_every_row_was_rejected() -> None:
    assert rejected_share(tables(frame("prompts"), frame("rejected_rows", {}, {}))).value == 1


@pytest.mark.parametrize(
    ("table", "kept"),
    [
        ("revision_rounds", [{"prompt_id": p, "sample": 0, "round": number} for p in "ab" for number in (1, 2, 3)]),
        ("best_of_n_candidates", [{"prompt_id": p, "sample": number} for p in "ab" for number in range(8)]),
        ("judgements", [{"pair_id": p, "principle_id": c, "order": "01"} for p in "ab" for c in "cde"]),
        ("response_pairs", [{"prompt_id": p, "pair_id": p + c, "source": "sl_cai_model"} for p in "ab" for c in "cd"]),
        ("response_pairs", [{"prompt_id": "a", "pair_id": c, "source": "imported"} for c in "cd"]),
        ("policy_judgements", [{"pair_id": p, "policy_0": "x", "policy_1": "y"} for p in "ab" for _ in range(4)]),
    ],
)
def test_a_rejected_row_counts_as_much_as_all_that_another_became(table: str, kept: list[dict[str, Any]]) -> None:
    measured = rejected_share(tables(frame(table, *kept), frame("rejected_rows", {})))
    assert (measured.value, measured.rows) == (pytest.approx(1 / 3), 3)


def test_unfinished_completions_of_one_column() -> None:
    rows = frame(
        "initial_responses",
        {"prompt_id": "a", "finish_reason": "stop"},
        {"prompt_id": "b", "finish_reason": "length", "sample": 3},
        {"prompt_id": "c", "finish_reason": "stop"},
    )
    measured = unfinished_completions(tables(rows))
    shown = {"prompt_id": "b", "sample": 3, "finish_reason": "length", "completion": "ab"}
    assert measured == Measurement(pytest.approx(1 / 3), 3, [shown])


def test_unfinished_completions_of_two_columns_are_counted_each() -> None:
    """Three of four completions, in two rows."""
    rows = frame(
        "revision_rounds",
        {"prompt_id": "a", "round": 1, "critique_finish_reason": "length", "revision_finish_reason": "length"},
        {"prompt_id": "a", "round": 2, "critique_finish_reason": "stop", "revision_finish_reason": "length"},
        {"prompt_id": "b", "round": 1, "critique_finish_reason": "stop", "revision_finish_reason": "stop"},
    )
    measured = unfinished_completions(tables(rows))
    assert measured.value == pytest.approx(3 / 6)
    assert measured.rows == 3
    assert [(one["prompt_id"], one["round"]) for one in measured.examples] == [("a", 1), ("a", 2)]
    assert measured.examples[1]["critique_finish_reason"] == "stop"


def test_unchanged_revisions_ignore_white_space_at_the_ends_only() -> None:
    rows = frame(
        "revision_rounds",
        {"prompt_id": "a", "response": "one two", "revision": " one two\n"},
        {"prompt_id": "b", "response": "one two", "revision": "one  two"},
        {"prompt_id": "c", "response": "one two", "revision": "One two"},
        {"prompt_id": "d", "response": "x", "revision": "x"},
    )
    measured = unchanged_revisions(tables(rows))
    assert (measured.value, measured.rows) == (0.5, 4)
    assert [example["prompt_id"] for example in measured.examples] == ["a", "d"]


def test_label_mass_is_the_mean_probability_of_both_letters() -> None:
    rows = frame("judgements", judgement("a", "01", 0.6, 0.3), judgement("b", "10", 0.1, 0.2))
    measured = label_mass(tables(rows))
    assert (measured.value, measured.rows) == (pytest.approx(0.6), 2)
    assert measured.examples == [
        {"pair_id": "b", "principle_id": "ab", "order": "10", "mass": pytest.approx(0.3)},
        {"pair_id": "a", "principle_id": "ab", "order": "01", "mass": pytest.approx(0.9)},
    ]


def test_position_bias_is_the_same_letter_in_both_orders() -> None:
    """a: (A) twice. b: (B) twice. c: the same text twice. d under y: (A) twice, under x: not. e: one order only."""
    rows = frame(
        "judgements",
        *(judgement("a", order, 0.9, 0.1) for order in ("01", "10")),
        *(judgement("b", order, 0.3, 0.6) for order in ("01", "10")),
        *(judgement("c", order, *p) for order, p in (("01", (0.9, 0.1)), ("10", (0.1, 0.9)))),
        *(judgement("d", order, 0.9, 0.1, "y") for order in ("01", "10")),
        *(judgement("d", order, *p, "x") for order, p in (("01", (0.1, 0.9)), ("10", (0.9, 0.1)))),
        judgement("e", "01", 0.9, 0.1),
    )
    measured = position_bias(tables(rows))
    assert (measured.value, measured.rows) == (pytest.approx(3 / 5), 5)
    examples = {(one["pair_id"], one["principle_id"], one["says_a"]) for one in measured.examples}
    assert examples == {("a", "ab", True), ("b", "ab", False), ("d", "y", True)}


def test_a_verdict_that_prefers_no_letter_is_no_position_bias() -> None:
    rows = frame("judgements", *(judgement("a", order, 0.5, 0.5) for order in ("01", "10")))
    assert position_bias(tables(rows)).value == 0


def test_position_bias_cannot_be_measured_in_one_order() -> None:
    rows = frame("judgements", judgement("a", "01", 0.9, 0.1), judgement("b", "01", 0.9, 0.1))
    assert position_bias(tables(rows)) == Measurement(None, 0, [])


def test_judge_agreement_is_the_lower_end_of_what_one_principle_gives() -> None:
    rows = frame(
        "judge_calibration",
        {"slice": "all", "agreement": 0.9, "agreement_low": 0.8, "pairs": 40},
        {"slice": "one_principle", "agreement": 0.6, "agreement_low": 0.45, "pairs": 40},
        {"slice": "principle", "slice_value": "kind", "agreement": 0.3, "agreement_low": 0.2, "pairs": 20},
    )
    measured = judge_agreement(tables(rows))
    assert (measured.value, measured.rows) == (0.45, 40)
    assert [one["slice"] for one in measured.examples] == ["principle", "one_principle", "all"]
    single = frame("judge_calibration", {"slice": "one_principle", "agreement_low": None, "pairs": 1})
    assert judge_agreement(tables(single)).value == 0


def test_principle_coverage_names_the_principles_never_drawn() -> None:
    principles = frame(
        "constitution", *({"principle_id": one * 2, "slug": f"slug-{one}", "weight": 1.0} for one in "abcd")
    )
    rows = frame("revision_rounds", *({"principle_id": one} for one in ("aa", "aa", "cc", "ee") * 5))
    measured = principle_coverage(tables(rows, constitution=principles))
    assert (measured.value, measured.rows) == (0.5, 4)
    assert [one["slug"] for one in measured.examples] == ["slug-b", "slug-d"]


def test_principle_coverage_says_nothing_of_principles_that_chance_may_have_missed() -> None:
    weights = {"a": 8.0, "b": 1.0, "c": 1.0}
    principles = frame(
        "constitution", *({"principle_id": one * 2, "slug": one, "weight": weight} for one, weight in weights.items())
    )
    assert principle_coverage(tables(frame("revision_rounds"), constitution=principles)).value is None
    rows = frame("revision_rounds", *({"principle_id": "aa"} for _ in range(20)))
    assert principle_coverage(tables(rows, constitution=principles)) == Measurement(1.0, 1, [])


def test_hostile_texts_are_shown_printable_and_cut() -> None:
    rows = frame(
        "revision_rounds",
        *({"prompt_id": f"{n:02x}", "round": 1, "response": text, "revision": text} for n, text in enumerate(HOSTILE)),
    )
    for measure in (unchanged_revisions, refusals, repetition, shared_phrase, near_duplicates):
        assert measure(tables(rows)).rows == len(HOSTILE)
    assert language_change(tables(rows)).rows <= len(HOSTILE)
    first = unchanged_revisions(tables(rows))
    last = unchanged_revisions(tables(rows[-EXAMPLES:]))
    assert first.value == 1
    for example in (*first.examples, *last.examples):
        assert example["revision"].replace("\n", "").isprintable()
    assert last.examples[-1]["revision"] == "x" * EXCERPT + "…"


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text} for text in texts]


def test_length_ratio_is_of_mean_characters_of_the_last_turns() -> None:
    rows = frame(
        "preference_pairs",
        {"pair_id": "a", "chosen": turns("x" * 10), "rejected": turns("x" * 9)},
        {"pair_id": "b", "chosen": turns("not this", "é🙂"), "rejected": turns("x" * 15)},
    )
    measured = length_ratio(tables(rows))
    assert (measured.value, measured.rows) == (0.5, 2)
    assert measured.examples == [
        {"pair_id": "b", "chosen_characters": 2, "rejected_characters": 15, "chosen": "é🙂", "rejected": "x" * 15},
        {"pair_id": "a", "chosen_characters": 10, "rejected_characters": 9, "chosen": "x" * 10, "rejected": "x" * 9},
    ]


def revision(prompt_id: str, text: str, **more: Any) -> dict[str, Any]:
    return {"prompt_id": prompt_id, "round": 1, "revision": text, "response": "Another text.", **more}


def test_refusals_are_counted_among_last_revisions_and_both_completions() -> None:
    rounds = frame(
        "revision_rounds",
        revision("a", "I cannot help with that.", round=1),
        revision("a", "Of course: salt melts ice.", round=2),
        revision("b", "I\u2019m sorry, but no.", round=2),
    )
    measured = refusals(tables(rounds))
    assert (measured.value, measured.rows) == (0.5, 2)
    assert [(one["prompt_id"], one["answer"]) for one in measured.examples] == [("b", "I\u2019m sorry, but no.")]
    pairs = frame("response_pairs", {"completion_0": "I cannot say.", "completion_1": "Yes."})
    assert refusals(tables(pairs)).value == 0.5


def test_repetition_is_the_mean_share_of_four_words_that_were_there_before() -> None:
    """Of seven sequences in the first text two recur; in the second none does, and the third has none."""
    rows = frame(
        "initial_responses",
        {"prompt_id": "a", "completion": "One two THREE four five. One two three, four five!"},
        {"prompt_id": "b", "completion": "one two three four five six"},
        {"prompt_id": "c", "completion": "no"},
    )
    measured = repetition(tables(rows))
    assert (measured.value, measured.rows) == (pytest.approx((2 / 7) / 3), 3)
    assert [one["prompt_id"] for one in measured.examples] == ["a"]


def test_a_phrase_is_shared_by_prompts_and_not_by_the_rounds_or_samples_of_one() -> None:
    boilerplate = "Remember that you are valid, valued, and cared for."
    rows = frame(
        "revision_rounds",
        *(revision(f"a{n}", f"Answer {n} to question {n * 3}. {boilerplate}") for n in range(6)),
        *(revision("b", "of this one prompt all samples say the same", sample=n) for n in range(20)),
        *(revision(f"c{n}", f"Something else number {n}") for n in range(3)),
    )
    measured = shared_phrase(tables(rows))
    assert (measured.value, measured.rows) == (pytest.approx(6 / 10), 29)
    (example,) = measured.examples
    assert example["phrase"] == "remember that you are valid valued and cared for"
    assert (example["prompts"], example["prompt_id"]) == (6, "a0")


def test_of_several_policies_the_one_with_the_most_boilerplate_counts() -> None:
    rows = frame(
        "policy_responses",
        *({"policy": "first", "prompt_id": f"a{n}", "completion": f"about {n} and {n + 7}"} for n in range(4)),
        *({"policy": "rl", "prompt_id": f"a{n}", "completion": f"{n}: you are valid and cared for"} for n in range(4)),
    )
    measured = shared_phrase(tables(rows))
    assert measured.value == 1
    assert {one["policy"] for one in measured.examples} == {"rl"}


def test_near_duplicates_are_of_different_prompts_and_name_both() -> None:
    words = [f"word{n}" for n in range(60)]
    almost = [*words[:-1], "other"]
    rows = frame(
        "revision_rounds",
        revision("a", " ".join(words)),
        revision("b", " ".join(almost)),
        *(revision("c", "the same answer to one prompt, twice sampled", sample=n) for n in range(2)),
        revision("d", " ".join(reversed(words))),
        revision("d", " ".join(words), round=0),  # not its last
    )
    measured = near_duplicates(tables(rows))
    assert (measured.value, measured.rows) == (0.5, 4)
    (example,) = measured.examples
    assert (example["prompt_id"], example["other_prompt_id"]) == ("a", "b")
    assert example["similarity"] > 0.8
    assert example["answer"].startswith("word0 word1")
    assert example["other_answer"].endswith("…")


def test_near_duplicates_show_the_samples_that_are_alike() -> None:
    same = "I am not able to help you with that, and here is why."
    rows = frame(
        "revision_rounds",
        revision("a", "an answer of its own"),
        revision("a", same, sample=1),
        revision("b", same),
        revision("b", "quite another answer of its own", sample=1),
    )
    (example,) = near_duplicates(tables(rows)).examples
    assert [example[name] for name in ("prompt_id", "sample", "other_prompt_id", "other_sample")] == ["a", 1, "b", 0]
    assert example["answer"] == example["other_answer"] == same


def test_a_language_that_changed_in_an_early_round_counts_whole() -> None:
    english, french = "I am sorry to hear that; what happened?", "Je suis désolé de l'apprendre; que s'est-il passé?"
    texts = {"a": [english, french, french, french], "b": [english, french, english, english]}
    rows = [
        revision(prompt, after, response=before, round=number)
        for prompt, said in texts.items()
        for number, (before, after) in enumerate(itertools.pairwise(said), 1)
    ]
    measured = language_change(tables(frame("revision_rounds", *rows)))
    assert (measured.value, measured.rows) == (0.5, 2)


def test_samples_of_long_texts_are_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "SAMPLED_CHARACTERS", 2_000)
    rows = pl.DataFrame({"prompt_id": [f"{n:02x}000000" for n in range(256)], "answer": ["x" * 100] * 256})
    assert 10 <= measurements._sample(rows.lazy(), 20_000).height <= 30
    short = rows.with_columns(pl.lit("x").alias("answer"))
    assert measurements._sample(short.lazy(), 20_000).height == 256


def test_language_change_counts_revisions_whose_language_can_be_told() -> None:
    english, french = "I am sorry to hear that; what happened?", "Je suis désolé de l'apprendre; que s'est-il passé?"
    rows = frame(
        "revision_rounds",
        revision("a", french, response=english),
        revision("b", english, response=english),
        revision("c", french, response=french),
        revision("d", "x = f(3) + 17", response=english),
        revision("e", "这是一个关于人工智能的回答，我们可以继续讨论。", response=english),
    )
    measured = language_change(tables(rows))
    assert (measured.value, measured.rows) == (0.5, 4)
    told = {one["prompt_id"]: (one["response_language"], one["revision_language"]) for one in measured.examples}
    assert told == {"a": ("en", "fr"), "e": ("en", "zh")}


def test_identical_pairs_differ_in_nothing_but_white_space_at_the_ends() -> None:
    texts = {"a": ("yes", " yes\n"), "b": ("yes", "Yes"), "c": ("yes", "no")}
    rows = frame(
        "response_pairs", *({"pair_id": i, "completion_0": x, "completion_1": y} for i, (x, y) in texts.items())
    )
    measured = identical_pairs(tables(rows))
    assert (measured.value, measured.rows) == (pytest.approx(1 / 3), 3)
    assert [one["pair_id"] for one in measured.examples] == ["a"]


def pair(pair_id: str, **texts: str) -> dict[str, Any]:
    return {"pair_id": pair_id, "completion_0": "first text", "completion_1": "second text", **texts}


def test_missing_judgements_are_those_that_other_pairs_have() -> None:
    """Of three pairs in two orders, one lacks an order and one everything; equal completions are not asked about."""
    pairs = frame("response_pairs", pair("a"), pair("b"), pair("c"), pair("d", completion_1="first text"))
    judged = [judgement("a", order, 0.6, 0.3) for order in ("01", "10")]
    rows = frame("judgements", *judged, judgement("b", "01", 0.6, 0.3))
    measured = missing_judgements(tables(rows, response_pairs=pairs))
    assert (measured.value, measured.rows) == (pytest.approx(3 / 6), 6)
    assert [(one["pair_id"], one["judgements"]) for one in measured.examples] == [("c", 0), ("b", 1)]
    assert measured.examples[0]["completion_1"] == "second text"
    assert missing_judgements(tables(frame("judgements"), response_pairs=pairs)).value == 1


def test_undecided_pairs_are_averaged_over_orders_and_principles() -> None:
    """a: (A) whatever the order. b: 0.9 and 0.2 of two principles. c: 0.9."""
    rows = frame(
        "judgements",
        *(judgement("a", order, 0.9, 0.1) for order in ("01", "10")),
        judgement("b", "01", 0.9, 0.1, "x"),
        judgement("b", "01", 0.2, 0.8, "y"),
        judgement("c", "01", 0.9, 0.1),
    )
    measured = undecided_pairs(tables(rows, response_pairs=frame("response_pairs", pair("a"), pair("b"), pair("c"))))
    assert (measured.value, measured.rows) == (pytest.approx(1 / 3), 3)
    (example,) = measured.examples
    assert (example["pair_id"], example["p_0"], example["completion_0"]) == ("a", pytest.approx(0.5), "first text")


def test_examples_of_judgements_show_the_completions() -> None:
    pairs = frame("response_pairs", pair("a", completion_0="x" * 1_000, completion_1="\x1b[31mred"))
    rows = frame("judgements", *(judgement("a", order, 0.9, 0.05) for order in ("01", "10")))
    for measure in (label_mass, position_bias):
        example = measure(tables(rows, response_pairs=pairs)).examples[0]
        assert example["completion_0"] == "x" * EXCERPT + "…"
        assert example["completion_1"] == "\\x1b[31mred"


def evaluation(**scores: Any) -> dict[str, Any]:
    return {
        "slice": "all",
        "accuracy": 0.7,
        "longer_wins_accuracy": 0.6,
        "length_correlation": -0.3,
        "pairs": 9,
        **scores,
    }


def test_the_reward_model_is_held_to_chance_to_length_and_to_its_correlation_with_length() -> None:
    slices = [evaluation(slice="principle", slice_value=name, accuracy=low) for name, low in (("a", 0.2), ("b", 0.1))]
    rows = tables(frame("reward_model_evaluation", *slices, evaluation(accuracy_low=0.55)))
    assert (reward_accuracy(rows).value, reward_accuracy(rows).rows) == (0.55, 9)
    assert [one["slice_value"] for one in reward_accuracy(rows).examples][:2] == ["b", "a"]
    assert reward_over_length(rows).value == pytest.approx(0.1)
    assert reward_length_correlation(rows).value == -0.3
    single = tables(frame("reward_model_evaluation", evaluation(accuracy_low=None, length_correlation=None)))
    assert reward_accuracy(single).value == 0
    assert reward_length_correlation(single) == Measurement(None, 9, reward_length_correlation(single).examples)


def result(version: str | None, check: str, value: float | None, day: int, data_version: str = "old") -> dict[str, Any]:
    return {
        "table_name": "revision_rounds",
        "constitution_version": version,
        "check_name": check,
        "value": value,
        "rows": 40,
        "checked_at": datetime(2026, 1, day),  # noqa: DTZ001 # as stored
        "data_version": data_version,
    }


def with_history(
    version: str | None, measured: dict[str, float | None], *history: dict[str, Any], bases: tuple[str, ...] = ()
) -> Tables:
    return Tables(
        pl.LazyFrame(),
        constitution_version=version,
        bases=bases,
        data_version="new",
        history=pl.DataFrame(history, schema=TABLES["check_results"].schema),
        measured={name: Measurement(value, 50, []) for name, value in measured.items()},
    )


def test_drift_is_the_largest_change_against_the_nearest_base_that_was_measured() -> None:
    history = [
        result("v2", "refusals", 0.9, day=1),
        result("v2", "refusals", 0.1, day=2),  # its latest counts
        result("v9", "repetition", 0.02, day=3),
        result("v9", "refusals", None, day=3),  # says nothing, so v2 is compared with
        result("v10", "refusals", 0.4, day=4),
        result("v11", "refusals", 0.8, day=9),
        result("v5", "refusals", 0.8, day=9),  # nearer by name, and no base
    ]
    now = {"refusals": 0.3, "repetition": 0.03, "shared_phrase": 0.5}
    measured = drift(with_history("v10", now, *history, bases=("v9", "v2")))
    assert (measured.value, measured.rows) == (pytest.approx(0.2), 2)
    first, second = measured.examples
    assert first | {"change": 0.2} == {
        "check": "refusals",
        "value": 0.3,
        "before": 0.1,
        "change": 0.2,
        "against": "v2",
        "rows": 50,
        "rows_before": 40,
    }
    assert (second["check"], second["against"]) == ("repetition", "v9")


def test_the_first_version_has_nothing_to_drift_from() -> None:
    assert drift(with_history("v1", {"refusals": 0.3})) == Measurement(None, 0, [])
    later = result("v2", "refusals", 0.9, day=1)
    assert drift(with_history("v1", {"refusals": 0.3}, later)) == Measurement(None, 0, [])


def test_a_table_without_versions_drifts_from_the_rows_that_it_had_before() -> None:
    history = [
        result(None, "rejected_share", 0.5, day=1, data_version="older"),
        result(None, "rejected_share", 0.01, day=2),
        result(None, "rejected_share", 0.04, day=3, data_version="new"),
    ]
    measured = drift(with_history(None, {"rejected_share": 0.04}, *history))
    assert measured.value == pytest.approx(0.03)
    assert measured.examples[0]["against"] == "old"


def test_samples_are_of_whole_prompts_and_the_same_in_every_version() -> None:
    ids = [f"{n * 2654435761 % 2**32:08x}" for n in range(400)]
    rows = pl.DataFrame([{"prompt_id": one, "round": number} for one in ids for number in (1, 2)]).lazy()
    sample = measurements._sample(rows, 200)
    assert 120 < sample.height < 280
    assert (sample.group_by("prompt_id").len()["len"] == 2).all()
    assert set(sample["prompt_id"]) < set(measurements._sample(rows, 400)["prompt_id"])
    assert measurements._sample(rows, 800).height == 800


ALONE = [check for check in CHECKS if check.name != "drift"]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.name}-{check.table}")
def test_every_check_measures_an_empty_table(check: Check) -> None:
    others = {name: frame(name) for name in check.also}
    measured = getattr(measurements, check.name)(tables(frame(check.table), **others))
    assert measured.value in (None, 0)
    assert (measured.rows, measured.examples) == (0, [])


def worst(check: Check, number: int) -> dict[str, Any]:
    """A row of the check's table with the worst values there are; each of another prompt."""
    columns = TABLES[check.table].schema.names()
    text = "I cannot help. " * 9
    row: dict[str, Any] = {name: "length" for name in columns if "finish_reason" in name}
    row |= dict.fromkeys(("response", "revision", "completion", "completion_0", "completion_1"), text)
    row |= {"prompt_id": f"{number:02x}", "pair_id": "ab", "order": ("01", "10")[number % 2]}
    row |= {"slice": "one_principle" if check.table == "judge_calibration" else "all", "slice_value": str(number)}
    row |= {"logp_a": -1.0, "logp_b": -1.0, "agreement_low": 0.0, "principle_id": f"{number // 2:02x}"}
    row |= {"chosen": turns(text), "rejected": turns(text)}
    if check.name == "position_bias":
        row["logp_b"] = -2.0
    if check.name == "undecided_pairs":
        row["pair_id"] = f"{number:02x}"
    if check.name == "language_change":
        row |= {"round": 1, "response": "I am sorry to hear that.", "revision": "Je suis désolé de l'apprendre."}
    return {name: value for name, value in row.items() if name in columns}


@pytest.mark.parametrize("check", ALONE, ids=lambda check: f"{check.name}-{check.table}")
def test_every_check_measures_its_own_table_and_shows_a_few_rows(check: Check) -> None:
    rows = frame(check.table, *(worst(check, number) for number in range(100)))
    others = {
        "constitution": frame("constitution", *({"principle_id": f"c{number:x}"} for number in range(20))),
        "response_pairs": frame("response_pairs", *(pair(f"{number:02x}") for number in range(100))),
    }
    rejected = frame("rejected_rows", *({} for _ in range(100)))
    measured = getattr(measurements, check.name)(tables(rows, rejected, **others))
    assert measured.value is not None
    bound_of = DEFAULT_SETTINGS.checks.of(check.name).bound_of(check.table)
    scores_of_all = check.table in {"judge_calibration", "preference_pairs", "reward_model_evaluation"}
    assert scores_of_all or not bound_of.passes(measured.value)
    # A phrase is shown once, however many share it; what is the same everywhere is one example.
    assert len(measured.examples) == (1 if check.name == "shared_phrase" else EXAMPLES)
    assert all(isinstance(value, str | int | float | None) for one in measured.examples for value in one.values())


def test_drift_is_the_last_check_of_every_table_that_has_one() -> None:
    last = {check.table: check.name for check in CHECKS}
    assert set(last.values()) == {"drift"}


def test_each_check_is_on_a_table_once_and_has_bounds_in_the_settings() -> None:
    places = [(check.name, check.table) for check in CHECKS]
    assert len(set(places)) == len(places)
    assert {check.name for check in CHECKS} == set(ChecksSettings.model_fields)
    assert {check.table for check in CHECKS} <= set(TABLES)
    assert all(check.description and check.advice for check in CHECKS)


def test_the_advice_on_rejected_rows_names_the_table() -> None:
    for check in CHECKS:
        if check.name == "rejected_share":
            assert f"'{check.table}'" in check.advice
