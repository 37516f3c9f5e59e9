"""The offline model's engine, as the benchmarks of inference use it: a few slots, short answers."""

from typing import Any

from cai_dagster.home import Home
from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.models.weights import Weights, locate_weights
from cai_dagster.settings import active_settings


def offline_weights() -> Weights:
    """The prepared offline model of this home."""
    return locate_weights("offline", "", Home.from_environment())


def engine_settings(slots: int, **changes: Any) -> LanguageModelSettings:
    """The policy's settings with so many sequences at once."""
    return active_settings().policy.model_copy(update={"calls_in_flight": slots, **changes})
