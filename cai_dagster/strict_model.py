"""The base of every settings model."""

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """A pydantic model that refuses unknown fields and whose instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
