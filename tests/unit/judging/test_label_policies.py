import math
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_dagster.judging.label_policies import (
    SOFT_MEAN,
    disregarded,
    label_pairs,
    p_first,
    p_first_under,
    policy_text,
    preference_rows,
)
from cai_dagster.judging.settings import JudgingMethod, LabelPolicy, PreferencePairsSettings, PrincipleEnsemble
from cai_dagster.tables.registry import TABLES

# pair, principle, order, log P(A), log P(B)
Evidence = tuple[str, str, str, float, float]


def policy(
    label_policy: LabelPolicy, ensemble: PrincipleEnsemble = PrincipleEnsemble.mean, clamp_at: float = 0.6
) -> PreferencePairsSettings:
    return PreferencePairsSettings(label_policy=label_policy, ensemble=ensemble, clamp_at=clamp_at)


SOFT, HARD = policy(LabelPolicy.soft), policy(LabelPolicy.hard)
CLAMPED, AGREEMENT = policy(LabelPolicy.clamped), policy(LabelPolicy.agreement_only)
DOMINANT = policy(LabelPolicy.soft, PrincipleEnsemble.dominant)
WEIGHTS = policy(LabelPolicy.soft, PrincipleEnsemble.weights)
POLICIES = [policy(one, ensemble) for one in LabelPolicy for ensemble in PrincipleEnsemble]


def judgements(
    *evidence: Evidence,
    rationale: str | None = None,
    method: JudgingMethod = JudgingMethod.one_principle,
    weights: dict[str, float] | None = None,
) -> pl.DataFrame:
    columns = {"pair_id": str, "principle_id": str, "order": str, "logp_a": float, "logp_b": float}
    return pl.DataFrame(list(evidence), schema=columns, orient="row").with_columns(
        pl.lit(rationale, dtype=pl.String).alias("rationale"),
        pl.lit(method.value).alias("method"),
        pl.col("principle_id")
        .replace_strict(weights or {}, default=1.0, return_dtype=pl.Float64)
        .alias("principle_weight"),
    )


def pairs(**texts: tuple[str, str]) -> pl.DataFrame:
    schema = {"pair_id": str, "prompt_id": str, "source": str, "completion_0": str, "completion_1": str}
    rows = [(pair_id, f"{pair_id}{pair_id}", "revisions", *both) for pair_id, both in texts.items()]
    return pl.DataFrame(rows, schema=schema, orient="row")


def says(pair_id: str, principle_id: str, order: str, p_a: float, mass: float = 1.0) -> Evidence:
    """A judge that gives the first text shown the probability p_a."""
    return (pair_id, principle_id, order, math.log(p_a * mass), math.log((1 - p_a) * mass))


def label(texts: pl.DataFrame, evidence: pl.DataFrame, under: PreferencePairsSettings = SOFT) -> dict[str, Any]:
    rows = label_pairs(texts.lazy(), evidence.lazy(), under).collect().iter_rows(named=True)
    return {row["pair_id"]: (row["chosen"], row["rejected"], row["p_chosen"]) for row in rows}


def counted(texts: pl.DataFrame, evidence: pl.DataFrame, under: PreferencePairsSettings = SOFT) -> dict[str, int]:
    """The reasons that came up."""
    by_reason = disregarded(texts.lazy(), evidence.lazy(), under)
    assert list(by_reason) == ["not judged", "identical texts", "ties", "no agreement between the orders"]
    return {reason: count for reason, count in by_reason.items() if count}


def probability(
    *evidence: Evidence, under: PreferencePairsSettings = SOFT, weights: dict[str, float] | None = None
) -> float:
    (row,) = p_first_under(judgements(*evidence, weights=weights).lazy(), under).collect().to_dicts()
    return row["p_0"]


def test_both_orders_are_averaged_in_probability() -> None:
    """0.99 and 0.6 for completion_0: their mean is 0.795; in log odds it would be 0.9241."""
    assert probability(says("p", "x", "01", 0.99), says("p", "x", "10", 0.4)) == pytest.approx(0.795)


def test_each_principle_counts_once() -> None:
    """x is judged in both orders (mean 0.3), y in one (0.9): (0.3 + 0.9) / 2, not (0.2 + 0.4 + 0.9) / 3."""
    evidence = [says("p", "x", "01", 0.2), says("p", "x", "10", 0.6), says("p", "y", "01", 0.9)]
    assert probability(*evidence) == pytest.approx(0.6)


def test_pairs_do_not_mix() -> None:
    frame = p_first(judgements(says("q", "x", "01", 0.1), says("p", "x", "01", 0.7), says("p", "y", "10", 0.7)))
    assert frame["pair_id"].to_list() == ["p", "q"]
    assert frame["p_0"].to_list() == pytest.approx([0.5, 0.1])


