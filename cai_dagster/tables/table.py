"""What a declaration of a table consists of: `Table`, `Column`, and where rows and columns come from.

Plain data: it imports neither polars nor pandera, so that whoever must answer at once can read it. `validation` makes
the pandera checks of it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from cai_dagster.tables.column_types import ColumnType, polars_type

if TYPE_CHECKING:
    import polars as pl


class Origin(StrEnum):
    """Where a column begins that is made from no other column."""

    file = "read from a file"
    model = "said by a model"
    computed = "computed here"


MOST_PREVIEWED = 10  # columns
_NOT_PREVIEWED = ("constitution_version", "path", "record")

Sources = Origin | str | tuple[str, ...]
"""An origin, or the columns that a column is made from, each as `table.column`.

A column that a model wrote names what the model was shown.
"""

FILE, MODEL, COMPUTED = Origin.file, Origin.model, Origin.computed


class Maker(StrEnum):
    """What makes the rows of a table."""

    file = "read from files"
    model = "written by a language model"
    training = "trained"
    scoring = "scored by a reward model"
    computation = "computed from other tables"
    summary = "summed up from other tables, for a person to read"
    record = "recorded by the program"

    @property
    def holds_the_accelerator(self) -> bool:
        """Whether a model is loaded while the rows are made."""
        return self in (Maker.model, Maker.training, Maker.scoring)


@dataclass(frozen=True)
class Column:
    """A column: what it means, what it is made from, and the rules that its values keep."""

    name: str
    type: ColumnType
    description: str
    made_from: Sources
    nullable: bool = False
    not_empty: bool = False
    isin: tuple[str, ...] = ()
    ge: float | None = None
    gt: float | None = None
    le: float | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """The columns it is made from, as `table.column`; none where it begins here."""
        if isinstance(self.made_from, Origin):
            return ()
        return (self.made_from,) if isinstance(self.made_from, str) else self.made_from


@dataclass(frozen=True)
class Table:
    """A table, which has the name of the asset that makes it.

    `row` says what a row is. `reads` are the tables that the asset reads; some of them may be absent. `group` is the
    asset's group. `on_demand`: `cai demo`, the job and a plan leave it out. `appended`: its rows come one at a time and
    stay, so DuckLake keeps them in the catalog and not in a file each. `call_stage`: the stage under which the ledger
    files the calls of its rows, where that is not its name. `trained_on`: the tables whose rows a checkpoint is trained
    on. `forget_by_text`: its rows name prompts in texts, so `cai forget` looks for ids and texts in them. `preview`: a
    SELECT over it and tables that it reads, of what a person wants to see of a row; without it its columns but ids.
    `called`: what a trace calls a row of first responses.
    """

    name: str
    row: str
    group: str
    maker: Maker
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    reads: tuple[str, ...] = ()
    on_demand: bool = False
    appended: bool = False
    call_stage: str = ""
    trained_on: tuple[str, ...] = ()
    forget_by_text: bool = False
    preview: str = ""
    called: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(column.name for column in self.columns)

    def has(self, *columns: str) -> bool:
        """Whether it has all these columns."""
        return set(columns) <= set(self.names)

    def column(self, name: str) -> Column:
        """One column by its name."""
        return next(column for column in self.columns if column.name == name)

    @property
    def versioned(self) -> bool:
        """Whether its rows belong to a constitution version and are replaced a version at a time."""
        return self.has("constitution_version") and not self.column("constitution_version").nullable

    @property
    def in_graph(self) -> bool:
        """Whether it is a step from the constitution to a model: no summary of steps, and no record of the program."""
        return self.maker not in (Maker.summary, Maker.record)

    @property
    def calls(self) -> str:
        """The stage under which the ledger files the calls of its rows."""
        return self.call_stage or self.name

    @property
    def previewed(self) -> str:
        """The SELECT of its preview."""
        shown = [one for one in self.columns if one.type != ColumnType.identifier and one.name not in _NOT_PREVIEWED]
        last_turn = {ColumnType.messages: '"{0}"[-1].content AS "{0}"'}
        columns = [last_turn.get(one.type, '"{0}"').format(one.name) for one in shown[:MOST_PREVIEWED]]
        return self.preview or f"SELECT {', '.join(columns)} FROM {self.name}"

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns of one text a row."""
        return tuple(one.name for one in self.columns if one.type in (ColumnType.identifier, ColumnType.text))

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """The columns by which `cai forget` finds the rows of a prompt or of its pairs."""
        return tuple(name for name in ("prompt_id", "pair_id") if self.has(name))

    @property
    def call_columns(self) -> tuple[str, ...]:
        """The columns that name calls in the ledger: one a row, or a list of them."""
        return tuple(
            name for name in self.names if name.endswith(("request_id", "request_ids")) or "request_id_" in name
        )

    @property
    def finish_reasons(self) -> tuple[str, ...]:
        """The columns that say why a completion ended."""
        return tuple(name for name in self.names if "finish_reason" in name)

    @property
    def schema(self) -> "pl.Schema":
        """Column names and polars types, in order."""
        import polars as pl

        return pl.Schema({column.name: polars_type(column.type) for column in self.columns})
