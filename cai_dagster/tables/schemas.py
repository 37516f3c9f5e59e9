"""The tables: one pandera model each, with the columns a reader may rely on, and the key of a row.

What a column means is said here, once. How rows get into a table is the business of `lake`. pandera is slow to
import, so this module is imported only where rows are written or read, never on loading the code location.
"""

from dataclasses import dataclass
from typing import Annotated

import pandera.polars as pa
import polars as pl

_MESSAGE = pl.Struct({"role": pl.String, "content": pl.String})
_DIALOGUE_FIELDS = ("prompt", "response", "critique_request", "critique", "revision_request", "revision")
_DIALOGUE = pl.Struct(dict.fromkeys(_DIALOGUE_FIELDS, pl.String))
_COMPARISON_TEXTS = ("prompt", "response_a", "response_b", "comparison_request", "better", "rationale")
_COMPARISON = pl.Struct({**dict.fromkeys(_COMPARISON_TEXTS, pl.String), "score_a": pl.Int64, "score_b": pl.Int64})
_HEX = r"^[0-9a-f]+$"
_SPLITS = ["sft", "preference", "evaluation"]


class _Model(pa.DataFrameModel):
    class Config(pa.DataFrameModel.Config):
        strict = True


class _VersionedModel(_Model):
    constitution_version: str = pa.Field(description="The constitution's version: the partition key.")


class Constitution(_VersionedModel):
    """A principle of a version."""

    principle_id: str = pa.Field(str_matches=_HEX, description="Hash of slug and texts: the same in every version.")
    slug: str = pa.Field(description="The principle's identity across versions; draws follow it.")
    critique_request: str = pa.Field(
        str_length={"min_value": 1}, description="What the model is asked when it criticises a response."
    )
    revision_request: str = pa.Field(
        str_length={"min_value": 1}, description="What it is asked when it revises the response."
    )
    comparison_request: str = pa.Field(
        str_length={"min_value": 1}, description="What the feedback model is asked of two completions."
    )
    weight: float = pa.Field(gt=0, description="Relative chance of being drawn.")
    tags: pl.List = pa.Field(
        dtype_kwargs={"inner": pl.String}, description="Words of yours; nothing is decided by them."
    )
    dialogues: pl.List = pa.Field(dtype_kwargs={"inner": _DIALOGUE}, description="The version's few-shot dialogues.")
    comparisons: pl.List = pa.Field(
        dtype_kwargs={"inner": _COMPARISON}, nullable=True, description="The version's few-shot judgements."
    )


class Prompts(_Model):
    """A prompt x."""

    prompt_id: str = pa.Field(str_matches=_HEX, description="The prompt: a hash of its messages.")
    messages: pl.List = pa.Field(dtype_kwargs={"inner": _MESSAGE}, description="The turns; the last is the user's.")
    source: str = pa.Field(description="file:line it was first read from.")
    sources: pl.List = pa.Field(dtype_kwargs={"inner": pl.String}, description="Every place it was read from.")
    category: str = pa.Field(nullable=True, description="As the source has it.")
    split: str = pa.Field(isin=_SPLITS, description="sft, preference or evaluation: a hash of the prompt id.")


class InitialResponses(_Model):
    """A first response y^0 to a prompt."""

    prompt_id: str = pa.Field(str_matches=_HEX)
    sample: int = pa.Field(ge=0, description="From 0, when several first responses are drawn for one prompt.")
    completion: str = pa.Field(str_length={"min_value": 1}, description="What the model wrote.")
    finish_reason: str = pa.Field(description="stop: the model ended it; length: it was cut at max_tokens.")
    request_id: str = pa.Field(str_matches=_HEX, description="The call in the ledger.")
    policy_model: str = pa.Field(description="Identity of the weights that wrote it.")


