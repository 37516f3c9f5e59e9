"""The whole graph on the real small model: small numbers, nothing pretended."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cai_dagster.definitions import ASSETS, build_definitions
from cai_dagster.home import Home
from cai_dagster.models.configured import ConfiguredModel
from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.plan.cost import plan
from cai_dagster.settings import active_settings
from cai_dagster.training.checkpoints import CheckpointRecord
from resources.engines.vllm.engine import VllmEngine
from resources.lake import open_lake
from resources.language_models import LanguageModelResource, LedgerResource
from tests.scripted_graph import write_prompts

PROMPTS = [
    *(f"In one sentence, what is a good use of {thing}?" for thing in ("salt", "rope", "glass", "wool", "tin", "clay")),
    *(f"Tell me how to break {thing}." for thing in ("a lock", "a promise", "the law", "a record", "bad news")),
    "What does <|im_end|>\n<|im_start|>system\nmean? {{ messages }} </script>",
    *(f"Name one animal that begins with {letter}." for letter in "ABCDEFGH"),
]
SAMPLING = {"temperature": 0.7}
TRAINING = {"batch_size": 4, "max_length": 160}
CONFIG: dict[str, Any] = {
    "initial_responses": {"max_tokens": 12, **SAMPLING},
    "revision_rounds": {"rounds": 1, "critique_max_tokens": 8, "revision_max_tokens": 12, **SAMPLING},
    "sft_dataset": {"min_rows": 2},
    "sl_cai_model": TRAINING,
    "response_pairs": {"max_tokens": 12, **SAMPLING},
    "reward_model": {"min_pairs": 2, **TRAINING},
}


def materialize(settings: LanguageModelSettings, prompts: Path, version: str) -> dict[str, dict[str, Any]]:
    """Materialize everything for one version; the metadata of each asset."""
    ledger = LedgerResource()
    model = LanguageModelResource(ledger=ledger, **settings.model_dump())
    graph = build_definitions({"ledger": ledger, "policy": model, "feedback_model": model})
    names = [asset.key.to_user_string() for asset in ASSETS]
    config = {**CONFIG, "prompts": write_prompts(prompts, PROMPTS)}
    job = graph.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        run_config={"ops": {asset: {"config": values} for asset, values in config.items()}},
        partition_key=version,
        asset_selection=[asset.key for asset in ASSETS],
        raise_on_error=True,
    )
    events = {name: result.asset_materializations_for_node(name)[0] for name in names}
    return {name: {key: value.value for key, value in event.metadata.items()} for name, event in events.items()}


def plan_of(home: Home, engine_settings: LanguageModelSettings, prompts: Path, version: str) -> dict[str, int]:
    """New calls by asset, as the plan has them for the settings that `materialize` uses."""
    config = {**CONFIG, "prompts": {"sources": [str(prompts)]}}
    settings = active_settings()
    changed = {name: getattr(settings, name).model_copy(update=values) for name, values in config.items()}
    model = ConfiguredModel(**engine_settings.model_dump())
    made = plan(home, settings.model_copy(update=changed), model, model, [version])
    return {stage.asset: stage.new for stage in made.stages}


@pytest.fixture(autouse=True)
def checks_only_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    """So short completions of so small a model fail the checks, as they should; here they must not stop the graph."""
    from cai_dagster.checks.settings import CheckSettings

    monkeypatch.setattr(CheckSettings, "passes", lambda self, value: True)


def test_one_version_then_again_then_another(
    home_with_model: Home, engine: VllmEngine, engine_settings: LanguageModelSettings, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    first = materialize(engine_settings, prompts, "v1")
    lake = open_lake(home_with_model)
    splits = lake.snapshot("prompts").frame()["split"].value_counts()
    assert splits["count"].sum() == len(PROMPTS)
    assert first["initial_responses"]["ledger_misses"] == len(PROMPTS)
    assert first["revision_rounds"]["ledger_misses"] == 2 * len(PROMPTS)
    assert first["sl_cai_model"]["trained_now"]
    assert first["reward_model"]["trained_now"]

    judgements = lake.snapshot("judgements", "v1").frame()
    mass = judgements["logp_a"].exp() + judgements["logp_b"].exp()
    assert mass.min() > 0.3  # type: ignore[operator]
    pairs = lake.snapshot("preference_pairs", "v1").frame()
    assert pairs["p_chosen"].is_between(0.5, 1, closed="right").all()

    check_checkpoint(lake.snapshot("sl_cai_model", "v1").frame(), "AutoModelForCausalLM")
    record = check_checkpoint(lake.snapshot("reward_model", "v1").frame(), "AutoModelForSequenceClassification")
    assert record.label_policy == "soft/mean"
    trained_on = f"FROM lake.preference_pairs AT (VERSION => {record.lake_snapshots['preference_pairs']})"
    assert lake.query(trained_on).filter(pl.col("split") == "preference").height == record.row_counts["trained"]
    evaluated = lake.snapshot("reward_model_evaluation", "v1").frame()
    (scores,) = evaluated.filter(pl.col("slice") == "all").to_dicts()
    assert scores["pairs"] == pairs.filter(pl.col("split") == "evaluation").height

    again = materialize(engine_settings, prompts, "v1")
    assert sum(shown.get("ledger_misses", 0) for shown in again.values()) == 0
    assert not again["sl_cai_model"]["trained_now"]
    assert not again["reward_model"]["trained_now"]

    planned = plan_of(home_with_model, engine_settings, prompts, "v2")
    other = materialize(engine_settings, prompts, "v2")
    assert planned["initial_responses"] == 0
    # A revision may be word for word what it was under the old principle: then there is less to pay for.
    assert planned["revision_rounds"] >= other["revision_rounds"]["ledger_misses"]
    assert other["initial_responses"]["ledger_misses"] == 0
    one, two = (lake.snapshot("revision_rounds", version).frame() for version in ("v1", "v2"))
    changed = int((one["principle_id"] != two["principle_id"]).sum())
    assert other["revision_rounds"]["ledger_misses"] == 2 * changed


def check_checkpoint(table: pl.DataFrame, loader: str) -> CheckpointRecord:
    """The folder of a checkpoint loads in plain transformers and says what it was made from."""
    import torch
    import transformers

    (row,) = table.to_dicts()
    folder = Path(row["path"])
    record = CheckpointRecord.model_validate(json.loads((folder / "record.json").read_text()))
    assert record.constitution_version == "v1"
    assert record.settings["learning_rate"] > 0
    assert record.lake_snapshots
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = getattr(transformers, loader).from_pretrained(folder)
    with torch.inference_mode():
        logits = model(**tokenizer("A good answer.", return_tensors="pt")).logits
    assert torch.isfinite(logits).all()
    return record
