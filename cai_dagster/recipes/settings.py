"""Settings of the recipes: first responses, revisions, response pairs, best of n, answers of policies."""

from enum import StrEnum

from pydantic import Field, field_validator

from cai_dagster.calls.requests import Sampling
from cai_dagster.calls.settings import SamplingSettings
from cai_dagster.inputs.settings import PreferenceFilesSettings, Split


class PairSource(StrEnum):
    """Where the completions of a pair come from."""

    sl_cai_model = "sl_cai_model"
    revisions = "revisions"
    imported = "imported"


class InitialResponsesSettings(SamplingSettings):
    """How first responses y^0 are drawn."""

    system_prompt: str = Field(description="System prompt of the helpful policy; empty: the model's own default.")
    samples: int = Field(ge=1, le=64, description="First responses for each prompt.")
    max_tokens: int = Field(ge=1, le=32_768, description="Longest completion, in tokens.")

    @property
    def sampling(self) -> Sampling:
        """For requests."""
        return Sampling(self.temperature, self.top_p, self.max_tokens, self.seed)


class RevisionRoundsSettings(SamplingSettings):
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


class ResponsePairsSettings(SamplingSettings, PreferenceFilesSettings):
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


class BestOfNSettings(SamplingSettings):
    """How the completions are sampled of which the reward model picks one."""

    n: int = Field(ge=2, le=1024, description="Completions for each preference and evaluation prompt.")
    max_tokens: int = Field(ge=1, le=32_768, description="Longest completion, in tokens.")

    @property
    def sampling(self) -> Sampling:
        """For requests."""
        return Sampling(self.temperature, self.top_p, self.max_tokens, self.seed)


class PolicyResponsesSettings(SamplingSettings):
    """How each policy answers the evaluation prompts."""

    max_prompts: int = Field(ge=1, description="Evaluation prompts that are answered; the first by prompt id.")
    max_tokens: int = Field(ge=1, le=32_768, description="Longest completion, in tokens.")

    @property
    def sampling(self) -> Sampling:
        """For requests."""
        return Sampling(self.temperature, self.top_p, self.max_tokens, self.seed)
