"""The plan says, before any model is loaded, exactly what the run then pays for; and says so where it cannot."""

from pathlib import Path
from typing import Any

import pytest

from cai_dagster.calls.ledger import open_ledger
from cai_dagster.home import Home
from cai_dagster.judging.settings import JudgingMethod
from cai_dagster.plan.cost import CostPlan, PlanError, StagePlan, plan
from cai_dagster.settings import Settings, active_settings
from resources.lake import open_lake
from tests.scripted_graph import (
    WITHOUT_TRAINING,
    materialize,
    metadata,
    pretend_trained,
    scripted_models,
    write_prompts,
)

QUESTIONS = [f"question {number}" for number in range(60)]


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """Launchpad config by asset: few prompts, two rounds."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", QUESTIONS)
    return {"prompts": prompts, "revision_rounds": {"rounds": 2}, "sft_dataset": {"min_rows": 1}}


def settings_for(config: dict[str, Any]) -> Settings:
    """The settings that the launchpad config stands for: a plan reads settings, not the launchpad."""
    settings = active_settings()
    changed = {name: getattr(settings, name).model_copy(update=values) for name, values in config.items()}
    return settings.model_copy(update=changed)


def planned(
    home: Home, config: dict[str, Any], *versions: str, select: tuple[str, ...] = (), **fields: Any
) -> CostPlan:
    policy, feedback_model = scripted_models(**fields)
    return plan(home, settings_for(config), policy, feedback_model, versions or ("v1",), select)


def stage_of(made: CostPlan, asset: str, version: str | None = "v1") -> StagePlan:
    (stage,) = [stage for stage in made.stages if (stage.asset, stage.constitution_version) == (asset, version)]
    return stage


def paid(result: Any, asset: str) -> tuple[int, int]:
    shown = metadata(result, asset)
    return shown["ledger_hits"], shown["ledger_misses"]


def counts(stage: StagePlan) -> tuple[int, int]:
    return stage.in_ledger, stage.new


def test_before_the_first_run_everything_is_new_and_later_stages_are_bounds(home: Home, config: dict[str, Any]) -> None:
    made = planned(home, config)
    assert counts(stage_of(made, "initial_responses", None)) == (0, 60)
    assert stage_of(made, "initial_responses", None).exact
    rounds = stage_of(made, "revision_rounds")
    assert (rounds.calls, rounds.new, rounds.exact) == (240, 240, False)
    assert not stage_of(made, "judgements").exact
    assert [checkpoint.exists for checkpoint in made.checkpoints] == [None, None]
    assert stage_of(made, "initial_responses", None).tokens_estimate is None
    result = materialize(WITHOUT_TRAINING, config)
    assert paid(result, "initial_responses") == (0, 60)
    assert paid(result, "revision_rounds") == (0, 240)


def test_new_calls_of_a_changed_version_are_the_ledger_misses_of_its_run(home: Home, config: dict[str, Any]) -> None:
    together = planned(home, config, "v1", "v2")
    materialize(WITHOUT_TRAINING, config)
    before = open_ledger(home).totals()
    made = stage_of(planned(home, config, "v2"), "revision_rounds", "v2")
    assert open_ledger(home).totals() == before
    assert not list(home.staging.iterdir())

    result = materialize(["constitution", "revision_rounds"], config, version="v2")
    assert made.exact
    assert 0 < made.new < made.calls
    assert counts(made) == paid(result, "revision_rounds")
    # Planned together, the versions share what they share, and what both need is there once.
    assert counts(stage_of(together, "revision_rounds", "v2")) == counts(made)
    assert len([stage for stage in together.stages if stage.asset == "initial_responses"]) == 1

    assert made.tokens_estimate is not None
    assert 0 < made.tokens_low <= made.tokens_estimate <= made.tokens_high
    assert made.seconds_estimate is not None
    assert made.seconds_estimate >= 0


def test_pairs_and_judgements_are_exact_once_the_checkpoint_is_there(
    home: Home, config: dict[str, Any], tmp_path: Path
) -> None:
    later = ["response_pairs", "judgements"]
    materialize(WITHOUT_TRAINING, config)
    pretend_trained(home, tmp_path / "checkpoint")
    select = ("response_pairs", "judgements")
    materialize(["response_pairs"], config)
    judged = stage_of(planned(home, config, select=("judgements",)), "judgements")
    result = materialize(["judgements"], config)
    assert judged.exact
    assert judged.new > 0
    assert counts(judged) == paid(result, "judgements")
    again = planned(home, config, select=select)
    result = materialize(later, config)
    for asset in later:
        assert stage_of(again, asset).new == 0
        assert counts(stage_of(again, asset)) == paid(result, asset)


@pytest.mark.parametrize("method", JudgingMethod)
def test_every_judging_method_is_planned_as_it_runs(
    home: Home, config: dict[str, Any], tmp_path: Path, method: JudgingMethod
) -> None:
    """Rationales that nobody has seen yet, scores of two calls: counted before they are made."""
    config["judgements"] = {"method": method.value, "principles_per_pair": 2}
    config["response_pairs"] = {"source": "revisions"}
    materialize(WITHOUT_TRAINING, config)
    pretend_trained(home, tmp_path / "checkpoint")
    materialize(["response_pairs"], config)
    made = stage_of(planned(home, config, select=("judgements",)), "judgements")
    result = materialize(["judgements"], config)
    assert made.exact
    assert counts(made) == paid(result, "judgements")
    pairs = open_lake(home).snapshot("response_pairs", "v1").frame().height
    calls_per_pair = {"one_principle": 4, "several_principles": 2, "rationale": 8, "scoring": 8, "direct": 0}[method]
    assert made.calls == pairs * calls_per_pair
    again = stage_of(planned(home, config, select=("judgements",)), "judgements")
    assert (again.in_ledger, again.new) == (made.calls, 0)


def test_rows_that_are_set_aside_are_counted_as_the_run_counts_them(home: Home, config: dict[str, Any]) -> None:
    config["prompts"] = write_prompts(home.root.parent / "long.jsonl", [*QUESTIONS, "x" * 1000])
    config["initial_responses"] = {"max_tokens": 300}
    made = stage_of(planned(home, config, max_model_len=1200), "initial_responses", None)
    result = materialize(WITHOUT_TRAINING[:3], config, max_model_len=1200)
    assert counts(made) == paid(result, "initial_responses") == (0, 60)


def test_a_call_to_be_made_again_is_planned_as_new(home: Home, config: dict[str, Any]) -> None:
    materialize(WITHOUT_TRAINING, config)
    rounds = open_lake(home).snapshot("revision_rounds", "v1").frame()
    open_ledger(home).retry([rounds["critique_request_id"][0]], "length")
    made = stage_of(planned(home, config), "revision_rounds")
    result = materialize(["revision_rounds"], config)
    assert counts(made) == paid(result, "revision_rounds")
    assert 2 <= made.new <= 4


def test_an_asset_without_a_plan_is_refused_by_name(home: Home, config: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="no plan for revisions; --select takes constitution, prompts"):
        planned(home, config, select=("revisions",))
