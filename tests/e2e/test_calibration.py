"""The real small model against a few human pairs: judged in both orders, its agreement recomputed from the raw rows."""

import json
import math
from pathlib import Path
from statistics import mean

import dagster as dg
import pytest

from cai_dagster.definitions import build_definitions
from cai_dagster.home import Home
from cai_dagster.models.settings import LanguageModelSettings
from resources.engines.vllm.engine import VllmEngine
from resources.lake import open_lake
from resources.language_models import LanguageModelResource, LedgerResource

THINGS = ("salt", "rope", "glass", "wool")
ASSETS = ["constitution", "human_preferences", "calibration_judgements", "judge_calibration"]


def test_the_small_model_against_humans(
    home_with_model: Home, engine: VllmEngine, engine_settings: LanguageModelSettings, tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"What is {thing} good for?", "chosen": f"Many things use {thing}.", "rejected": "No."}
        for thing in THINGS
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ledger = LedgerResource()
    model = LanguageModelResource(ledger=ledger, **engine_settings.model_dump())
    graph = build_definitions({"ledger": ledger, "policy": model, "feedback_model": model})
    job = graph.resolve_implicit_job_def_def_for_assets([dg.AssetKey(asset) for asset in ASSETS])
    assert job is not None
    config = {"human_preferences": {"sources": [str(file)]}, "calibration_judgements": {"principles_per_pair": 1}}
    job.execute_in_process(
        run_config={"ops": {asset: {"config": values} for asset, values in config.items()}},
        partition_key="v1",
        asset_selection=[dg.AssetKey(asset) for asset in ASSETS],
        raise_on_error=False,  # so small a model does not agree with people
    )
    lake = open_lake(home_with_model)
    people = {row["pair_id"]: row for row in lake.snapshot("human_preferences").frame().to_dicts()}
    odds: dict[str, dict[str, float]] = {pair_id: {} for pair_id in people}
    for row in lake.snapshot("calibration_judgements", "v1").frame().to_dicts():
        odds[row["pair_id"]][row["order"]] = math.exp(row["logp_a"] - row["logp_b"])
    assert all(set(found) == {"01", "10"} for found in odds.values())
    agreements: list[float] = []
    for pair_id, found in odds.items():
        p_0 = mean([found["01"] / (1 + found["01"]), 1 / (1 + found["10"])])
        texts = [people[pair_id][side][0]["content"] for side in ("chosen", "rejected")]
        agreements.append(float((p_0 > 0.5) == first_is_chosen(*texts)))
    slices = lake.snapshot("judge_calibration", "v1").frame().to_dicts()
    (overall,) = [row for row in slices if row["slice"] == "all"]
    assert overall["agreement"] == pytest.approx(mean(agreements))


def first_is_chosen(chosen: str, rejected: str) -> bool:
    """Whether the chosen completion is completion_0: the one whose hash comes first."""
    from hashlib import sha256

    return sha256(json.dumps(chosen).encode()).hexdigest() < sha256(json.dumps(rejected).encode()).hexdigest()
