"""Fixtures of the tests that open pages in a browser; the tutorial's runs the real small model."""

from tests.chromium import browse
from tests.e2e.conftest import give_the_accelerator_back, offline_weights
from tests.hostile_lake import hostile_home

__all__ = ["browse", "give_the_accelerator_back", "hostile_home", "offline_weights"]
