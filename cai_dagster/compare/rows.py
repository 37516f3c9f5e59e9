"""Which rows of a table two versions share."""

# scikit-learn is typed in part only.
# pyright: reportMissingTypeStubs=false

from dataclasses import dataclass

import polars as pl

from cai_dagster.tables.registry import TABLES


@dataclass(frozen=True)
class TableChange:
    """The rows of one table: equal but for the version (`shared`), of the same key (`changed`), or of one version.

    Where one version has not made the table, its rows are None, and so is what takes both.
    """

    table: str
    rows_before: int | None
    rows_after: int | None
    shared: int | None
    changed: int | None
    only_before: int | None
    only_after: int | None

    def plus(self, other: "TableChange | None") -> "TableChange":
        """With the rows that were counted before; what is None in one of both is None in both."""
        if other is None:
            return self
        numbers = {name: value for name, value in vars(self).items() if name != "table"}
        known = {name: value + getattr(other, name) for name, value in numbers.items() if value is not None}
        return TableChange(self.table, **{**dict.fromkeys(numbers), **known})


def table_change(table: str, before: pl.DataFrame | None, after: pl.DataFrame | None) -> TableChange:
    """How many rows of a table the versions share."""
    if before is None or after is None:
        heights = (None if frame is None else frame.height for frame in (before, after))
        return TableChange(table, *heights, shared=None, changed=None, only_before=None, only_after=None)
    key = [name for name in TABLES[table].key if name != "constitution_version"]
    others = [name for name in before.columns if name not in (*key, "constitution_version") and name in after.columns]
    both = before.select(*key, *others).join(after.select(*key, *others), on=key, how="inner", suffix="_after")
    same = pl.all_horizontal(pl.lit(value=True), *(pl.col(name).eq_missing(pl.col(f"{name}_after")) for name in others))
    shared = int(both.select(same.sum()).item())
    return TableChange(
        table,
        rows_before=before.height,
        rows_after=after.height,
        shared=shared,
        changed=both.height - shared,
        only_before=before.height - both.height,
        only_after=after.height - both.height,
    )
