"""The code location: what loading it does not do, and what the launchpad and the UI are told."""

import ast
import json
import subprocess
import sys

import dagster as dg
import pytest

from cai_dagster.definitions import ASSETS, COMPARISON, POLICY_OPTIMIZATION, build_definitions
from cai_dagster.project import PROJECT
from cai_dagster.settings import active_settings
from cai_dagster.tables.registry import required_assets

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


MAY_NOT_IMPORT = {"cai_dagster": {"dagster", "assets", "resources"}, "resources": {"assets"}}


def test_imports_run_one_way() -> None:
    found: list[str] = []
    for package, forbidden in MAY_NOT_IMPORT.items():
        for file in sorted((PROJECT / package).rglob("*.py")):
            if file.name == "definitions.py":
                continue
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                found += [f"{file}: {name}" for name in names if name.split(".")[0] in forbidden]
                found += [f"{file}: {name}" for name in names if name == "cai_dagster.definitions"]
    assert found == []


def test_the_graph_has_the_assets_and_partitions_of_the_design() -> None:
    partitioned = {key.to_user_string() for key in GRAPH.materializable_asset_keys if GRAPH.get(key).is_partitioned}
    names = {key.to_user_string() for key in GRAPH.materializable_asset_keys}
    assert names - partitioned == {"prompts", "human_preferences", "initial_responses", "teacher_responses"}
    assert partitioned == {
        *("teacher_sft_model", "dpo_model", "rlaif_model", "best_of_n_candidates", "best_of_n"),
        *("policy_responses", "policy_judgements", "policy_evaluation"),
        *("version_judgements", "constitution_diff"),
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


def test_what_is_made_on_demand_is_in_groups_of_its_own_that_the_demo_leaves_out() -> None:
    groups = {key: GRAPH.get(key).group_name for key in GRAPH.materializable_asset_keys}
    groups.pop(dg.AssetKey("constitution_diff"))  # asks no model: each version is compared with its base
    for group, assets in (("policy_optimization", POLICY_OPTIMIZATION), ("comparison", COMPARISON)):
        assert {key for key in groups if groups[key] == group} == {asset.key for asset in assets}
    left_out = dg.AssetKey("cost_plan")
    job = build_definitions().resolve_job_def("constitutional_ai")
    assert job.asset_layer.executable_asset_keys == {asset.key for asset in ASSETS} - {left_out}
    assert {check.asset_key for check in job.asset_layer.asset_graph.asset_check_keys} <= {
        asset.key for asset in ASSETS
    }


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
        "version_judgements",
    }


def test_checks_of_versioned_tables_have_a_history_for_each_version() -> None:
    for key in GRAPH.asset_check_keys:
        check = GRAPH.get(key)
        assert check.blocking == (
            active_settings().checks.of(key.name).bound_of(key.asset_key.path[0]).severity == "ERROR"
        )
        assert (check.partitions_def is not None) == GRAPH.get(key.asset_key).is_partitioned


def test_every_launchpad_field_has_a_description_and_the_profiles_default() -> None:
    job = build_definitions().resolve_implicit_global_asset_job_def()
    for node in job.nodes:
        schema = node.definition.config_schema.as_field() if node.definition.config_schema else None
        for name, field in getattr(schema.config_type if schema else None, "fields", {}).items():
            assert field.description, f"{node.name}.{name}"
            assert field.default_provided, f"{node.name}.{name}"


@pytest.mark.parametrize("name", ["policy", "feedback_model"])
def test_a_model_in_the_launchpad_keeps_what_is_not_named(name: str) -> None:
    """Dagster does not take what is missing from the resource as it was configured, only from its class."""
    job = build_definitions().resolve_implicit_global_asset_job_def()
    config = {"resources": {name: {"config": {"engine": "http", "base_urls": ["http://gpu-1:8000/v1"]}}}}
    resolved = dg.validate_run_config(job, config)["resources"][name]["config"]
    given = getattr(active_settings(), name).model_dump(mode="json")
    assert resolved == {**given, "engine": "http", "base_urls": ["http://gpu-1:8000/v1"]}


def test_no_run_of_a_version_waits_for_what_is_made_on_demand() -> None:
    required = {dg.AssetKey(name) for name in required_assets()}
    for key in required:  # the UI would ask at every launch whether to go on without it
        assert GRAPH.get(key).parent_keys <= required
