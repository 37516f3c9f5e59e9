"""Launchpad config: the settings of a stage, with the active profile's values as its defaults."""

from collections.abc import Callable
from typing import TypeVar

import dagster as dg
from pydantic import BaseModel

Config = TypeVar("Config", bound=dg.Config)


def defaults_from(values: BaseModel) -> Callable[[type[Config]], type[Config]]:
    """Class decorator: the fields of a config class that inherits a settings model take these values as defaults."""

    def decorate(config: type[Config]) -> type[Config]:
        for name in type(values).model_fields:
            config.model_fields[name].default = getattr(values, name)
        config.model_rebuild(force=True)
        return config

    return decorate
