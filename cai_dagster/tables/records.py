"""What the program records beside the graph: rows set aside, materializations, results of checks."""

from cai_dagster.tables.column_types import ColumnType as T
from cai_dagster.tables.table import COMPUTED, Column, Maker, Table

REJECTED_ROWS = Table(
    "rejected_rows",
    "A row that was set aside, with its reason.",
    group="",
    maker=Maker.record,
    key=("table_name", "constitution_version", "row_id", "reason"),
    forget_by_text=True,
    columns=(
        Column("table_name", T.text, "The table it would have gone to.", COMPUTED),
        Column("row_id", T.text, "Its id there, or file:line of an input.", COMPUTED),
        Column("reason", T.text, "code: explanation", COMPUTED),
        Column("row", T.text, "What is known of it, as JSON.", COMPUTED),
        Column("constitution_version", T.text, "Null for an unversioned table.", COMPUTED, nullable=True),
    ),
)

MATERIALIZATIONS = Table(
    "materializations",
    "What one materialization wrote and what it cost; appended in the transaction that wrote the rows.",
    group="",
    maker=Maker.record,
    key=("table_name", "constitution_version", "materialized_at"),
    appended=True,
    columns=(
        Column("table_name", T.text, "The table: the name of the asset.", COMPUTED),
        Column("constitution_version", T.text, "Null for an unversioned table.", COMPUTED, nullable=True),
        Column("run_id", T.text, "Of the Dagster run.", COMPUTED),
        Column("materialized_at", T.time, "UTC", COMPUTED),
        Column("read_at", T.integer, "The snapshot at which the run read the tables of other runs.", COMPUTED, ge=0),
        Column("rows", T.integer, "Rows written.", COMPUTED, ge=0),
        Column("rejected", T.integer, "Rows set aside.", COMPUTED, ge=0),
        Column(
            "data_version",
            T.text,
            "Hash of the rows, whatever their order; what Dagster shows as data version.",
            COMPUTED,
        ),
        Column("ledger_hits", T.integer, "Calls answered from the ledger.", COMPUTED, ge=0),
        Column("ledger_misses", T.integer, "Calls paid for.", COMPUTED, ge=0),
        Column("prompt_tokens", T.integer, "Of the calls paid for.", COMPUTED, ge=0),
        Column("completion_tokens", T.integer, "Of the calls paid for.", COMPUTED, ge=0),
        Column(
            "cached_tokens",
            T.integer,
            "Of prompt_tokens, those that the engine had in its prefix cache, as far as it says.",
            COMPUTED,
            ge=0,
        ),
        Column("seconds", T.number, "Wall time from the asset's start to its commit.", COMPUTED, ge=0),
        Column(
            "engine_seconds",
            T.number,
            "Of these, the time in which at least one call was being paid for.",
            COMPUTED,
            ge=0,
        ),
        Column("model_id", T.text, "The model that was called, if any.", COMPUTED, nullable=True),
    ),
)

CHECK_RESULTS = Table(
    "check_results",
    "What one run of a data-quality check measured; appended, so that a version's history stays.",
    group="",
    maker=Maker.record,
    key=("table_name", "constitution_version", "check_name", "checked_at"),
    appended=True,
    columns=(
        Column("table_name", T.text, "The table that was measured.", COMPUTED),
        Column("constitution_version", T.text, "Null for an unversioned table.", COMPUTED, nullable=True),
        Column("check_name", T.text, "As in settings.toml.", COMPUTED),
        Column("run_id", T.text, "Of the Dagster run.", COMPUTED),
        Column("checked_at", T.time, "UTC", COMPUTED),
        Column("passed", T.boolean, "Whether the value is within the bounds, or there was none.", COMPUTED),
        Column(
            "severity", T.text, "ERROR: a failure stops what depends on the table.", COMPUTED, isin=("ERROR", "WARN")
        ),
        Column("value", T.number, "The measured value; null: there was nothing to measure.", COMPUTED, nullable=True),
        Column(
            "estimate",
            T.number,
            "The figure whose interval has `value` as its lower end; null where `value` is the figure itself.",
            COMPUTED,
            nullable=True,
        ),
        Column("bounds", T.text, "What it was held against, in words.", COMPUTED),
        Column("rows", T.integer, "Rows it was measured on.", COMPUTED, ge=0),
        Column("data_version", T.text, "Of the rows that were measured: that of their materialization.", COMPUTED),
    ),
)

FAILED_MATERIALIZATIONS = Table(
    "failed_materializations",
    "A materialization that failed, and why; appended. `cai status` shows it until the table is materialized.",
    group="",
    maker=Maker.record,
    key=("table_name", "constitution_version", "run_id", "failed_at"),
    appended=True,
    columns=(
        Column("table_name", T.text, "The table: the name of the asset.", COMPUTED),
        Column("constitution_version", T.text, "Null for an unversioned table.", COMPUTED, nullable=True),
        Column("run_id", T.text, "Of the Dagster run.", COMPUTED),
        Column("failed_at", T.time, "UTC", COMPUTED),
        Column("error", T.text, "The reason, in one line.", COMPUTED),
    ),
)