class RevisionRounds(_VersionedModel):
    """One critique and revision of one response: prompt × sample × round."""

    prompt_id: str = pa.Field(str_matches=_HEX)
    sample: int = pa.Field(ge=0)
    round: int = pa.Field(ge=1, description="From 1.")
    principle_id: str = pa.Field(str_matches=_HEX, description="The principle drawn for this round.")
    response: str = pa.Field(str_length={"min_value": 1}, description="y^(round-1): what is criticised.")
    critique: str = pa.Field(str_length={"min_value": 1}, description="What the model found wrong, by the principle.")
    revision: str = pa.Field(str_length={"min_value": 1}, description="y^round")
    critique_finish_reason: str = pa.Field(description="stop, or length: it was cut at critique_max_tokens.")
    revision_finish_reason: str = pa.Field(description="stop, or length: it was cut at revision_max_tokens.")
    critique_request_id: str = pa.Field(str_matches=_HEX, description="The critique's call in the ledger.")
    revision_request_id: str = pa.Field(str_matches=_HEX, description="The revision's call in the ledger.")


class SftDataset(_VersionedModel):
    """A dialogue to fine-tune on: (x, y^n), or (x, y^i) of every round."""

    prompt_id: str = pa.Field(str_matches=_HEX)
    sample: int = pa.Field(ge=0)
    round: int = pa.Field(ge=1, description="The round whose revision is the last turn.")
    messages: pl.List = pa.Field(dtype_kwargs={"inner": _MESSAGE}, description="TRL's conversational format.")


class Checkpoint(_VersionedModel):
    """The checkpoint in use for a version."""

    checkpoint_key: str = pa.Field(str_matches=_HEX, description="Hash of base model, rows, settings, code version.")
    path: str = pa.Field(description="A Hugging Face folder.")
    base_model: str = pa.Field(description="Identity of the weights that training began with.")
    rows: int = pa.Field(ge=1, description="Rows it was trained on.")
    record: str = pa.Field(description="record.json of the checkpoint, as it lies beside the weights.")


class ResponsePairs(_VersionedModel):
    """Two completions of one prompt."""

    pair_id: str = pa.Field(str_matches=_HEX, description="Hash of the prompt id and both completions.")
    prompt_id: str = pa.Field(str_matches=_HEX)
    source: str = pa.Field(description="sl_cai_model: both sampled from it; revisions: y^0 and y^n; imported.")
    completion_0: str = pa.Field(str_length={"min_value": 1}, description="The first of them; for revisions y^0.")
    completion_1: str = pa.Field(str_length={"min_value": 1}, description="The second; for revisions y^n.")
    finish_reason_0: str = pa.Field(description="Why completion_0 ended; imported where it was not written here.")
    finish_reason_1: str = pa.Field(description="Why completion_1 ended.")
    request_id_0: str = pa.Field(
        str_matches=_HEX, description="The call of completion_0 in the ledger; imported: the hash of its text."
    )
    request_id_1: str = pa.Field(str_matches=_HEX, description="The call of completion_1 in the ledger.")


class Judgements(_VersionedModel):
    """What the feedback model said of one pair under one principle in one order: the evidence, before any policy.

    The columns from `method` on are null in rows written before there was a choice of methods: those are one_principle.
    """

    pair_id: str = pa.Field(str_matches=_HEX)
    principle_id: str = pa.Field(
        str_matches=_HEX, description="The principle; for several in one prompt the hash of their ids."
    )
    order: str = pa.Field(
        isin=["01", "10"], description="01: completion_0 was shown as (A), or nothing was shown as (A); 10: as (B)."
    )
    logp_a: float = pa.Field(
        le=1e-6,
        description="log P of the label token A, natural logarithm; for scores, of completion_0 scoring higher (a tie "
        "counts one half), times the mass of both completions' scores.",
    )
    logp_b: float = pa.Field(le=1e-6, description="log P of the label token B.")
    rationale: str = pa.Field(nullable=True, description="Null where no rationale was asked for.")
    feedback_model: str = pa.Field(description="Identity of the weights that judged.")
    request_id: str = pa.Field(
        str_matches=_HEX,
        description="The call of the label; for scores completion_0's first, for direct that of the revision.",
    )
    method: str = pa.Field(nullable=True, description="How it was judged; see docs/judging.md.")
    principle_ids: pl.List = pa.Field(
        dtype_kwargs={"inner": pl.String}, nullable=True, description="The principles in the prompt, as shown."
    )
    principle_weight: float = pa.Field(
        gt=0, nullable=True, description="Their weight in the constitution, added up; null counts as 1."
    )
    rationale_finish_reason: str = pa.Field(nullable=True, description="length: it was cut at rationale_max_tokens.")
    rationale_request_id: str = pa.Field(str_matches=_HEX, nullable=True, description="The call of the rationale.")
    score_logprobs_0: pl.List = pa.Field(
        dtype_kwargs={"inner": pl.Float64}, nullable=True, description="log P of the scores 1 to 10 of completion_0."
    )
    score_logprobs_1: pl.List = pa.Field(
        dtype_kwargs={"inner": pl.Float64}, nullable=True, description="The same of completion_1."
    )
    score_0: float = pa.Field(ge=1, le=10, nullable=True, description="Expected score of completion_0.")
    score_1: float = pa.Field(ge=1, le=10, nullable=True, description="Expected score of completion_1.")
    score_request_ids: pl.List = pa.Field(
        dtype_kwargs={"inner": pl.String}, nullable=True, description="The calls of both scores."
    )


