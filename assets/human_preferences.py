"""Pairs that people labelled."""

import dagster as dg

from assets.stage import new_rows, stage_rows
from resources.lake import LakeResource


@dg.asset(group_name="inputs", kinds={"ducklake", "polars"}, owners=["team:post-training"], code_version="1")
def human_preferences(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Human-labelled pairs; none are imported yet."""
    return stage_rows(context, lake, new_rows(context, lake))
