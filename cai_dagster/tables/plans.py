"""What a version would cost."""

from cai_dagster.tables.column_types import ColumnType as T
from cai_dagster.tables.table import COMPUTED, Column, Maker, Table

COST_PLAN = Table(
    "cost_plan",
    "What one stage would cost if this version were materialized now; see `cost_plan.StagePlan`.",
    group="inputs",
    maker=Maker.summary,
    key=("constitution_version", "asset"),
    on_demand=True,
    columns=(
        Column("constitution_version", T.text, "The constitution's version: the partition key.", COMPUTED),
        Column("asset", T.text, "The stage: the asset that would pay.", COMPUTED),
        Column("calls", T.integer, "Calls that the stage makes.", COMPUTED, ge=0),
        Column("in_ledger", T.integer, "Calls that cost nothing.", COMPUTED, ge=0),
        Column("new", T.integer, "Calls to be paid for.", COMPUTED, ge=0),
        Column("exact", T.boolean, "False: an upper bound, because an input does not exist yet.", COMPUTED),
        Column(
            "tokens_estimate",
            T.integer,
            "Of the new calls; null where none was measured.",
            COMPUTED,
            ge=0,
            nullable=True,
        ),
        Column("tokens_low", T.integer, "Lower end of the 95 % interval.", COMPUTED, ge=0),
        Column("tokens_high", T.integer, "Upper end of the 95 % interval.", COMPUTED, ge=0),
        Column("seconds_estimate", T.number, "At the measured rate.", COMPUTED, ge=0, nullable=True),
    ),
)
