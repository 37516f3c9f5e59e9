"""Tests of one home's files that run again where hosts share the store: all of a module that ask for such a place."""

import inspect
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any


def using(fixtures: Collection[str], *modules: ModuleType, but: Collection[str] = ()) -> dict[str, Any]:
    """The tests of these modules that take one of the fixtures, by name; `but` names those that cannot run again.

    Raises ValueError where two modules have a test of one name, or there is none of a name in `but`.
    """
    found: dict[str, Callable[..., None]] = {}
    for module in modules:
        for name, test in inspect.getmembers(module, inspect.isfunction):
            if not name.startswith("test_") or not set(inspect.signature(test).parameters) & set(fixtures):
                continue
            if name in found:
                raise ValueError(f"two modules have a test {name}")
            found[name] = test
    if unknown := set(but) - set(found):
        raise ValueError(f"there is no test {', '.join(sorted(unknown))}")
    return {name: test for name, test in found.items() if name not in but}
