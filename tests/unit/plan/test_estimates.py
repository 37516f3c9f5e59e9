"""What a plan expects of calls that nobody has made: its interval holds what they cost, also after an edit."""

import random
from collections.abc import Callable

import pytest

from cai_dagster.calls.ledger import CallLengths
from cai_dagster.plan.counting import NewCalls
from cai_dagster.plan.estimates import longer_completions, tokens_of

RUNS, MEASURED, PLANNED = 200, 150, 300
DISTRIBUTIONS: dict[str, Callable[[random.Random], float]] = {
    "no memory": lambda chance: chance.expovariate(1 / 120),
    "heavy tail": lambda chance: chance.lognormvariate(4, 1.2),
    "two kinds": lambda chance: chance.choice([8, 600]) * chance.uniform(0.5, 1.5),
    "all long": lambda chance: chance.uniform(900, 1100),
}


def measured(lengths: list[float], prompts: list[int], most: int, model: str = "model@1") -> CallLengths:
    """What the ledger says of calls whose completions would have had these lengths."""
    said = [min(round(length) + 1, most) for length in lengths]
    mean, prompt_mean = sum(said) / len(said), sum(prompts) / len(prompts)
    return CallLengths(
        model_id=model,
        stage="initial_responses",
        calls=len(said),
        prompt_mean=prompt_mean,
        prompt_variance=sum((one - prompt_mean) ** 2 for one in prompts) / len(prompts),
        completion_mean=mean,
        completion_variance=sum((one - mean) ** 2 for one in said) / len(said),
        longest=max(said),
        cut=sum(length >= most for length in said) / len(said),
    )


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
@pytest.mark.parametrize(("before", "after"), [(48, 384), (48, 48), (384, 48), (200, 250), (16, 2048)])
def test_the_interval_holds_the_cost_after_max_tokens_changed(kind: str, before: int, after: int) -> None:
    chance = random.Random(f"{kind} {before} {after}")
    draw, held = DISTRIBUTIONS[kind], 0
    for _ in range(RUNS):
        prompts = [chance.randint(20, 400) for _ in range(MEASURED)]
        lengths = [measured([draw(chance) for _ in range(MEASURED)], prompts, before)]
        new_prompts = [chance.randint(20, 400) for _ in range(PLANNED)]
        cost = sum(new_prompts) + sum(min(round(draw(chance)) + 1, after) for _ in range(PLANNED))
        new = {"initial_responses": NewCalls(PLANNED, 0, sum(new_prompts), PLANNED * after)}
        tokens = tokens_of(lengths, "model@1", new)
        assert tokens.expected is not None
        assert tokens.low <= tokens.expected <= tokens.high
        held += tokens.low <= cost <= tokens.high
    assert held >= 0.9 * RUNS  # of 200 draws at 95 %, fewer than 180 is no chance


def test_a_longer_limit_widens_the_interval_only_where_completions_were_cut() -> None:
    ended = measured([20.0] * 50 + [30.0] * 50, [100] * 100, 48)
    cut = measured([20.0] * 50 + [900.0] * 50, [100] * 100, 48)
    same, longer = (NewCalls(100, 0, 10_000, 100 * most) for most in (48, 384))
    widths = {}
    for name, lengths in (("ended", ended), ("cut", cut)):
        for limit, new in (("same", same), ("longer", longer)):
            tokens = tokens_of([lengths], "model@1", {"initial_responses": new})
            widths[name, limit] = tokens.high - tokens.low
    assert widths["ended", "longer"] == pytest.approx(widths["ended", "same"])
    assert widths["cut", "longer"] > widths["cut", "same"] + 100 * 0.5 * 300


def test_another_model_may_write_anything_up_to_the_limit() -> None:
    lengths = [measured([20.0] * 100, [100] * 100, 48, model="other@2")]
    tokens = tokens_of(lengths, "model@1", {"initial_responses": NewCalls(10, 0, 1_000, 480)})
    assert (tokens.low, tokens.high) == (1_010, 1_480)
    assert tokens.expected == pytest.approx(1_000 + 10 * 21)


def test_what_was_never_measured_has_bounds_and_no_estimate() -> None:
    tokens = tokens_of([], "model@1", {"judgements": NewCalls(10, 0, 1_000, 10)})
    assert (tokens.expected, tokens.low, tokens.high) == (None, 1_010, 1_010)


def test_a_prompt_that_quotes_unseen_texts_may_be_longer_by_what_those_may_be_longer() -> None:
    lengths = [measured([20.0] * 50 + [90.0] * 50, [100] * 100, 48)]
    new = {"initial_responses": NewCalls(100, 100, 0, 100 * 48)}
    longer = longer_completions(lengths, "model@1", {"initial_responses": NewCalls(100, 0, 0, 100 * 384)})
    assert longer == 384 - 48
    plain, quoting = tokens_of(lengths, "model@1", new), tokens_of(lengths, "model@1", new, longer)
    assert quoting.high == pytest.approx(plain.high + 100 * longer)
    assert (quoting.low, quoting.expected) == (plain.low, plain.expected)
