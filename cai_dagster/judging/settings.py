"""Settings of judging and of label policies."""

from enum import StrEnum

from pydantic import Field

from cai_dagster.strict_model import StrictModel


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


class JudgementsSettings(StrictModel):
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


class PreferencePairsSettings(StrictModel):
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
