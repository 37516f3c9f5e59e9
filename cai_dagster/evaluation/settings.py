"""Settings of the evaluations of reward model, judge and policies."""

from pydantic import Field

from cai_dagster.judging.settings import JudgementsSettings
from cai_dagster.strict_model import StrictModel


class JudgeCalibrationSettings(StrictModel):
    """How the feedback model is measured against humans. Whatever else is asked, is asked as for `judgements`."""

    max_pairs: int = Field(ge=0, description="Human pairs that are judged, drawn from all; 0: none.")
    principles_per_pair: int = Field(
        ge=1, le=1000, description="Principles for each pair; from two on, one sees how much they disagree."
    )
    sample_seed: int = Field(ge=0, lt=2**31, description="Another seed draws other pairs, and other resamples.")

    def judging(self, labels: "JudgementsSettings") -> "JudgementsSettings":
        """The settings by which pairs are judged here: those of `judgements`, but for the number of principles."""
        return labels.model_copy(update={"principles_per_pair": self.principles_per_pair})


class RewardModelEvaluationSettings(StrictModel):
    """How the reward model is measured."""

    resamples: int = Field(ge=100, le=100_000, description="Bootstrap resamples of the prompts, for the intervals.")
    seed: int = Field(ge=0, lt=2**31, description="Of the resamples.")
    benchmarks: list[str] = Field(
        description="Files or folders of pairs with a subset (RewardBench, RewardBench 2, JudgeBench, any layout of "
        "human_preferences), scored beside the evaluation prompts; relative paths count from the project folder.",
    )


class PolicyEvaluationSettings(StrictModel):
    """How sure a win rate is."""

    confidence: float = Field(gt=0, lt=1, description="Of the bootstrap intervals; 0.95 leaves 2.5 % on either side.")
    resamples: int = Field(ge=100, le=1_000_000, description="Resamples of the prompts for each interval.")
    seed: int = Field(ge=0, lt=2**31, description="Of the resamples.")