class HumanPreferences(_Model):
    """Two completions of a prompt and which of them people preferred."""

    pair_id: str = pa.Field(str_matches=_HEX, description="As in response_pairs: the same whoever is preferred.")
    prompt_id: str = pa.Field(str_matches=_HEX, description="As in prompts.")
    prompt: pl.List = pa.Field(dtype_kwargs={"inner": _MESSAGE}, description="The turns before the completion.")
    chosen: pl.List = pa.Field(dtype_kwargs={"inner": _MESSAGE}, description="One turn, the assistant's.")
    rejected: pl.List = pa.Field(dtype_kwargs={"inner": _MESSAGE}, description="One turn, the assistant's.")
    votes_chosen: int = pa.Field(ge=0, nullable=True, description="People who preferred chosen; null: not counted.")
    votes_rejected: int = pa.Field(ge=0, nullable=True, description="People who preferred rejected.")
    category: str = pa.Field(nullable=True, description="As the file has it; a slice of the calibration.")
    source: str = pa.Field(description="file:line it was read from.")
    split: str = pa.Field(isin=_SPLITS, description="As in prompts: a hash of the prompt id.")


class CalibrationJudgements(Judgements):
    """What the feedback model said of a human-labelled pair: as in judgements, which has the columns."""


class JudgeCalibration(_VersionedModel):
    """The feedback model against humans, one slice of the pairs a row; docs/calibration.md defines each number."""

    slice: str = pa.Field(
        isin=["all", "one_principle", "category", "principle", "humans"],
        description="all: labels averaged over their principles; one_principle: each principle's label alone; "
        "category, principle: of one of them; humans: people against each other, where several voted.",
    )
    slice_value: str = pa.Field(description="The category, or the principle's slug; empty where the kind says all.")
    feedback_model: str = pa.Field(description="Identity of the weights that judged; humans in the slice humans.")
    pairs: int = pa.Field(ge=1, description="Pairs in the slice.")
    agreement: float = pa.Field(ge=0, le=1, description="Chance to name the completion that a human names.")
    agreement_low: float = pa.Field(nullable=True, description="95 % bootstrap interval; null for a single pair.")
    agreement_high: float = pa.Field(nullable=True, description="Its upper end.")
    log_loss: float = pa.Field(ge=0, nullable=True, description="In nats; ln 2 says nothing.")
    brier_score: float = pa.Field(ge=0, le=1, nullable=True, description="Mean squared error; 0.25 says nothing.")
    calibration_error: float = pa.Field(ge=0, le=1, nullable=True, description="Expected, over ten bins of confidence.")
    position_bias: float = pa.Field(nullable=True, description="Share of verdicts with the same letter after a swap.")
    longer_preferred: float = pa.Field(nullable=True, description="How often the longer completion is preferred.")
    length_bias: float = pa.Field(nullable=True, description="longer_preferred minus the same of the humans.")
    order_agreement: float = pa.Field(nullable=True, description="Share of verdicts that both orders share.")
    principle_agreement: float = pa.Field(nullable=True, description="Chance that two principles agree on a pair.")
    label_mass: float = pa.Field(nullable=True, description="Mean of P(A) + P(B).")
    noise_orders: float = pa.Field(ge=0, nullable=True, description="Variance of P between the orders.")
    noise_principles: float = pa.Field(ge=0, nullable=True, description="Variance of P between the principles.")
    noise_repeats: float = pa.Field(ge=0, nullable=True, description="Variance of a verdict drawn from P.")
    noise: float = pa.Field(ge=0, nullable=True, description="Variance of one verdict: the sum of what is known of it.")
    bias: float = pa.Field(nullable=True, description="Mean squared distance of P from the humans' consensus.")


