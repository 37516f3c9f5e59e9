"""Fixtures of the tests that run the graph.

The graph takes its defaults from the profile in use when it is first imported: here, before a test chooses another.
"""

import cai_dagster.definitions  # noqa: F401
from tests.hostile_lake import hostile_home

__all__ = ["hostile_home"]
