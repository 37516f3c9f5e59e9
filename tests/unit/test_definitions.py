"""The code location: what loading it does not do, and what the launchpad and the UI are told."""

import json
import subprocess
import sys

import dagster as dg
import pytest

from cai_dagster.cli import DEMO_SELECTION
from cai_dagster.definitions import ASSETS, POLICY_OPTIMIZATION, build_definitions
from cai_dagster.home import PROJECT

HEAVY = [
    "torch",
    "vllm",
    "ray",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "pandera",
    "duckdb",
    "sqlalchemy",
    "openai",
    "matplotlib",
    "altair",
    "vl_convert",
]
GRAPH = build_definitions().resolve_asset_graph()


def test_loading_imports_nothing_heavy_parses_no_yaml_and_opens_no_database() -> None:
    program = """
import json, sys, yaml, sqlite3
def refuse(*args, **kwargs): raise AssertionError("loading the code location did this")
for name in ("load", "safe_load", "compose", "parse"): setattr(yaml, name, refuse)
sqlite3.connect = refuse
import cai_dagster.definitions
print(json.dumps(sorted(sys.modules)))
"""
    finished = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(finished.stdout.splitlines()[-1]))
    assert loaded.isdisjoint(HEAVY)


def test_the_graph_has_the_assets_and_partitions_of_the_design() -> None:
    partitioned = {key.to_user_string() for key in GRAPH.materializable_asset_keys if GRAPH.get(key).is_partitioned}
    names = {key.to_user_string() for key in GRAPH.materializable_asset_keys}
    assert names - partitioned == {"prompts", "human_preferences", "initial_responses", "teacher_responses"}
    assert partitioned == {
        *("teacher_sft_model", "dpo_model", "rlaif_model", "best_of_n_candidates", "best_of_n"),
        *("policy_responses", "policy_judgements", "policy_evaluation"),
        "report",
        "cost_plan",
        "constitution",
        "revision_rounds",
        "sft_dataset",
        "sl_cai_model",
        "response_pairs",
        "judgements",
        "calibration_judgements",
        "judge_calibration",
        "preference_pairs",
        "reward_model",
        "reward_model_evaluation",
    }


def test_what_is_optimized_on_demand_is_a_group_of_its_own_that_the_demo_leaves_out() -> None:
    groups = {key: GRAPH.get(key).group_name for key in GRAPH.materializable_asset_keys}
    on_demand = {key for key, group in groups.items() if group == "policy_optimization"}
    assert on_demand == {asset.key for asset in POLICY_OPTIMIZATION}
    selection = dg.AssetSelection.from_string(DEMO_SELECTION)
    left_out = dg.AssetKey("cost_plan")
    assert selection.resolve(GRAPH) == {asset.key for asset in ASSETS} - {left_out}


@pytest.mark.parametrize("key", sorted(GRAPH.materializable_asset_keys), ids=lambda key: key.to_user_string())
def test_every_asset_says_who_owns_it_what_it_is_and_what_made_it(key: dg.AssetKey) -> None:
    node = GRAPH.get(key)
    assert node.group_name != "default"
    assert node.kinds
    assert node.owners
    assert node.description
    assert node.code_version


def test_everything_that_holds_the_accelerator_is_in_its_pool() -> None:
    pooled = {
        key.to_user_string() for key in GRAPH.materializable_asset_keys if "gpu" in (GRAPH.get(key).pools or set())
    }
    assert pooled == {
        *(asset.key.to_user_string() for asset in POLICY_OPTIMIZATION),
        "initial_responses",
        "revision_rounds",
        "sl_cai_model",
        "response_pairs",
        "judgements",
        "calibration_judgements",
        "reward_model",
        "reward_model_evaluation",
    }


def test_checks_of_versioned_tables_have_a_history_for_each_version() -> None:
    for key in GRAPH.asset_check_keys:
        check = GRAPH.get(key)
        assert check.blocking
        assert (check.partitions_def is not None) == GRAPH.get(key.asset_key).is_partitioned


def test_every_launchpad_field_has_a_description_and_the_profiles_default() -> None:
    job = build_definitions().resolve_implicit_global_asset_job_def()
    for node in job.nodes:
        schema = node.definition.config_schema.as_field() if node.definition.config_schema else None
        for name, field in getattr(schema.config_type if schema else None, "fields", {}).items():
            assert field.description, f"{node.name}.{name}"
            assert field.default_provided, f"{node.name}.{name}"