class PreferencePairs(_VersionedModel):
    """A labelled pair in TRL's conversational preference format."""

    pair_id: str = pa.Field(str_matches=_HEX)
    prompt_id: str = pa.Field(str_matches=_HEX)
    prompt: pl.List = pa.Field(dtype_kwargs={"inner": _MESSAGE}, description="The turns before the completion.")
    chosen: pl.List = pa.Field(dtype_kwargs={"inner": _MESSAGE}, description="The preferred one: one turn.")
    rejected: pl.List = pa.Field(dtype_kwargs={"inner": _MESSAGE}, description="The other: one turn.")
    p_chosen: float = pa.Field(gt=0.5, le=1, description="P(chosen is better) under the label policy.")
    label_policy: str = pa.Field(description="The policy and its parameters.")
    source: str = pa.Field(description="As in response_pairs.")
    split: str = pa.Field(isin=_SPLITS)


class RewardModelEvaluation(_VersionedModel):
    """A reward model against the labels of pairs whose prompts it never saw; one row a slice of them."""

    checkpoint_key: str = pa.Field(str_matches=_HEX)
    pairs: int = pa.Field(ge=1, description="Pairs in the slice.")
    accuracy: float = pa.Field(ge=0, le=1, description="Share of pairs in which the chosen one has the higher reward.")
    log_loss: float = pa.Field(ge=0, description="Cross entropy against the soft label, in nats.")
    constant_log_loss: float = pa.Field(ge=0, description="The same for a model that always says one half: ln 2.")
    brier_score: float = pa.Field(ge=0, le=1, description="Mean squared error; 0.25 says nothing.")
    calibration_error: float = pa.Field(ge=0, le=1, description="Expected calibration error over ten bins.")
    length_correlation: float = pa.Field(nullable=True, description="Spearman's ρ of reward and characters.")
    longer_wins_accuracy: float = pa.Field(ge=0, le=1, description="The baseline that prefers the longer one.")
    slice: str = pa.Field(
        nullable=True,
        description="Which pairs: all (null in rows of older versions), principle, labelled_by, benchmark_subset, "
        "benchmark_category or benchmark. The labels are those of the slice: one principle's, people's, the file's.",
    )
    slice_value: str = pa.Field(
        nullable=True, description="The principle's slug, human, or the benchmark's name and subset."
    )
    accuracy_low: float = pa.Field(ge=0, le=1, nullable=True, description="95 % bootstrap interval over prompts.")
    accuracy_high: float = pa.Field(ge=0, le=1, nullable=True, description="Its upper end.")
    longer_wins_low: float = pa.Field(ge=0, le=1, nullable=True, description="The same for longer_wins_accuracy.")
    longer_wins_high: float = pa.Field(ge=0, le=1, nullable=True, description="Its upper end.")
    reward_low: float = pa.Field(nullable=True, description="The lowest reward; null in rows of older versions.")
    reward_high: float = pa.Field(nullable=True, description="The highest reward.")
    chosen_rewards: pl.List = pa.Field(
        dtype_kwargs={"inner": pl.Int64},
        nullable=True,
        description="Pairs by the reward of chosen, in 20 bins of equal width from reward_low to reward_high.",
    )
    rejected_rewards: pl.List = pa.Field(
        dtype_kwargs={"inner": pl.Int64},
        nullable=True,
        description="Pairs by the reward of rejected, in the same bins.",
    )


