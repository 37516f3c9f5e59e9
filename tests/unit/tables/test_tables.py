from typing import Any

import pandera.errors
import polars as pl
import pytest

from cai_dagster.constitution.constitution import Constitution, Dialogue, Principle
from cai_dagster.tables.column_types import ColumnType
from cai_dagster.tables.registry import TABLES, in_graph_order
from cai_dagster.tables.table import COMPUTED, Column, Maker, Table
from cai_dagster.tables.validation import pandera_schema

MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))

# What readers outside this repository rely on: column names and types that only a migration may change.
FIXED = {
    "constitution": {
        "constitution_version": pl.String,
        "principle_id": pl.String,
        "slug": pl.String,
        "critique_request": pl.String,
        "revision_request": pl.String,
        "comparison_request": pl.String,
        "weight": pl.Float64,
    },
    "prompts": {
        "prompt_id": pl.String,
        "messages": MESSAGES,
        "source": pl.String,
        "category": pl.String,
        "split": pl.String,
    },
    "initial_responses": {
        "prompt_id": pl.String,
        "sample": pl.Int64,
        "completion": pl.String,
        "finish_reason": pl.String,
        "request_id": pl.String,
    },
    "revision_rounds": {
        "constitution_version": pl.String,
        "prompt_id": pl.String,
        "sample": pl.Int64,
        "round": pl.Int64,
        "principle_id": pl.String,
        "critique": pl.String,
        "revision": pl.String,
        "critique_request_id": pl.String,
        "revision_request_id": pl.String,
    },
    "sft_dataset": {
        "constitution_version": pl.String,
        "prompt_id": pl.String,
        "round": pl.Int64,
        "messages": MESSAGES,
    },
    "response_pairs": {
        "constitution_version": pl.String,
        "pair_id": pl.String,
        "prompt_id": pl.String,
        "source": pl.String,
        "completion_0": pl.String,
        "completion_1": pl.String,
    },
    "judgements": {
        "constitution_version": pl.String,
        "pair_id": pl.String,
        "principle_id": pl.String,
        "order": pl.String,
        "logp_a": pl.Float64,
        "logp_b": pl.Float64,
        "rationale": pl.String,
        "feedback_model": pl.String,
        "request_id": pl.String,
    },
    "preference_pairs": {
        "constitution_version": pl.String,
        "pair_id": pl.String,
        "prompt_id": pl.String,
        "prompt": MESSAGES,
        "chosen": MESSAGES,
        "rejected": MESSAGES,
        "p_chosen": pl.Float64,
        "label_policy": pl.String,
    },
    "rejected_rows": {
        "table_name": pl.String,
        "row_id": pl.String,
        "reason": pl.String,
        "row": pl.String,
        "constitution_version": pl.String,
    },
}
UNVERSIONED = {"prompts", "human_preferences", "initial_responses", "teacher_responses"}
UNVERSIONED |= {"rejected_rows", "materializations", "check_results", "failed_materializations"}


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_the_key_of_a_table_is_made_of_its_columns(table: Table) -> None:
    assert table.key
    assert set(table.key) <= set(table.schema.names())
    assert len(set(table.key)) == len(table.key)


@pytest.mark.parametrize("name", FIXED)
def test_a_table_has_the_columns_that_readers_rely_on(name: str) -> None:
    schema = TABLES[name].schema
    assert {column: schema.get(column) for column in FIXED[name]} == FIXED[name]


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_a_versioned_table_has_the_version_in_its_key(table: Table) -> None:
    assert table.versioned == (table.name not in UNVERSIONED)
    if table.versioned:
        assert table.key[0] == "constitution_version"


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_an_empty_frame_of_its_schema_is_valid(table: Table) -> None:
    frame = table.schema.to_frame()
    assert pandera_schema(table).validate(frame).equals(frame)
    assert list(table.schema) == list(table.names)


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_a_declaration_is_complete(table: Table) -> None:
    assert table.row
    assert all(column.description for column in table.columns)
    assert len(set(table.names)) == len(table.names)
    assert bool(table.trained_on) == (table.maker == Maker.training)
    assert set(table.trained_on) <= set(table.reads)


@pytest.mark.parametrize(
    ("column", "good", "bad"),
    [
        (Column("id", ColumnType.identifier, "", COMPUTED), ["0af9"], ["", "xyz", "0AF9", None]),
        (Column("text", ColumnType.text, "", COMPUTED, not_empty=True), ["a", "longer"], ["", None]),
        (Column("word", ColumnType.text, "", COMPUTED, isin=("a", "b"), nullable=True), ["a", "b", None], ["c"]),
        (Column("share", ColumnType.number, "", COMPUTED, ge=0, le=1), [0.0, 1.0], [-0.1, 1.1, None]),
        (Column("weight", ColumnType.number, "", COMPUTED, gt=0), [0.1], [0.0]),
        (Column("count", ColumnType.integer, "", COMPUTED, ge=1), [1], [0]),
    ],
    ids=lambda value: value.name if isinstance(value, Column) else "",
)
def test_a_row_that_breaks_a_rule_of_its_column_is_refused(column: Column, good: list[Any], bad: list[Any]) -> None:
    table = Table("t", "a row", "", Maker.file, (column.name,), (column,))
    frame = pl.DataFrame({column.name: good}, schema=table.schema)
    assert pandera_schema(table).validate(frame).equals(frame)
    for value in bad:
        with pytest.raises(pandera.errors.SchemaErrors):
            pandera_schema(table).validate(pl.DataFrame({column.name: [value]}, schema=table.schema), lazy=True)


def test_tables_are_in_the_order_of_the_graph_however_they_are_given() -> None:
    def table(name: str, *reads: str) -> Table:
        return Table(name, "a row", "", Maker.computation, ("id",), (), reads)

    given = [table("labels", "judged", "pairs"), table("judged", "pairs"), table("pairs"), table("other")]
    assert list(in_graph_order(given)) == ["pairs", "judged", "labels", "other"]
    with pytest.raises(ValueError, match="one that is not declared: labels, judged"):
        in_graph_order(given[:2])


def test_the_rows_of_a_constitution_fit_its_table_and_come_back() -> None:
    principles = (
        Principle("honest", "critique?", "revise!", "which?", 2.5, ("a", "b")),
        Principle("kind", "c", "r", "w"),
    )
    constitution = Constitution("v1", principles, (Dialogue("p", "r", "cr", "c", "rr", "v"),))
    table = TABLES["constitution"]
    frame = pl.DataFrame(constitution.to_rows(), schema=table.schema)
    assert pandera_schema(table).validate(frame).equals(frame)
    assert Constitution.from_rows(frame.to_dicts()) == constitution
