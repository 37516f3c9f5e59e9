"""What the graph starts from: constitution, prompts, human preferences."""

from cai_dagster.tables.column_types import ColumnType as T
from cai_dagster.tables.table import COMPUTED, FILE, Column, Maker, Table

CONSTITUTION = Table(
    "constitution",
    "A principle of a version.",
    group="inputs",
    maker=Maker.file,
    key=("constitution_version", "principle_id"),
    columns=(
        Column("constitution_version", T.text, "The constitution's version: the partition key.", FILE),
        Column("principle_id", T.identifier, "Hash of slug and texts: the same in every version.", FILE),
        Column("slug", T.text, "The principle's identity across versions; draws follow it.", FILE),
        Column(
            "critique_request", T.text, "What the model is asked when it criticises a response.", FILE, not_empty=True
        ),
        Column("revision_request", T.text, "What it is asked when it revises the response.", FILE, not_empty=True),
        Column(
            "comparison_request", T.text, "What the feedback model is asked of two completions.", FILE, not_empty=True
        ),
        Column("weight", T.number, "Relative chance of being drawn.", FILE, gt=0),
        Column("tags", T.texts, "Words of yours; nothing is decided by them.", FILE),
        Column("dialogues", T.dialogues, "The version's few-shot dialogues.", FILE),
        Column("comparisons", T.comparisons, "The version's few-shot judgements.", FILE, nullable=True),
    ),
)

PROMPTS = Table(
    "prompts",
    "A prompt x.",
    group="inputs",
    maker=Maker.file,
    key=("prompt_id",),
    columns=(
        Column("prompt_id", T.identifier, "The prompt: a hash of its messages.", COMPUTED),
        Column("messages", T.messages, "The turns; the last is the user's.", FILE),
        Column("source", T.text, "file:line it was first read from.", FILE),
        Column("sources", T.texts, "Every place it was read from.", FILE),
        Column("category", T.text, "As the source has it.", FILE, nullable=True),
        Column(
            "split",
            T.text,
            "sft, preference or evaluation: a hash of the prompt id.",
            COMPUTED,
            isin=("sft", "preference", "evaluation"),
        ),
    ),
)

HUMAN_PREFERENCES = Table(
    "human_preferences",
    "Two completions of a prompt and which of them people preferred.",
    group="inputs",
    maker=Maker.file,
    key=("pair_id",),
    columns=(
        Column("pair_id", T.identifier, "As in response_pairs: the same whoever is preferred.", COMPUTED),
        Column("prompt_id", T.identifier, "As in prompts.", COMPUTED),
        Column("prompt", T.messages, "The turns before the completion.", FILE),
        Column("chosen", T.messages, "One turn, the assistant's.", FILE),
        Column("rejected", T.messages, "One turn, the assistant's.", FILE),
        Column(
            "chosen_reasoning", T.text, "What the model thought before chosen, if the file has it.", FILE, nullable=True
        ),
        Column("rejected_reasoning", T.text, "What it thought before rejected.", FILE, nullable=True),
        Column("votes_chosen", T.integer, "People who preferred chosen; null: not counted.", FILE, ge=0, nullable=True),
        Column("votes_rejected", T.integer, "People who preferred rejected.", FILE, ge=0, nullable=True),
        Column("category", T.text, "As the file has it; a slice of the calibration.", FILE, nullable=True),
        Column("source", T.text, "file:line it was read from.", FILE),
        Column(
            "split",
            T.text,
            "As in prompts: a hash of the prompt id.",
            COMPUTED,
            isin=("sft", "preference", "evaluation"),
        ),
    ),
)
