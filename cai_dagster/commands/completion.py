"""What the shell completes: names that are cheap to know. No command waits for it, so it opens no lake."""

from cai_dagster.graph import UPSTREAM
from cai_dagster.home import PROJECT, Home


def complete_version(incomplete: str) -> list[str]:
    """Constitution versions that begin so, newest first."""
    from cai_dagster.constitution import constitution_versions, natural_order

    versions = sorted(constitution_versions(PROJECT / "constitutions"), key=natural_order, reverse=True)
    return [version for version in versions if version.startswith(incomplete)]


def complete_table(incomplete: str) -> list[str]:
    """Tables that begin so, in the order of the graph."""
    return [table for table in UPSTREAM if table.startswith(incomplete)]


def complete_exported(incomplete: str) -> list[str]:
    """Tables that `cai export` writes."""
    return [table for table in ("sft_dataset", "preference_pairs") if table.startswith(incomplete)]


def complete_reward_model(incomplete: str) -> list[str]:
    """Keys of the reward models in this home."""
    folders = (Home.from_environment().models / "reward_model").glob("*/record.json")
    return sorted(file.parent.name for file in folders if file.parent.name.startswith(incomplete))
