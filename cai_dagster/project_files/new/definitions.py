"""The graph of cai_dagster, where `dg` looks for it in this folder."""

from cai_dagster.definitions import defs

__all__ = ["defs"]
