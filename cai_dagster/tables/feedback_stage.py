"""The feedback stage (Bai et al. 2022, section 4): response pairs, judgements, labelled pairs."""

from cai_dagster.tables.column_types import ColumnType as T
from cai_dagster.tables.shared_columns import JUDGED_BY, VERSION, judgement_columns
from cai_dagster.tables.table import COMPUTED, Column, Maker, Table

RESPONSE_PAIRS = Table(
    "response_pairs",
    "Two completions of one prompt.",
    group="feedback_stage",
    maker=Maker.model,
    key=("constitution_version", "pair_id"),
    reads=("initial_responses", "prompts", "revision_rounds", "sl_cai_model"),
    preview="SELECT messages[-1].content AS prompt, completion_0, completion_1, response_pairs.source "
    "FROM response_pairs LEFT JOIN prompts USING (prompt_id)",
    columns=(
        VERSION,
        Column("pair_id", T.identifier, "Hash of the prompt id and both completions.", COMPUTED),
        Column("prompt_id", T.identifier, "The prompt: a hash of its messages.", "prompts.prompt_id"),
        Column("source", T.text, "sl_cai_model: both sampled from it; revisions: y^0 and y^n; imported.", COMPUTED),
        Column(
            "completion_0",
            T.text,
            "The first of them; for revisions y^0.",
            ("prompts.messages", "sl_cai_model.checkpoint_key", "initial_responses.completion"),
            not_empty=True,
        ),
        Column(
            "completion_1",
            T.text,
            "The second; for revisions y^n.",
            ("prompts.messages", "sl_cai_model.checkpoint_key", "revision_rounds.revision"),
            not_empty=True,
        ),
        Column(
            "reasoning_0",
            T.text,
            "What was thought before completion_0, where that is known.",
            "initial_responses.reasoning",
            nullable=True,
        ),
        Column(
            "reasoning_1",
            T.text,
            "What was thought before completion_1.",
            "revision_rounds.revision_reasoning",
            nullable=True,
        ),
        Column(
            "finish_reason_0",
            T.text,
            "Why completion_0 ended; imported where it was not written here.",
            "initial_responses.finish_reason",
        ),
        Column("finish_reason_1", T.text, "Why completion_1 ended.", "revision_rounds.revision_finish_reason"),
        Column(
            "request_id_0",
            T.identifier,
            "The call of completion_0 in the ledger; imported: the hash of its text.",
            "initial_responses.request_id",
        ),
        Column(
            "request_id_1",
            T.identifier,
            "The call of completion_1 in the ledger.",
            "revision_rounds.revision_request_id",
        ),
    ),
)

JUDGEMENTS = Table(
    "judgements",
    "What the feedback model said of one pair under one principle in one order: the evidence, before any policy.",
    group="feedback_stage",
    maker=Maker.model,
    key=("constitution_version", "pair_id", "principle_id", "order"),
    reads=("constitution", "prompts", "response_pairs"),
    preview='SELECT messages[-1].content AS prompt, completion_0, completion_1, "order", exp(logp_a) AS "P(A)", '
    'exp(logp_b) AS "P(B)", slug AS principle FROM judgements LEFT JOIN response_pairs USING (pair_id) '
    "LEFT JOIN prompts USING (prompt_id) LEFT JOIN constitution USING (principle_id)",
    columns=judgement_columns(
        "response_pairs.pair_id", ("response_pairs.completion_0", "response_pairs.completion_1", *JUDGED_BY)
    ),
)

PREFERENCE_PAIRS = Table(
    "preference_pairs",
    "A labelled pair in TRL's conversational preference format.",
    group="feedback_stage",
    maker=Maker.computation,
    key=("constitution_version", "pair_id"),
    reads=("judge_calibration", "judgements", "prompts", "response_pairs"),
    columns=(
        VERSION,
        Column("pair_id", T.identifier, "Hash of the prompt id and both completions.", "response_pairs.pair_id"),
        Column("prompt_id", T.identifier, "The prompt: a hash of its messages.", "response_pairs.prompt_id"),
        Column("prompt", T.messages, "The turns before the completion.", "prompts.messages"),
        Column(
            "chosen",
            T.messages,
            "The preferred one: one turn.",
            ("response_pairs.completion_0", "response_pairs.completion_1", "judgements.logp_a", "judgements.logp_b"),
        ),
        Column(
            "rejected",
            T.messages,
            "The other: one turn.",
            ("response_pairs.completion_0", "response_pairs.completion_1", "judgements.logp_a", "judgements.logp_b"),
        ),
        Column(
            "p_chosen",
            T.number,
            "P(chosen is better) under the label policy.",
            (
                "judgements.logp_a",
                "judgements.logp_b",
                "judgements.order",
                "judgements.principle_id",
                "judgements.principle_weight",
            ),
            gt=0.5,
            le=1,
        ),
        Column("label_policy", T.text, "The policy and its parameters.", COMPUTED),
        Column("source", T.text, "As in response_pairs.", "response_pairs.source"),
        Column(
            "split",
            T.text,
            "sft, preference or evaluation: a hash of the prompt id.",
            "prompts.split",
            isin=("sft", "preference", "evaluation"),
        ),
    ),
)
