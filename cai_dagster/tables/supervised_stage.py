"""The supervised stage (Bai et al. 2022, section 3): first responses, revisions, SL-CAI."""

from cai_dagster.tables.column_types import ColumnType as T
from cai_dagster.tables.shared_columns import VERSION, checkpoint_columns
from cai_dagster.tables.table import COMPUTED, MODEL, Column, Maker, Table

INITIAL_RESPONSES = Table(
    "initial_responses",
    "A first response y^0 to a prompt.",
    group="supervised_stage",
    maker=Maker.model,
    key=("prompt_id", "sample"),
    reads=("prompts",),
    called="first response",
    preview="SELECT messages[-1].content AS prompt, completion, reasoning, finish_reason FROM initial_responses "
    "LEFT JOIN prompts USING (prompt_id)",
    columns=(
        Column("prompt_id", T.identifier, "The prompt: a hash of its messages.", "prompts.prompt_id"),
        Column("sample", T.integer, "From 0, when several first responses are drawn for one prompt.", COMPUTED, ge=0),
        Column("completion", T.text, "What the model wrote.", "prompts.messages", not_empty=True),
        Column("reasoning", T.text, "What the model thought before it, if it does.", MODEL, nullable=True),
        Column("finish_reason", T.text, "stop: the model ended it; length: it was cut at max_tokens.", MODEL),
        Column("request_id", T.identifier, "The call in the ledger.", MODEL),
        Column("policy_model", T.text, "Identity of the weights that wrote it.", MODEL),
    ),
)

REVISION_ROUNDS = Table(
    "revision_rounds",
    "One critique and revision of one response: prompt × sample × round.",
    group="supervised_stage",
    maker=Maker.model,
    key=("constitution_version", "prompt_id", "sample", "round"),
    reads=("constitution", "initial_responses", "prompts"),
    preview="SELECT messages[-1].content AS prompt, round, slug AS principle, response, critique, revision "
    "FROM revision_rounds LEFT JOIN prompts USING (prompt_id) LEFT JOIN constitution USING (principle_id)",
    columns=(
        VERSION,
        Column("prompt_id", T.identifier, "The prompt: a hash of its messages.", "initial_responses.prompt_id"),
        Column(
            "sample",
            T.integer,
            "From 0, when several first responses are drawn for one prompt.",
            "initial_responses.sample",
            ge=0,
        ),
        Column("round", T.integer, "From 1.", COMPUTED, ge=1),
        Column(
            "principle_id",
            T.identifier,
            "The principle drawn for this round.",
            ("constitution.principle_id", "constitution.slug", "constitution.weight"),
        ),
        Column("response", T.text, "y^(round-1): what is criticised.", "initial_responses.completion", not_empty=True),
        Column(
            "critique",
            T.text,
            "What the model found wrong, by the principle.",
            (
                "prompts.messages",
                "initial_responses.completion",
                "constitution.critique_request",
                "constitution.dialogues",
            ),
            not_empty=True,
        ),
        Column(
            "revision",
            T.text,
            "y^round",
            (
                "prompts.messages",
                "initial_responses.completion",
                "constitution.critique_request",
                "constitution.revision_request",
                "constitution.dialogues",
            ),
            not_empty=True,
        ),
        Column("critique_reasoning", T.text, "What the model thought before the critique.", MODEL, nullable=True),
        Column("revision_reasoning", T.text, "What it thought before the revision.", MODEL, nullable=True),
        Column("critique_finish_reason", T.text, "stop, or length: it was cut at critique_max_tokens.", MODEL),
        Column("revision_finish_reason", T.text, "stop, or length: it was cut at revision_max_tokens.", MODEL),
        Column("critique_request_id", T.identifier, "The critique's call in the ledger.", MODEL),
        Column("revision_request_id", T.identifier, "The revision's call in the ledger.", MODEL),
    ),
)

SFT_DATASET = Table(
    "sft_dataset",
    "A dialogue to fine-tune on: (x, y^n), or (x, y^i) of every round.",
    group="supervised_stage",
    maker=Maker.computation,
    key=("constitution_version", "prompt_id", "sample", "round"),
    reads=("prompts", "revision_rounds"),
    preview="SELECT messages[-2].content AS prompt, messages[-1].content AS completion, round FROM sft_dataset",
    columns=(
        Column(
            "constitution_version",
            T.text,
            "The constitution's version: the partition key.",
            "revision_rounds.constitution_version",
        ),
        Column("prompt_id", T.identifier, "The prompt: a hash of its messages.", "revision_rounds.prompt_id"),
        Column(
            "sample",
            T.integer,
            "From 0, when several first responses are drawn for one prompt.",
            "revision_rounds.sample",
            ge=0,
        ),
        Column("round", T.integer, "The round whose revision is the last turn.", "revision_rounds.round", ge=1),
        Column(
            "messages", T.messages, "TRL's conversational format.", ("prompts.messages", "revision_rounds.revision")
        ),
    ),
)

SL_CAI_MODEL = Table(
    "sl_cai_model",
    "The checkpoint in use for a version.",
    trained_on=("sft_dataset",),
    group="supervised_stage",
    maker=Maker.training,
    key=("constitution_version",),
    reads=("prompts", "revision_rounds", "sft_dataset"),
    columns=checkpoint_columns(None, ("sft_dataset.messages",)),
)
