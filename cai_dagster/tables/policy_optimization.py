"""Policies that are trained or picked further, and all policies compared."""

from cai_dagster.tables.column_types import ColumnType as T
from cai_dagster.tables.shared_columns import JUDGED_BY, LABELLED_PAIRS, VERSION, checkpoint_columns, judgement_columns
from cai_dagster.tables.table import COMPUTED, MODEL, Column, Maker, Table

_VERDICTS = tuple(f"policy_judgements.{name}" for name in ("logp_a", "logp_b", "order"))

TEACHER_RESPONSES = Table(
    "teacher_responses",
    "A first response y^0 to a prompt.",
    group="policy_optimization",
    maker=Maker.model,
    key=("prompt_id", "sample"),
    reads=("prompts",),
    on_demand=True,
    called="teacher's response",
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

TEACHER_SFT_MODEL = Table(
    "teacher_sft_model",
    "The checkpoint in use for a version.",
    trained_on=("teacher_responses",),
    group="policy_optimization",
    maker=Maker.training,
    key=("constitution_version",),
    reads=("prompts", "teacher_responses"),
    on_demand=True,
    columns=checkpoint_columns(None, ("teacher_responses.completion", "prompts.messages"), version=COMPUTED),
)

DPO_MODEL = Table(
    "dpo_model",
    "The checkpoint in use for a version.",
    trained_on=("preference_pairs",),
    group="policy_optimization",
    maker=Maker.training,
    key=("constitution_version",),
    reads=("preference_pairs", "sl_cai_model"),
    on_demand=True,
    columns=checkpoint_columns("sl_cai_model", LABELLED_PAIRS),
)

RLAIF_MODEL = Table(
    "rlaif_model",
    "The checkpoint in use for a version.",
    trained_on=("prompts",),
    group="policy_optimization",
    maker=Maker.training,
    key=("constitution_version",),
    reads=("constitution", "prompts", "reward_model", "sl_cai_model"),
    on_demand=True,
    columns=checkpoint_columns("sl_cai_model", ("prompts.messages", "prompts.split", "reward_model.checkpoint_key")),
)

BEST_OF_N_CANDIDATES = Table(
    "best_of_n_candidates",
    "One of n completions that sl_cai_model wrote to one prompt.",
    group="policy_optimization",
    maker=Maker.model,
    key=("constitution_version", "prompt_id", "sample"),
    reads=("prompts", "sl_cai_model"),
    on_demand=True,
    columns=(
        VERSION,
        Column("prompt_id", T.identifier, "The prompt: a hash of its messages.", "prompts.prompt_id"),
        Column("sample", T.integer, "From 0 to n − 1.", COMPUTED, ge=0),
        Column(
            "completion",
            T.text,
            "What the model wrote.",
            ("prompts.messages", "sl_cai_model.checkpoint_key"),
            not_empty=True,
        ),
        Column("reasoning", T.text, "What the model thought before it, if it does.", MODEL, nullable=True),
        Column("finish_reason", T.text, "stop: the model ended it; length: it was cut at max_tokens.", MODEL),
        Column("request_id", T.identifier, "The call in the ledger.", MODEL),
    ),
)

BEST_OF_N = Table(
    "best_of_n",
    "The candidate to which the reward model gives the highest reward.",
    group="policy_optimization",
    maker=Maker.scoring,
    key=("constitution_version", "prompt_id"),
    reads=("best_of_n_candidates", "constitution", "prompts", "reward_model"),
    on_demand=True,
    columns=(
        VERSION,
        Column("prompt_id", T.identifier, "The prompt: a hash of its messages.", "best_of_n_candidates.prompt_id"),
        Column("n", T.integer, "Candidates there were.", "best_of_n_candidates.sample", ge=1),
        Column(
            "sample",
            T.integer,
            "The candidate that was picked; the first of those that are equal.",
            ("best_of_n_candidates.sample", "best_of_n_candidates.completion", "reward_model.checkpoint_key"),
            ge=0,
        ),
        Column(
            "completion",
            T.text,
            "What the model wrote.",
            ("best_of_n_candidates.completion", "reward_model.checkpoint_key"),
            not_empty=True,
        ),
        Column(
            "reward", T.number, "Of the picked one.", ("best_of_n_candidates.completion", "reward_model.checkpoint_key")
        ),
        Column(
            "mean_reward",
            T.number,
            "Of all candidates: what a random pick would have.",
            ("best_of_n_candidates.completion", "reward_model.checkpoint_key"),
        ),
        Column(
            "finish_reason",
            T.text,
            "stop: the model ended it; length: it was cut at max_tokens.",
            ("best_of_n_candidates.finish_reason", "best_of_n_candidates.completion", "reward_model.checkpoint_key"),
        ),
        Column(
            "request_id",
            T.identifier,
            "The call in the ledger.",
            ("best_of_n_candidates.request_id", "best_of_n_candidates.completion", "reward_model.checkpoint_key"),
        ),
        Column("reward_model", T.identifier, "Key of the checkpoint that picked.", "reward_model.checkpoint_key"),
    ),
)

POLICY_RESPONSES = Table(
    "policy_responses",
    "What one policy answered to one evaluation prompt.",
    group="policy_optimization",
    maker=Maker.model,
    key=("constitution_version", "policy", "prompt_id"),
    reads=(
        "best_of_n",
        "dpo_model",
        "initial_responses",
        "prompts",
        "revision_rounds",
        "rlaif_model",
        "sl_cai_model",
        "teacher_sft_model",
    ),
    on_demand=True,
    columns=(
        VERSION,
        Column("policy", T.text, "The table it comes from: initial_responses is y^0, revision_rounds y^n.", COMPUTED),
        Column("prompt_id", T.identifier, "The prompt: a hash of its messages.", "prompts.prompt_id"),
        Column(
            "completion",
            T.text,
            "What the model wrote.",
            (
                "prompts.messages",
                "initial_responses.completion",
                "revision_rounds.revision",
                "best_of_n.completion",
                "sl_cai_model.checkpoint_key",
                "dpo_model.checkpoint_key",
                "rlaif_model.checkpoint_key",
                "teacher_sft_model.checkpoint_key",
            ),
            not_empty=True,
        ),
        Column(
            "finish_reason",
            T.text,
            "stop: the model ended it; length: it was cut at max_tokens.",
            ("initial_responses.finish_reason", "revision_rounds.revision_finish_reason", "best_of_n.finish_reason"),
        ),
        Column(
            "request_id",
            T.identifier,
            "The call in the ledger.",
            ("initial_responses.request_id", "revision_rounds.revision_request_id", "best_of_n.request_id"),
        ),
    ),
)

POLICY_JUDGEMENTS = Table(
    "policy_judgements",
    "What the feedback model said of the answers of two policies, before any win is counted: see Judgements.",
    group="policy_optimization",
    maker=Maker.model,
    call_stage="judgements",
    key=("constitution_version", "policy_0", "policy_1", "prompt_id", "principle_id", "order"),
    reads=("constitution", "policy_responses", "prompts"),
    on_demand=True,
    columns=(
        *judgement_columns("policy_responses.completion", ("policy_responses.completion", *JUDGED_BY)),
        Column("policy_0", T.text, "Whose answer completion_0 is.", "policy_responses.policy"),
        Column("policy_1", T.text, "Whose answer completion_1 is.", "policy_responses.policy"),
        Column("prompt_id", T.identifier, "The prompt: a hash of its messages.", "policy_responses.prompt_id"),
    ),
)

POLICY_EVALUATION = Table(
    "policy_evaluation",
    "One policy against another, or against all others (`opponent` is `all`).",
    group="policy_optimization",
    maker=Maker.scoring,
    key=("constitution_version", "policy", "opponent"),
    reads=("constitution", "policy_judgements", "policy_responses", "prompts", "reward_model"),
    on_demand=True,
    columns=(
        VERSION,
        Column(
            "policy",
            T.text,
            "The policy that is measured: the table its answers come from.",
            "policy_responses.completion",
        ),
        Column(
            "opponent",
            T.text,
            "all: the mean over the others; these rows also measure the policy alone.",
            "policy_responses.completion",
        ),
        Column("prompts", T.integer, "Evaluation prompts that the row is about.", "policy_responses.completion", ge=1),
        Column("win_rate", T.number, "Share of prompts it wins; a tie counts one half.", _VERDICTS, ge=0, le=1),
        Column("win_rate_low", T.number, "Bootstrap over prompts; null for one.", _VERDICTS, ge=0, le=1, nullable=True),
        Column("win_rate_high", T.number, "Its upper end.", _VERDICTS, ge=0, le=1, nullable=True),
        Column("p_better", T.number, "Mean P(its answer is better).", _VERDICTS, ge=0, le=1),
        Column(
            "identical",
            T.number,
            "Share of prompts with word for word the same answer.",
            "policy_responses.completion",
            ge=0,
            le=1,
        ),
        Column(
            "mean_reward",
            T.number,
            "By the reward model; rows against `all` only.",
            ("reward_model.checkpoint_key", "policy_responses.completion"),
            nullable=True,
        ),
        Column(
            "mean_reward_low",
            T.number,
            "Bootstrap over prompts; null for one.",
            ("reward_model.checkpoint_key", "policy_responses.completion"),
            nullable=True,
        ),
        Column(
            "mean_reward_high",
            T.number,
            "Its upper end.",
            ("reward_model.checkpoint_key", "policy_responses.completion"),
            nullable=True,
        ),
        Column("mean_length", T.number, "Characters.", "policy_responses.completion", ge=0, nullable=True),
        Column(
            "refusal_rate",
            T.number,
            "By the phrases in `refusals`.",
            "policy_responses.completion",
            ge=0,
            le=1,
            nullable=True,
        ),
    ),
)
