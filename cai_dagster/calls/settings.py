"""Settings of sampling, shared by every stage that draws completions."""

from pydantic import Field

from cai_dagster.strict_model import StrictModel


class SamplingSettings(StrictModel):
    """How a completion is drawn."""

    temperature: float = Field(ge=0, le=2, description="0 is greedy; the paper samples at 1.")
    top_p: float = Field(gt=0, le=1, description="Nucleus sampling; 1 is off.")
    seed: int = Field(ge=0, lt=2**31, description="Another seed draws other completions; each call has its own.")
