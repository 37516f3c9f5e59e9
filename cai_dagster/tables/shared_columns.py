"""Columns that several tables have: those of a checkpoint and of a judgement, and what both are made from."""

from dataclasses import replace

from cai_dagster.tables.column_types import ColumnType as T
from cai_dagster.tables.table import COMPUTED, FILE, MODEL, Column, Sources

VERSION = Column(
    "constitution_version",
    T.text,
    "The constitution's version: the partition key.",
    "constitution.constitution_version",
)
JUDGED_BY = ("constitution.comparison_request", "constitution.comparisons", "prompts.messages")
LABELLED_PAIRS = tuple(f"preference_pairs.{name}" for name in ("prompt", "chosen", "rejected", "p_chosen", "split"))
HUMAN_PAIRS = tuple(
    f"human_preferences.{name}" for name in ("prompt", "chosen", "rejected", "votes_chosen", "votes_rejected")
)


def checkpoint_columns(
    base: str | None, rows: tuple[str, ...], version: Sources = VERSION.made_from
) -> tuple[Column, ...]:
    """The columns of a table of checkpoints. `base`: the table of the weights it starts from; None: a given model."""
    made_from = (*rows, *([f"{base}.checkpoint_key"] if base else ()))
    return (
        replace(VERSION, made_from=version),
        Column("checkpoint_key", T.identifier, "Hash of base model, rows, settings, code version.", made_from),
        Column("path", T.text, "A Hugging Face folder.", made_from),
        Column(
            "base_model",
            T.text,
            "Identity of the weights that training began with.",
            f"{base}.checkpoint_key" if base else FILE,
        ),
        Column("rows", T.integer, "Rows it was trained on.", rows, ge=1),
        Column("record", T.text, "record.json of the checkpoint, as it lies beside the weights.", made_from),
    )


def judgement_columns(pair_id: str, answered_from: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of a table of judgements. `pair_id`: where its ids come from; `answered_from`: what the model saw."""
    return (
        VERSION,
        Column("pair_id", T.identifier, "Hash of the prompt id and both completions.", pair_id),
        Column(
            "principle_id",
            T.identifier,
            "The principle; for several in one prompt the hash of their ids.",
            "constitution.principle_id",
        ),
        Column(
            "order",
            T.text,
            "01: completion_0 was shown as (A), or nothing was shown as (A); 10: as (B).",
            COMPUTED,
            isin=("01", "10"),
        ),
        Column(
            "logp_a",
            T.number,
            "log P of the label token A, natural logarithm; for scores, of completion_0 scoring higher (a"
            " tie counts one half), times the mass of both completions' scores.",
            answered_from,
            le=1e-06,
        ),
        Column("logp_b", T.number, "log P of the label token B.", answered_from, le=1e-06),
        Column("rationale", T.text, "Null where no rationale was asked for.", answered_from, nullable=True),
        Column("feedback_model", T.text, "Identity of the weights that judged.", MODEL),
        Column(
            "request_id",
            T.identifier,
            "The call of the label; for scores completion_0's first, for direct that of the revision.",
            MODEL,
        ),
        Column("method", T.text, "How it was judged; see docs/judging.md.", COMPUTED),
        Column("principle_ids", T.texts, "The principles in the prompt, as shown.", "constitution.principle_id"),
        Column(
            "principle_weight", T.number, "Their weight in the constitution, added up.", "constitution.weight", gt=0
        ),
        Column("rationale_finish_reason", T.text, "length: it was cut at rationale_max_tokens.", MODEL, nullable=True),
        Column("rationale_request_id", T.identifier, "The call of the rationale.", MODEL, nullable=True),
        Column(
            "score_logprobs_0", T.numbers, "log P of the scores 1 to 10 of completion_0.", answered_from, nullable=True
        ),
        Column("score_logprobs_1", T.numbers, "The same of completion_1.", answered_from, nullable=True),
        Column("score_0", T.number, "Expected score of completion_0.", answered_from, ge=1, le=10, nullable=True),
        Column("score_1", T.number, "Expected score of completion_1.", answered_from, ge=1, le=10, nullable=True),
        Column("score_request_ids", T.texts, "The calls of both scores.", MODEL, nullable=True),
    )