class BestOfNCandidates(_VersionedModel):
    """One of n completions that sl_cai_model wrote to one prompt."""

    prompt_id: str = pa.Field(str_matches=_HEX)
    sample: int = pa.Field(ge=0, description="From 0 to n − 1.")
    completion: str = pa.Field(str_length={"min_value": 1})
    finish_reason: str
    request_id: str = pa.Field(str_matches=_HEX, description="The call in the ledger.")


class BestOfN(_VersionedModel):
    """The candidate to which the reward model gives the highest reward."""

    prompt_id: str = pa.Field(str_matches=_HEX)
    n: int = pa.Field(ge=1, description="Candidates there were.")
    sample: int = pa.Field(ge=0, description="The candidate that was picked; the first of those that are equal.")
    completion: str = pa.Field(str_length={"min_value": 1})
    reward: float = pa.Field(description="Of the picked one.")
    mean_reward: float = pa.Field(description="Of all candidates: what a random pick would have.")
    finish_reason: str
    request_id: str = pa.Field(str_matches=_HEX)
    reward_model: str = pa.Field(str_matches=_HEX, description="Key of the checkpoint that picked.")


class PolicyResponses(_VersionedModel):
    """What one policy answered to one evaluation prompt."""

    policy: str = pa.Field(description="The table it comes from: initial_responses is y^0, revision_rounds y^n.")
    prompt_id: str = pa.Field(str_matches=_HEX)
    completion: str = pa.Field(str_length={"min_value": 1})
    finish_reason: str
    request_id: str = pa.Field(str_matches=_HEX)


class PolicyJudgements(Judgements):
    """What the feedback model said of the answers of two policies, before any win is counted: see Judgements."""

    policy_0: str = pa.Field(description="Whose answer completion_0 is.")
    policy_1: str = pa.Field(description="Whose answer completion_1 is.")
    prompt_id: str = pa.Field(str_matches=_HEX)


class PolicyEvaluation(_VersionedModel):
    """One policy against another, or against all others (`opponent` is `all`)."""

    policy: str = pa.Field(description="The policy that is measured: the table its answers come from.")
    opponent: str = pa.Field(description="all: the mean over the others; these rows also measure the policy alone.")
    prompts: int = pa.Field(ge=1, description="Evaluation prompts that the row is about.")
    win_rate: float = pa.Field(ge=0, le=1, description="Share of prompts it wins; a tie counts one half.")
    win_rate_low: float = pa.Field(ge=0, le=1, nullable=True, description="Bootstrap over prompts; null for one.")
    win_rate_high: float = pa.Field(ge=0, le=1, nullable=True, description="Its upper end.")
    p_better: float = pa.Field(ge=0, le=1, description="Mean P(its answer is better).")
    identical: float = pa.Field(ge=0, le=1, description="Share of prompts with word for word the same answer.")
    mean_reward: float = pa.Field(nullable=True, description="By the reward model; rows against `all` only.")
    mean_reward_low: float = pa.Field(nullable=True, description="Bootstrap over prompts; null for one.")
    mean_reward_high: float = pa.Field(nullable=True, description="Its upper end.")
    mean_length: float = pa.Field(ge=0, nullable=True, description="Characters.")
    refusal_rate: float = pa.Field(ge=0, le=1, nullable=True, description="By the phrases in `refusals`.")


class VersionJudgements(Judgements):
    """What the feedback model said of the final revisions of two versions, under the principles of both.

    completion_0 is the revision of `against`, completion_1 that of `constitution_version`; see Judgements.
    """

    against: str = pa.Field(description="The version that it is compared with.")
    judged_by: str = pa.Field(description="The version whose principles were asked.")
    prompt_id: str = pa.Field(str_matches=_HEX)
    sample: int = pa.Field(ge=0)


