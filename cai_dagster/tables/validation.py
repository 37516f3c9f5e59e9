"""The pandera checks of a declaration.

pandera takes a second to import, so this module is imported where rows are written or read, and never by the code
location.
"""

from functools import cache
from typing import Any

import pandera.polars as pa

from cai_dagster.tables.column_types import ColumnType, polars_type
from cai_dagster.tables.table import Column, Table

HEX = r"^[0-9a-f]+$"


@cache
def pandera_schema(table: Table) -> pa.DataFrameSchema:
    """The checks that every row of the table passes before it is committed."""
    columns = {
        column.name: pa.Column(polars_type(column.type), _checks(column), nullable=column.nullable)
        for column in table.columns
    }
    return pa.DataFrameSchema(columns, strict=True, name=table.name)


def _checks(column: Column) -> list[pa.Check]:
    check: Any = pa.Check  # its constructors are not annotated
    rules = {
        check.str_matches: HEX if column.type == ColumnType.identifier else None,
        check.isin: list(column.isin) or None,
        check.ge: column.ge,
        check.gt: column.gt,
        check.le: column.le,
    }
    not_empty = [check.str_length(min_value=1)] if column.not_empty else []
    return [*not_empty, *(make(rule) for make, rule in rules.items() if rule is not None)]
