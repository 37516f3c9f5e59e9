"""The formats of other tools: how one row of a table becomes one or more of their records.

Pure functions over one row. It knows neither the lake nor files; docs/exports.md describes each format.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cai_dagster.errors import MendableError, RowError
from cai_dagster.inputs.transcripts import NoTranscriptError, transcript

Row = Mapping[str, Any]
Record = dict[str, Any]


class ExportFormat(StrEnum):
    """Whose format the records follow."""

    trl = "trl"
    messages = "messages"
    hh = "hh"
    ultrafeedback = "ultrafeedback"
    nemo = "nemo"
    kto = "kto"


class FileFormat(StrEnum):
    """The kind of file the records are written to."""

    parquet = "parquet"
    jsonl = "jsonl"


class ExportColumn(StrEnum):
    """What a column of a record holds."""

    text = "text"
    number = "number"
    integer = "integer"
    truth = "truth"
    turns = "turns"  # a list of {role, content}
    ranked = "ranked"  # a list of {rank, completion}, each completion a list of {role, content}


class ExportError(MendableError):
    """What was asked for cannot be exported; the message says why and what would do."""


class UnwritableRowError(RowError):
    """The format has no way to write this row so that a reader gets it back."""

    code = "unwritable"


@dataclass(frozen=True)
class Layout:
    """The records of one table in one format: their columns, and the records that one row becomes.

    `describes` says in a sentence what is not plain from the column names.
    """

    columns: Mapping[str, ExportColumn]
    records: Callable[[Row], list[Record]]
    describes: str


def layout_of(table: str, export_format: ExportFormat) -> Layout:
    """How a table is written in a format.

    Raises ExportError when the table is not exported, or not in this format.
    """
    tables = {name: [made for exported, made in _LAYOUTS if exported == name] for name, _ in _LAYOUTS}
    if table not in tables:
        raise ExportError(f"{table} is not exported; --table takes {', '.join(tables)}")
    if export_format not in tables[table]:
        raise ExportError(
            f"{table} cannot be written as {export_format.value}; --format takes {', '.join(tables[table])}"
        )
    return _LAYOUTS[table, export_format]


def score(p: float) -> float:
    """A probability of being the better one on UltraFeedback's scale from 1 to 10: 1 + 9 p."""
    return 1 + 9 * p


_EXAMPLE_FACTS = {
    "constitution_version": ExportColumn.text,
    "prompt_id": ExportColumn.text,
    "sample": ExportColumn.integer,
    "round": ExportColumn.integer,
    "split": ExportColumn.text,
}
_PAIR_FACTS = {
    "constitution_version": ExportColumn.text,
    "pair_id": ExportColumn.text,
    "prompt_id": ExportColumn.text,
    "p_chosen": ExportColumn.number,
    "label_policy": ExportColumn.text,
    "source": ExportColumn.text,
    "split": ExportColumn.text,
}


def _example_facts(row: Row) -> Record:
    return {name: row[name] for name in _EXAMPLE_FACTS}


def _pair_facts(row: Row) -> Record:
    return {name: row[name] for name in _PAIR_FACTS}


def _example_with_prompt(row: Row) -> list[Record]:
    *prompt, answer = row["messages"]
    return [{"prompt": prompt, "completion": [answer], **_example_facts(row)}]


def _example_messages(row: Row) -> list[Record]:
    return [{"messages": row["messages"], **_example_facts(row)}]


def _explicit_pair(row: Row) -> list[Record]:
    return [{name: row[name] for name in ("prompt", "chosen", "rejected")} | _pair_facts(row)]


def _implicit_pair(row: Row) -> list[Record]:
    dialogues = {side: row["prompt"] + row[side] for side in ("chosen", "rejected")}
    return [dialogues | _pair_facts(row)]


def _transcripts(row: Row) -> list[Record]:
    try:
        texts = {side: transcript(_turns(row["prompt"] + row[side])) for side in ("chosen", "rejected")}
    except NoTranscriptError as error:
        raise UnwritableRowError(str(error)) from error
    return [texts | _pair_facts(row)]


