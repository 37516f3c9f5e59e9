"""Every join of the graph: a row whose partner is gone is counted and set aside with its reason, never left out.

In one home a row of each table that others are made of is taken away, as if the table had been made anew; then each
asset that joins it is materialized, the last of the graph first.
"""

from typing import Any

import polars as pl
import pytest

from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.tables.registry import TABLES
from resources.lake import open_lake
from tests.explained_home import copied
from tests.scripted_graph import bound_of_rejected_rows, materialize

JOINS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("policy_evaluation", "policy_responses", "prompts", {}),
    ("policy_judgements", "policy_responses", "prompts", {}),
    ("policy_responses", "initial_responses", "prompts", {}),
    ("version_judgements", "revision_rounds", "prompts", {"against": "v2"}),
    ("best_of_n", "best_of_n_candidates", "prompts", {}),
    ("teacher_sft_model", "teacher_responses", "prompts", {}),
    ("judge_calibration", "calibration_judgements", "human_preferences", {}),
    ("reward_model_evaluation", "preference_pairs", "prompts", {}),
    ("reward_model_evaluation", "judgements", "response_pairs", {}),
    ("reward_model", "judgements", "constitution", {"principle_conditioned": True, "min_pairs": 1}),
    ("preference_pairs", "judgements", "response_pairs", {}),
    ("preference_pairs", "response_pairs", "prompts", {}),
    ("judgements", "response_pairs", "prompts", {}),
    ("response_pairs", "revision_rounds", "initial_responses", {"source": "revisions"}),
    ("response_pairs", "initial_responses", "prompts", {"source": "revisions"}),
    ("sl_cai_model", "sft_dataset", "prompts", {}),
    ("sft_dataset", "revision_rounds", "prompts", {"min_rows": 1}),
    ("revision_rounds", "initial_responses", "prompts", {}),
]


@pytest.fixture(scope="module")
def torn(explained: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = copied(explained, tmp_path_factory.mktemp("torn") / "home")
    lake = Lake(home)
    first_of_split = "QUALIFY row_number() OVER (PARTITION BY split ORDER BY prompt_id) = 1"
    of_preference = "SELECT max(prompt_id) FROM lake.prompts WHERE split = 'preference'"
    found = {
        "prompts": ("prompt_id", f"SELECT prompt_id FROM lake.prompts {first_of_split}"),
        "initial_responses": ("prompt_id", of_preference),
        "response_pairs": ("pair_id", "SELECT max(pair_id) FROM lake.judgements WHERE constitution_version = 'v1'"),
        "constitution": ("principle_id", "SELECT max(principle_id) FROM lake.judgements"),
        "human_preferences": ("pair_id", "SELECT min(pair_id) FROM lake.calibration_judgements"),
    }
    gone = {
        table: f"{column} IN ({', '.join(repr(one) for one in lake.select(query, {}).to_series())})"
        for table, (column, query) in found.items()
    }
    lake.delete(gone)
    lake.close()
    return home


@pytest.mark.parametrize(("asset", "table", "partner", "config"), JOINS, ids=lambda value: str(value)[:30])
def test_a_row_without_its_partner_is_set_aside(
    torn: Home, monkeypatch: pytest.MonkeyPatch, asset: str, table: str, partner: str, config: dict[str, Any]
) -> None:
    monkeypatch.setenv("CAI_HOME", str(torn.root))
    bound_of_rejected_rows(monkeypatch, at_most=0.0)  # so that the tables stay as they are
    result = materialize([asset], {asset: config}, raise_on_error=False, voice="steady")
    assert not result.success
    version = "v1" if TABLES[asset].versioned else None
    reasons = open_lake(torn).rejected(asset, version).filter(pl.col("row_id").str.starts_with(f"{table}/"))["reason"]
    assert any(reason.startswith(f"no_partner: {partner} has no row with ") for reason in reasons)
    assert all(reason.endswith(f"; materialize {table} again") for reason in reasons)
