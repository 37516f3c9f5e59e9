"""Fixtures of the tests that run the graph."""

from tests.hostile_lake import hostile_home

__all__ = ["hostile_home"]