def _turns(messages: list[Record]) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in messages]


def _binarized(row: Row) -> list[Record]:
    (pair,) = _implicit_pair(row)
    scores = {"score_chosen": score(row["p_chosen"]), "score_rejected": score(1 - row["p_chosen"])}
    return [{"prompt": row["prompt"][-1]["content"], **pair, "messages": pair["chosen"], **scores}]


def _ranked(row: Row) -> list[Record]:
    completions = [{"rank": rank, "completion": row[side]} for rank, side in enumerate(("chosen", "rejected"))]
    return [{"context": row["prompt"], "completions": completions, **_pair_facts(row)}]


def _unpaired(row: Row) -> list[Record]:
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen", **_pair_facts(row)}
        for side in ("chosen", "rejected")
    ]


_LAYOUTS: dict[tuple[str, ExportFormat], Layout] = {
    ("sft_dataset", ExportFormat.trl): Layout(
        {"prompt": ExportColumn.turns, "completion": ExportColumn.turns, **_EXAMPLE_FACTS},
        _example_with_prompt,
        "TRL's conversational prompt-completion format: the loss is taken on the completion, the revision, alone.",
    ),
    ("sft_dataset", ExportFormat.messages): Layout(
        {"messages": ExportColumn.turns, **_EXAMPLE_FACTS},
        _example_messages,
        "The chat format: whole dialogues, each ending with a revision.",
    ),
    ("sft_dataset", ExportFormat.nemo): Layout(
        {"messages": ExportColumn.turns, **_EXAMPLE_FACTS},
        _example_messages,
        "NeMo RL's OpenAI format for supervised fine-tuning: whole dialogues, each ending with a revision.",
    ),
    ("preference_pairs", ExportFormat.trl): Layout(
        {"prompt": ExportColumn.turns, "chosen": ExportColumn.turns, "rejected": ExportColumn.turns, **_PAIR_FACTS},
        _explicit_pair,
        "TRL's conversational preference format with an explicit prompt: chosen and rejected are the completion alone.",
    ),
    ("preference_pairs", ExportFormat.messages): Layout(
        {"chosen": ExportColumn.turns, "rejected": ExportColumn.turns, **_PAIR_FACTS},
        _implicit_pair,
        "TRL's preference format with an implicit prompt: chosen and rejected are whole dialogues.",
    ),
    ("preference_pairs", ExportFormat.hh): Layout(
        {"chosen": ExportColumn.text, "rejected": ExportColumn.text, **_PAIR_FACTS},
        _transcripts,
        "hh-rlhf's transcripts. A dialogue that this format cannot hold unchanged is in rejected.jsonl.",
    ),
    ("preference_pairs", ExportFormat.ultrafeedback): Layout(
        {
            "prompt": ExportColumn.text,
            "chosen": ExportColumn.turns,
            "rejected": ExportColumn.turns,
            **_PAIR_FACTS,
            "messages": ExportColumn.turns,
            "score_chosen": ExportColumn.number,
            "score_rejected": ExportColumn.number,
        },
        _binarized,
        "UltraFeedback binarized: prompt is the last user turn, chosen and rejected are whole dialogues, messages "
        "repeats chosen. The scores are not ratings: they are 1 + 9 p of the label's probability.",
    ),
    ("preference_pairs", ExportFormat.nemo): Layout(
        {"context": ExportColumn.turns, "completions": ExportColumn.ranked, **_PAIR_FACTS},
        _ranked,
        "NeMo RL's PreferenceDataset: rank 0 is the chosen completion, rank 1 the rejected one.",
    ),
    ("preference_pairs", ExportFormat.kto): Layout(
        {"prompt": ExportColumn.turns, "completion": ExportColumn.turns, "label": ExportColumn.truth, **_PAIR_FACTS},
        _unpaired,
        "KTO's unpaired format: each pair gives two records, its chosen completion with label true and its rejected "
        "one with label false. p_chosen is that of the pair in both.",
    ),
}
