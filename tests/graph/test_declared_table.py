"""A table of model-made rows is added by its declaration, its stage and its asset: all else follows."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from assets.common.stage import run_stage
from assets.common.table_asset import table_asset
from cai_dagster.calls.requests import LanguageModel, Request, Slot
from cai_dagster.commands import reference
from cai_dagster.commands.cli import app
from cai_dagster.explain.trace import trace
from cai_dagster.home import Home
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.models.messages import Message
from cai_dagster.plan.cost import plan
from cai_dagster.plan.stages import STAGES, ModelRole, Stage, planned
from cai_dagster.project import PROJECT
from cai_dagster.settings import active_settings
from cai_dagster.tables.column_types import ColumnType
from cai_dagster.tables.registry import TABLES, in_graph_order
from cai_dagster.tables.shared_columns import VERSION
from cai_dagster.tables.table import MODEL, Column, Maker, Table
from cai_dagster.upkeep.forget import forget, remembered
from cai_dagster.upkeep.status import read_status
from resources.lake import LakeResource, open_lake
from resources.language_models import LanguageModelResource
from tests.scripted_graph import definitions, scripted_models, write_prompts

SUMMARIES = Table(
    "summaries",
    "A first response in one sentence.",
    group="supervised_stage",
    maker=Maker.model,
    key=("constitution_version", "prompt_id"),
    reads=("initial_responses", "constitution"),
    on_demand=True,
    columns=(
        VERSION,
        Column("prompt_id", ColumnType.identifier, "The prompt.", "initial_responses.prompt_id"),
        Column("summary", ColumnType.text, "The sentence.", "initial_responses.completion", not_empty=True),
        Column("finish_reason", ColumnType.text, "Why it ended.", MODEL),
        Column("request_id", ColumnType.identifier, "The call in the ledger.", MODEL),
    ),
)


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> dg.AssetsDefinition:
    """The table, its stage and its asset."""
    tables = in_graph_order([*TABLES.values(), SUMMARIES])
    for name in list(TABLES):
        monkeypatch.delitem(TABLES, name)
    for name, table in tables.items():
        monkeypatch.setitem(TABLES, name, table)
    monkeypatch.setitem(STAGES, "summaries", STAGES["judgements"])  # removed again with the test

    @planned("summaries", ModelRole.feedback_model, lambda _settings, _constitution: ())
    def summaries_stage() -> Stage:
        async def summarize(model: LanguageModel, row: dict[str, Any]) -> list[dict[str, Any]]:
            asked = (Message("user", f"In one sentence: {row['completion']}"),)
            said = await model.complete(Request(asked, Slot("summaries", row["prompt_id"])))
            names = {"prompt_id": row["prompt_id"], "request_id": said.request_id}
            return [{**names, "summary": said.text, "finish_reason": said.finish_reason}]

        rows = "SELECT prompt_id, completion FROM initial_responses ORDER BY prompt_id"
        return Stage("summaries", rows, lambda row: row["prompt_id"], summarize)

    @table_asset(code_version="1")
    def summaries(
        context: dg.AssetExecutionContext,
        initial_responses: TableSnapshot,
        feedback_model: LanguageModelResource,
        lake: LakeResource,
    ) -> dg.MaterializeResult:
        tables = {"initial_responses": initial_responses}
        return run_stage(context, lake, feedback_model, summaries_stage(), tables)

    return summaries


def run(asset: dg.AssetsDefinition, names: list[str], config: dict[str, Any]) -> dg.ExecuteInProcessResult:
    graph = dg.Definitions.merge(definitions(), dg.Definitions(assets=[asset]))
    job = graph.resolve_implicit_job_def_def_for_assets([dg.AssetKey(name) for name in names])
    assert job is not None
    selection = [dg.AssetKey(name) for name in names]
    return job.execute_in_process(
        run_config={"ops": config}, partition_key="v1", asset_selection=selection, raise_on_error=True
    )


def test_a_declared_table_is_planned_made_traced_shown_and_forgotten(
    declared: dg.AssetsDefinition, home: Home, tmp_path: Path
) -> None:
    (spec,) = declared.specs
    assert {dep.asset_key.to_user_string() for dep in spec.deps} == set(SUMMARIES.reads)
    assert (spec.group_name, spec.partitions_def is not None) == ("supervised_stage", True)
    config = {"prompts": {"config": write_prompts(tmp_path / "p.jsonl", ["one", "two", "three"])}}
    run(declared, ["constitution", "prompts", "initial_responses"], config)

    (stage,) = plan(home, active_settings(), *scripted_models(), ["v1"], ["summaries"]).stages
    assert (stage.asset, stage.constitution_version, stage.new, stage.exact) == ("summaries", "v1", 3, True)
    result = run(declared, ["summaries"], {})
    (event,) = result.asset_materializations_for_node("summaries")
    assert event.metadata["ledger_misses"].value == stage.new
    lineage = event.metadata["dagster/column_lineage"].value
    source = dg.TableColumnDep(dg.AssetKey("initial_responses"), "completion")
    assert lineage.deps_by_column["summary"] == [source]
    (again,) = plan(home, active_settings(), *scripted_models(), ["v1"], ["summaries"]).stages
    assert (again.new, again.in_ledger) == (0, 3)

    (version,) = read_status(home, PROJECT / "constitutions", ["v1"]).versions
    assert "summaries" in [asset.asset for asset in version.assets]
    rows = open_lake(home).snapshot("summaries", "v1").frame()
    call, prompt = rows["request_id"][0], rows["prompt_id"][0]
    assert "summaries" in json.dumps(trace(home, call).to_json())
    assert "## `summaries`" in reference.tables_page()
    completed = CliRunner().invoke(app, ["retry", "--table", "summaries", "--version", "v1", "--reason", "length"])
    assert "no call" in str(completed.exception)

    found = remembered(home, prompt)
    assert found.rows["summaries"] == 1
    forget(home, found)
    left = open_lake(home).snapshot("summaries", "v1").frame()
    assert prompt not in left["prompt_id"].to_list()
    assert left.height == 2


def test_an_asset_may_read_no_table_that_its_declaration_does_not_name(declared: dg.AssetsDefinition) -> None:
    def summaries(context: dg.AssetExecutionContext, judgements: TableSnapshot) -> None: ...

    with pytest.raises(ValueError, match="summaries reads judgements: name it in `reads` of its declaration"):
        table_asset(code_version="1")(summaries)
