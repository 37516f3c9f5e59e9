"""Two constitution versions compared."""

from cai_dagster.tables.column_types import ColumnType as T
from cai_dagster.tables.shared_columns import JUDGED_BY, VERSION, judgement_columns
from cai_dagster.tables.table import COMPUTED, Column, Maker, Table

_MEASURED = (
    *(f"constitution.{name}" for name in ("weight", "critique_request", "revision_request", "comparison_request")),
    *("revision_rounds.revision", "sft_dataset.messages", "response_pairs.pair_id"),
    *("judgements.logp_a", "judgements.logp_b", "preference_pairs.p_chosen", "preference_pairs.chosen"),
    *("version_judgements.logp_a", "version_judgements.logp_b"),
    *(f"reward_model_evaluation.{name}" for name in ("pairs", "accuracy", "accuracy_low", "accuracy_high")),
    *(f"reward_model_evaluation.{name}" for name in ("log_loss", "calibration_error", "length_correlation")),
    *(f"policy_evaluation.{name}" for name in ("prompts", "win_rate", "win_rate_low", "win_rate_high")),
)

VERSION_JUDGEMENTS = Table(
    "version_judgements",
    "What the feedback model said of the final revisions of two versions, under the principles of"
    " both.  completion_0 is the revision of `against`, completion_1 that of "
    "`constitution_version`; see Judgements.",
    group="comparison",
    maker=Maker.model,
    call_stage="judgements",
    key=("constitution_version", "judged_by", "prompt_id", "sample", "principle_id", "order"),
    reads=("constitution", "prompts", "revision_rounds"),
    on_demand=True,
    columns=(
        *judgement_columns("revision_rounds.revision", ("revision_rounds.revision", *JUDGED_BY)),
        Column("against", T.text, "The version that it is compared with.", COMPUTED),
        Column("judged_by", T.text, "The version whose principles were asked.", "constitution.constitution_version"),
        Column("prompt_id", T.identifier, "The prompt: a hash of its messages.", "revision_rounds.prompt_id"),
        Column(
            "sample",
            T.integer,
            "From 0, when several first responses are drawn for one prompt.",
            "revision_rounds.sample",
            ge=0,
        ),
    ),
)

CONSTITUTION_DIFF = Table(
    "constitution_diff",
    "One figure of a version beside the same of an earlier one; docs/compare.md defines each.",
    group="comparison",
    maker=Maker.summary,
    key=("constitution_version", "section", "name", "measure"),
    reads=(
        "constitution",
        "judgements",
        "policy_evaluation",
        "preference_pairs",
        "prompts",
        "response_pairs",
        "revision_rounds",
        "reward_model_evaluation",
        "sft_dataset",
        "version_judgements",
    ),
    columns=(
        VERSION,
        Column("against", T.text, "The version that it is compared with.", COMPUTED),
        Column(
            "section",
            T.text,
            "What kind of figure it is.",
            COMPUTED,
            isin=("principle", "rows", "completions", "labels", "check", "win_rate", "reward_model", "policy", "cost"),
        ),
        Column(
            "name",
            T.text,
            "What it is about: a principle's slug, a table, a check, a version, a slice, a policy.",
            ("constitution.slug", "reward_model_evaluation.slice_value", "policy_evaluation.policy"),
        ),
        Column("measure", T.text, "What was measured of it, such as weight, shared, flipped, win_rate.", COMPUTED),
        Column(
            "before", T.number, "In `against`; null where it belongs to both or is not there.", _MEASURED, nullable=True
        ),
        Column("after", T.number, "In `constitution_version`, or between the two.", _MEASURED, nullable=True),
        Column("low", T.number, "Lower end of the bootstrap interval of `after`.", _MEASURED, nullable=True),
        Column("high", T.number, "Upper end of it.", _MEASURED, nullable=True),
        Column(
            "note",
            T.text,
            "Of a principle: added, removed, edited, re-weighted, re-tagged.",
            ("constitution.principle_id", "constitution.weight", "constitution.tags"),
            nullable=True,
        ),
    ),
)