@pytest.mark.parametrize("mass", [1.0, 1e-3, 1e-200])
def test_the_two_labels_are_renormalised_however_small_their_mass(mass: float) -> None:
    assert probability(says("p", "x", "01", 0.8, mass)) == pytest.approx(0.8)
    assert probability(says("p", "x", "10", 0.8, mass)) == pytest.approx(0.2)


@pytest.mark.parametrize(("logp_a", "logp_b", "expected"), [(-2_000.0, -1.0, 0.0), (-1.0, -2_000.0, 1.0)])
def test_extreme_log_probabilities_saturate(logp_a: float, logp_b: float, expected: float) -> None:
    assert probability(("p", "x", "01", logp_a, logp_b)) == expected


def test_the_letter_is_read_back_to_the_text_it_was_shown_for() -> None:
    """Whichever way it is shown, this judge likes "good": as (B) in order 01, as (A) in order 10."""
    evidence = judgements(says("p", "x", "01", 0.1), says("p", "x", "10", 0.9))
    assert label(pairs(p=("bad", "good")), evidence)["p"] == ("good", "bad", pytest.approx(0.9))


def test_a_judge_that_follows_the_position_gives_a_tie() -> None:
    """Always (B), in both orders."""
    texts = pairs(p=("one", "two"))
    evidence = judgements(says("p", "x", "01", 0.1), says("p", "x", "10", 0.1))
    assert label(texts, evidence) == {}
    assert counted(texts, evidence) == {"ties": 1}


def test_ties_that_only_rounding_breaks_are_ties() -> None:
    """Two principles that disagree exactly: 1 / (1 + e^d) and 1 / (1 + e^-d) need not add up to one in floats."""
    gaps = [number / 7 for number in range(1, 60)]
    texts = pairs(**{f"p{number}": ("one", "two") for number in range(len(gaps))})
    evidence = judgements(
        *((f"p{number}", "x", "01", -1.0, -1.0 - gap) for number, gap in enumerate(gaps)),
        *((f"p{number}", "y", "01", -1.0 - gap, -1.0) for number, gap in enumerate(gaps)),
    )
    assert label(texts, evidence, HARD) == {}
    assert counted(texts, evidence) == {"ties": len(gaps)}


def test_a_verdict_in_which_neither_letter_is_possible_is_no_verdict() -> None:
    """P(A) = P(B) = 0: 0 / 0 is not a preference for completion_0."""
    texts = pairs(p=("one", "two"))
    evidence = judgements(("p", "x", "01", -math.inf, -math.inf))
    for under in POLICIES:
        assert label(texts, evidence, under) == {}
    assert counted(texts, evidence) == {"not judged": 1}


def test_a_pair_that_was_not_judged_gives_no_pair_and_is_counted() -> None:
    texts = pairs(p=("one", "two"), q=("three", "four"), r=("same", "same"))
    evidence = judgements(says("p", "x", "01", 0.9))
    for under in (SOFT, HARD):
        assert list(label(texts, evidence, under)) == ["p"]
    assert counted(texts, evidence) == {"not judged": 1, "identical texts": 1}


def test_identical_texts_give_no_pair_and_are_counted() -> None:
    texts = pairs(p=("same", "same"), q=("same", "same"), r=("one", "two"))
    evidence = judgements(says("p", "x", "01", 0.9), says("q", "x", "01", 0.5), says("r", "x", "01", 0.9))
    assert list(label(texts, evidence)) == ["r"]
    assert counted(texts, evidence) == {"identical texts": 2}


def test_no_pairs_and_no_judgements_give_nothing() -> None:
    assert label(pairs(), judgements()) == {}
    assert counted(pairs(), judgements()) == {}
    assert label(pairs(p=("one", "two")), judgements()) == {}


def test_the_hard_policy_keeps_the_pairs_and_is_certain() -> None:
    texts = pairs(p=("one", "two"), q=("three", "four"))
    evidence = judgements(says("p", "x", "01", 0.51), says("q", "x", "01", 0.2))
    soft, hard = label(texts, evidence, SOFT), label(texts, evidence, HARD)
    assert soft == {"p": ("one", "two", pytest.approx(0.51)), "q": ("four", "three", pytest.approx(0.8))}
    assert hard == {"p": ("one", "two", 1.0), "q": ("four", "three", 1.0)}


