"""Settings of the comparison of two constitution versions."""

from pydantic import Field

from cai_dagster.strict_model import StrictModel


class ConstitutionDiffSettings(StrictModel):
    """How a version is compared with an earlier one."""

    against: str = Field(
        pattern=r"^([a-z0-9][a-z0-9._-]*)?$",
        description="The version to compare with; empty: the one that it is based on.",
    )
    max_pairs: int = Field(
        ge=1,
        description="Final revisions of both versions that the feedback model compares, drawn from those that differ.",
    )
    examples: int = Field(ge=0, le=100, description="Examples of each kind of change.")
    confidence: float = Field(gt=0, lt=1, description="Of the bootstrap intervals; 0.95 leaves 2.5 % on either side.")
    resamples: int = Field(ge=100, le=1_000_000, description="Resamples of the prompts for each interval.")
    sample_seed: int = Field(ge=0, lt=2**31, description="Another seed draws other pairs, and other resamples.")
