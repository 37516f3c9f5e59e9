"""Launchpad config: the settings of a stage, with the active profile's values as its defaults."""

from collections.abc import Callable
from typing import Any, TypeVar

import dagster as dg
from pydantic import BaseModel
from pydantic.fields import FieldInfo

Config = TypeVar("Config", bound=dg.Config | dg.ConfigurableResource[Any])

_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def defaults_from(values: BaseModel) -> Callable[[type[Config]], type[Config]]:
    """Class decorator: the fields of a config class that inherits a settings model take these values as defaults.

    The range of a field, which pydantic enforces, is added to its description, which is what the launchpad shows.
    """

    def decorate(config: type[Config]) -> type[Config]:
        for name in type(values).model_fields:
            field = config.model_fields[name]
            field.default = getattr(values, name)
            field.description = f"{field.description}{_range(field)}"
        config.model_rebuild(force=True)
        return config

    return decorate


def _range(field: FieldInfo) -> str:
    bounds = [
        f"{words} {getattr(constraint, bound)}"
        for constraint in field.metadata
        for bound, words in _BOUNDS.items()
        if hasattr(constraint, bound)
    ]
    return f" ({', '.join(bounds)})" if bounds else ""