class ConstitutionDiff(_VersionedModel):
    """One figure of a version beside the same of an earlier one; docs/compare.md defines each."""

    against: str = pa.Field(description="The version that it is compared with.")
    section: str = pa.Field(
        isin=[
            *("principle", "rows", "completions", "labels", "check", "win_rate"),
            *("reward_model", "policy", "cost"),
        ],
        description="What kind of figure it is.",
    )
    name: str = pa.Field(
        description="What it is about: a principle's slug, a table, a check, a version, a slice, a policy."
    )
    measure: str = pa.Field(description="What was measured of it, such as weight, shared, flipped, win_rate.")
    before: float = pa.Field(nullable=True, description="In `against`; null where it belongs to both or is not there.")
    after: float = pa.Field(nullable=True, description="In `constitution_version`, or between the two.")
    low: float = pa.Field(nullable=True, description="Lower end of the bootstrap interval of `after`.")
    high: float = pa.Field(nullable=True, description="Upper end of it.")
    note: str = pa.Field(nullable=True, description="Of a principle: added, removed, edited, re-weighted, re-tagged.")


class CostPlan(_VersionedModel):
    """What one stage would cost if this version were materialized now; see `cost_plan.StagePlan`."""

    asset: str = pa.Field(description="The stage: the asset that would pay.")
    calls: int = pa.Field(ge=0, description="Calls that the stage makes.")
    in_ledger: int = pa.Field(ge=0, description="Calls that cost nothing.")
    new: int = pa.Field(ge=0, description="Calls to be paid for.")
    exact: bool = pa.Field(description="False: an upper bound, because an input does not exist yet.")
    tokens_estimate: int = pa.Field(ge=0, nullable=True, description="Of the new calls; null where none was measured.")
    tokens_low: int = pa.Field(ge=0, nullable=True, description="Lower end of the 95 % interval.")
    tokens_high: int = pa.Field(ge=0, nullable=True, description="Upper end of the 95 % interval.")
    seconds_estimate: float = pa.Field(ge=0, nullable=True, description="At the measured rate.")


class RejectedRows(_Model):
    """A row that was set aside, with its reason."""

    table_name: str = pa.Field(description="The table it would have gone to.")
    row_id: str = pa.Field(description="Its id there, or file:line of an input.")
    reason: str = pa.Field(description="code: explanation")
    row: str = pa.Field(description="What is known of it, as JSON.")
    constitution_version: str = pa.Field(nullable=True, description="Null for an unversioned table.")


class Materializations(_Model):
    """What one materialization wrote and what it cost; appended in the transaction that wrote the rows."""

    table_name: str = pa.Field(description="The table: the name of the asset.")
    constitution_version: str = pa.Field(nullable=True, description="Null for an unversioned table.")
    run_id: str = pa.Field(description="Of the Dagster run.")
    materialized_at: Annotated[pl.Datetime, "us", None] = pa.Field(description="UTC")
    rows: int = pa.Field(ge=0, description="Rows written.")
    rejected: int = pa.Field(ge=0, description="Rows set aside.")
    data_version: str = pa.Field(
        description="Hash of the rows, whatever their order; what Dagster shows as data version."
    )
    ledger_hits: int = pa.Field(ge=0, description="Calls answered from the ledger.")
    ledger_misses: int = pa.Field(ge=0, description="Calls paid for.")
    prompt_tokens: int = pa.Field(ge=0, description="Of the calls paid for.")
    completion_tokens: int = pa.Field(ge=0, description="Of the calls paid for.")
    seconds: float = pa.Field(ge=0, description="Wall time from the asset's start to its commit.")
    engine_seconds: float = pa.Field(
        ge=0, nullable=True, description="Of these, the time in which at least one call was being paid for."
    )
    model_id: str = pa.Field(nullable=True, description="The model that was called, if any.")


class CheckResults(_Model):
    """What one run of a data-quality check measured; appended, so that a version's history stays."""

    table_name: str = pa.Field(description="The table that was measured.")
    constitution_version: str = pa.Field(nullable=True, description="Null for an unversioned table.")
    check_name: str = pa.Field(description="As in settings.toml.")
    run_id: str = pa.Field(description="Of the Dagster run.")
    checked_at: Annotated[pl.Datetime, "us", None] = pa.Field(description="UTC")
    passed: bool = pa.Field(description="Whether the value is within the bounds, or there was none.")
    severity: str = pa.Field(isin=["ERROR", "WARN"], description="ERROR: a failure stops what depends on the table.")
    value: float = pa.Field(nullable=True, description="The measured value; null: there was nothing to measure.")
    bounds: str = pa.Field(description="What it was held against, in words.")
    rows: int = pa.Field(ge=0, description="Rows it was measured on.")
    data_version: str = pa.Field(description="Of the rows that were measured: that of their materialization.")