def test_the_policy_and_its_parameters_are_in_the_rows() -> None:
    texts, evidence = pairs(p=("one", "two")), judgements(says("p", "x", "01", 0.9))
    for under in POLICIES:
        labelled = label_pairs(texts.lazy(), evidence.with_columns(rationale=pl.lit("so")).lazy(), under).collect()
        assert set(labelled["label_policy"]) <= {policy_text(under)}
    assert policy_text(SOFT_MEAN) == "soft/mean"
    assert policy_text(policy(LabelPolicy.clamped, PrincipleEnsemble.dominant, 0.75)) == "clamped(0.25,0.75)/dominant"
    assert policy_text(CLAMPED) == "clamped(0.4,0.6)/mean"
    assert len({policy_text(under) for under in POLICIES}) == len(POLICIES)


def test_the_clamped_policy_clamps_labels_after_a_rationale_and_no_others() -> None:
    """0.9 and 0.55 for completion_0 become 0.6 and 0.55; normalised first, for the masses are small."""
    evidence = (says("p", "x", "01", 0.9, 1e-3), says("p", "x", "10", 0.45, 1e-3))
    texts = pairs(p=("one", "two"))
    assert label(texts, judgements(*evidence, rationale="so"), CLAMPED)["p"][2] == pytest.approx(0.575)
    assert label(texts, judgements(*evidence), CLAMPED)["p"][2] == pytest.approx(0.725)
    assert label(texts, judgements(*evidence, rationale="so"), SOFT)["p"][2] == pytest.approx(0.725)


def test_an_empty_rationale_is_a_rationale() -> None:
    evidence = judgements(says("p", "x", "01", 0.9), rationale="")
    assert label(pairs(p=("one", "two")), evidence, CLAMPED)["p"][2] == pytest.approx(0.6)


def test_agreement_only_drops_a_pair_whose_orders_disagree() -> None:
    """p: 0.9 and 0.6 for completion_0. q: 0.9 and 0.4. r: judged in one order only. s: 0.9 and 0.5."""
    evidence = judgements(
        says("p", "x", "01", 0.9), says("p", "x", "10", 0.4),
        says("q", "x", "01", 0.9), says("q", "x", "10", 0.6),
        says("r", "x", "01", 0.9),
        says("s", "x", "01", 0.9), says("s", "x", "10", 0.5),
    )  # fmt: skip
    texts = pairs(p=("one", "two"), q=("one", "two"), r=("one", "two"), s=("one", "two"), t=("one", "two"))
    assert label(texts, evidence, AGREEMENT) == {"p": ("one", "two", pytest.approx(0.75))}
    assert counted(texts, evidence, AGREEMENT) == {"no agreement between the orders": 3, "not judged": 1}
    assert set(label(texts, evidence, SOFT)) == {"p", "q", "r", "s"}


def test_agreement_only_keeps_the_principles_that_agree() -> None:
    evidence = judgements(
        says("p", "x", "01", 0.9), says("p", "x", "10", 0.1), says("p", "y", "01", 0.1), says("p", "y", "10", 0.2)
    )
    assert label(pairs(p=("one", "two")), evidence, AGREEMENT) == {"p": ("one", "two", pytest.approx(0.9))}


def test_scores_have_no_order_in_which_to_disagree() -> None:
    evidence = judgements(says("p", "x", "01", 0.7), method=JudgingMethod.scoring)
    assert label(pairs(p=("one", "two")), evidence, AGREEMENT)["p"][2] == pytest.approx(0.7)


def test_the_dominant_principle_is_the_one_furthest_from_one_half() -> None:
    evidence = [says("p", "x", "01", 0.7), says("p", "y", "01", 0.1), says("p", "z", "01", 0.8)]
    assert probability(*evidence, under=DOMINANT) == pytest.approx(0.1)


def test_a_principle_dominates_with_both_orders_averaged() -> None:
    """x: 0.99 and 0.03, mean 0.51; y: 0.6 both times."""
    evidence = [
        says("p", "x", "01", 0.99),
        says("p", "x", "10", 0.97),
        says("p", "y", "01", 0.6),
        says("p", "y", "10", 0.4),
    ]
    assert probability(*evidence, under=DOMINANT) == pytest.approx(0.6)


def test_principles_that_are_as_sure_of_either_side_are_a_tie() -> None:
    evidence = judgements(says("p", "x", "01", 0.9), says("p", "y", "10", 0.9), says("p", "z", "01", 0.6))
    texts = pairs(p=("one", "two"))
    assert label(texts, evidence, DOMINANT) == {}
    assert counted(texts, evidence, DOMINANT) == {"ties": 1}


