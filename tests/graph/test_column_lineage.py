"""The declared lineage of columns: complete, true to the tables and to the graph, and shown in the UI."""

from pathlib import Path

import dagster as dg
import pytest

from cai_dagster.definitions import build_definitions
from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.tables.registry import TABLES, columns_made_from, tables_with
from cai_dagster.tables.table import Maker
from resources.lake import PREVIEW_ROWS, _previewed
from tests.scripted_graph import WITHOUT_TRAINING, materialize, metadata, write_prompts

GRAPH = build_definitions().resolve_asset_graph()
ASSET_TABLES = sorted({key.to_user_string() for key in GRAPH.materializable_asset_keys} & set(TABLES))


def test_every_table_that_is_no_record_is_made_by_the_asset_of_its_name() -> None:
    assert sorted(name for name, table in TABLES.items() if table.maker != Maker.record) == ASSET_TABLES


@pytest.mark.parametrize("table", ASSET_TABLES)
def test_a_column_is_made_from_columns_that_exist_in_tables_that_the_asset_depends_on(table: str) -> None:
    upstream = _upstream(dg.AssetKey(table))
    for sources in columns_made_from(table).values():
        for source, column in sources:
            assert column in TABLES[source].schema.names(), f"{source}.{column}"
            shown_where_it_is = TABLES[source].on_demand and not TABLES[table].on_demand
            assert dg.AssetKey(source) in upstream or shown_where_it_is, f"{table} does not depend on {source}"


def test_a_materialization_tells_the_ui_what_each_column_is_made_from(home: Home, tmp_path: Path) -> None:
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", [f"question {n}" for n in range(8)])}
    result = materialize(WITHOUT_TRAINING, config | {"sft_dataset": {"min_rows": 1}})
    lineage = metadata(result, "sft_dataset")["dagster/column_lineage"]
    assert lineage.deps_by_column["messages"] == [
        dg.TableColumnDep(dg.AssetKey("prompts"), "messages"),
        dg.TableColumnDep(dg.AssetKey("revision_rounds"), "revision"),
    ]
    assert "dagster/column_lineage" not in metadata(result, "constitution")  # it comes from a file


def test_tables_are_found_by_their_columns() -> None:
    assert set(tables_with("prompt_id", "pair_id")) == {
        *("response_pairs", "preference_pairs", "human_preferences", "policy_judgements", "version_judgements")
    }


def _upstream(key: dg.AssetKey) -> set[dg.AssetKey]:
    found: set[dg.AssetKey] = set()
    waiting = [key]
    while waiting:
        for parent in GRAPH.get(waiting.pop()).parent_keys - found:
            found.add(parent)
            waiting.append(parent)
    return found


def test_the_preview_of_every_table_begins_with_what_a_person_wants_to_see(explained: Home) -> None:
    lake = Lake(explained)
    for name, table in TABLES.items():
        if table.maker == Maker.record or not lake.materialized(name):
            continue
        shown = _previewed(lake, table, lake.snapshot(name, "v1" if table.versioned else None))
        assert shown.width, name
        assert not [column for column in shown.columns if column.endswith("_id")], name
    judgements = _previewed(lake, TABLES["judgements"], lake.snapshot("judgements", "v1"))
    assert judgements.columns == ["prompt", "completion_0", "completion_1", "order", "P(A)", "P(B)", "principle"]
    assert judgements.height == PREVIEW_ROWS
    assert judgements.null_count().sum_horizontal().item() == 0