@dataclass(frozen=True)
class Table:
    """A table: its name (that of the asset), its pandera model, and the columns that identify a row.

    `appended`: its rows come one at a time and stay, so DuckLake keeps them in the catalog and not in a file each.
    """

    name: str
    model: type[pa.DataFrameModel]
    key: tuple[str, ...]
    appended: bool = False

    @property
    def versioned(self) -> bool:
        """Whether its rows belong to a constitution version and are replaced a version at a time."""
        return issubclass(self.model, _VersionedModel)

    @property
    def schema(self) -> pl.Schema:
        """Column names and polars types, in order."""
        return pl.Schema({name: column.dtype.type for name, column in self.model.to_schema().columns.items()})

    @property
    def nullable(self) -> set[str]:
        """The columns that may be null."""
        return {name for name, column in self.model.to_schema().columns.items() if column.nullable}

    @property
    def descriptions(self) -> dict[str, str]:
        """Column name → what it means, where the name does not say it."""
        columns = self.model.to_schema().columns.items()
        return {name: column.description for name, column in columns if column.description}


TABLES = {
    table.name: table
    for table in (
        Table("constitution", Constitution, ("constitution_version", "principle_id")),
        Table("prompts", Prompts, ("prompt_id",)),
        Table("initial_responses", InitialResponses, ("prompt_id", "sample")),
        Table("revision_rounds", RevisionRounds, ("constitution_version", "prompt_id", "sample", "round")),
        Table("sft_dataset", SftDataset, ("constitution_version", "prompt_id", "sample", "round")),
        Table("sl_cai_model", Checkpoint, ("constitution_version",)),
        Table("response_pairs", ResponsePairs, ("constitution_version", "pair_id")),
        Table("judgements", Judgements, ("constitution_version", "pair_id", "principle_id", "order")),
        Table("preference_pairs", PreferencePairs, ("constitution_version", "pair_id")),
        Table("reward_model", Checkpoint, ("constitution_version",)),
        Table("reward_model_evaluation", RewardModelEvaluation, ("constitution_version", "slice", "slice_value")),
        Table("human_preferences", HumanPreferences, ("pair_id",)),
        Table("teacher_responses", InitialResponses, ("prompt_id", "sample")),
        Table("teacher_sft_model", Checkpoint, ("constitution_version",)),
        Table("dpo_model", Checkpoint, ("constitution_version",)),
        Table("rlaif_model", Checkpoint, ("constitution_version",)),
        Table("best_of_n_candidates", BestOfNCandidates, ("constitution_version", "prompt_id", "sample")),
        Table("best_of_n", BestOfN, ("constitution_version", "prompt_id")),
        Table("policy_responses", PolicyResponses, ("constitution_version", "policy", "prompt_id")),
        Table(
            "policy_judgements",
            PolicyJudgements,
            ("constitution_version", "policy_0", "policy_1", "prompt_id", "principle_id", "order"),
        ),
        Table("policy_evaluation", PolicyEvaluation, ("constitution_version", "policy", "opponent")),
        Table(
            "calibration_judgements",
            CalibrationJudgements,
            ("constitution_version", "pair_id", "principle_id", "order"),
        ),
        Table("judge_calibration", JudgeCalibration, ("constitution_version", "slice", "slice_value")),
        Table(
            "version_judgements",
            VersionJudgements,
            ("constitution_version", "judged_by", "prompt_id", "sample", "principle_id", "order"),
        ),
        Table("constitution_diff", ConstitutionDiff, ("constitution_version", "section", "name", "measure")),
        Table("cost_plan", CostPlan, ("constitution_version", "asset")),
        Table("rejected_rows", RejectedRows, ("table_name", "constitution_version", "row_id", "reason")),
        Table(
            "materializations",
            Materializations,
            ("table_name", "constitution_version", "materialized_at"),
            appended=True,
        ),
        Table(
            "check_results",
            CheckResults,
            ("table_name", "constitution_version", "check_name", "checked_at"),
            appended=True,
        ),
    )
}