def test_principles_are_weighted_as_in_the_constitution() -> None:
    evidence = [says("p", "x", "01", 0.9), says("p", "y", "01", 0.4)]
    assert probability(*evidence, under=WEIGHTS, weights={"x": 1.0, "y": 4.0}) == pytest.approx(0.5)
    assert probability(*evidence, under=WEIGHTS, weights={"x": 3.0, "y": 1.0}) == pytest.approx(0.775)
    assert probability(*evidence, under=SOFT, weights={"x": 3.0, "y": 1.0}) == pytest.approx(0.65)


LOGPROBS = st.floats(-30, 0, allow_subnormal=False)
JUDGED = st.lists(
    st.tuples(st.sampled_from(["x", "y", "z"]), st.sampled_from(["01", "10"]), LOGPROBS, LOGPROBS),
    min_size=1,
    max_size=6,
    unique_by=lambda judged: judged[:2],
)
EVIDENCE = st.dictionaries(st.sampled_from(["p", "q", "r"]), JUDGED, max_size=3)
TEXTS = st.dictionaries(st.sampled_from(["p", "q", "r"]), st.tuples(*[st.sampled_from(["one", "two"])] * 2))


@given(texts=TEXTS, evidence=EVIDENCE)
def test_a_pair_is_labelled_or_counted_and_its_label_is_above_one_half(
    texts: dict[str, tuple[str, str]], evidence: dict[str, list[Any]]
) -> None:
    all_pairs = pairs(**texts)
    judged = judgements(*((pair_id, *one) for pair_id, many in evidence.items() for one in many), rationale="so")
    for under in POLICIES:
        labelled = label(all_pairs, judged, under)
        assert len(labelled) + sum(counted(all_pairs, judged, under).values()) == len(texts)
        for pair_id, (chosen, rejected, p_chosen) in labelled.items():
            assert 0.5 < p_chosen <= 1
            assert {chosen, rejected} == set(texts[pair_id]) == {"one", "two"}
            assert pair_id in evidence


@given(judged=JUDGED, other_way=st.sampled_from(["order", "letters"]), under=st.sampled_from(POLICIES))
def test_naming_the_completions_the_other_way_round_leaves_the_label(
    judged: list[Any], other_way: str, under: PreferencePairsSettings
) -> None:
    """The same verdicts on the same texts, with 0 and 1 swapped: the order turns round, or the two letters do."""
    turned = {"01": "10", "10": "01"}
    if other_way == "order":
        renamed = [(principle, turned[order], a, b) for principle, order, a, b in judged]
    else:
        renamed = [(principle, order, b, a) for principle, order, a, b in judged]
    weights = {"x": 1.0, "y": 0.3, "z": 7.0}
    first, second = (
        label(pairs(p=texts), judgements(*(("p", *one) for one in shown), rationale="so", weights=weights), under)
        for texts, shown in ((("one", "two"), judged), (("two", "one"), renamed))
    )
    assert set(first) == set(second)
    for pair_id, (chosen, rejected, p_chosen) in first.items():
        assert second[pair_id] == (chosen, rejected, pytest.approx(p_chosen, abs=1e-12))


@given(judged=JUDGED, random=st.randoms(use_true_random=False), ensemble=st.sampled_from(PrincipleEnsemble))
def test_the_order_of_the_judgements_does_not_matter_to_the_last_bit(
    judged: list[Any], random: Any, ensemble: PrincipleEnsemble
) -> None:
    under, weights = policy(LabelPolicy.soft, ensemble), {"x": 1.0, "y": 0.3, "z": 7.0}
    first, second = (
        probability(*(("p", *one) for one in rows), under=under, weights=weights)
        for rows in (judged, random.sample(judged, len(judged)))
    )
    assert first == second


def test_preference_rows_are_conversations_that_fit_their_table() -> None:
    prompts = pl.DataFrame(
        [{"prompt_id": "aa", "split": "preference", "messages": [{"role": "user", "content": "Why?"}]}]
    )
    texts, evidence = pairs(a=("one", "two"), b=("no", "prompt")), judgements(says("a", "x", "01", 0.2))
    labelled = label_pairs(texts.lazy(), evidence.lazy(), SOFT)
    (row,) = preference_rows(labelled, prompts.lazy()).collect().to_dicts()
    assert row["prompt"] == [{"role": "user", "content": "Why?"}]
    assert row["chosen"] == [{"role": "assistant", "content": "two"}]
    assert row["rejected"] == [{"role": "assistant", "content": "one"}]
    assert (row["split"], row["prompt_id"], row["source"]) == ("preference", "aa", "revisions")
    assert set(TABLES["preference_pairs"].schema.names()) - {"constitution_version"} <= set(row)
