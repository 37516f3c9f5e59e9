"""What the shell completes: names that are cheap to know. No command waits for it, so it opens no lake."""

from contextlib import suppress

from cai_dagster.home import Home
from cai_dagster.project import CONSTITUTIONS
from cai_dagster.tables.registry import graph


def complete_version(incomplete: str) -> list[str]:
    """Constitution versions that begin so, newest first."""
    from cai_dagster.constitution.versions import constitution_versions

    versions = reversed(constitution_versions(CONSTITUTIONS))
    return [version for version in versions if version.startswith(incomplete)]


def complete_table(incomplete: str) -> list[str]:
    """Tables that begin so, in the order of the graph."""
    return [table.name for table in graph() if table.name.startswith(incomplete)]


def complete_exported(incomplete: str) -> list[str]:
    """Tables that `cai export` writes."""
    return [table for table in ("sft_dataset", "preference_pairs") if table.startswith(incomplete)]


def complete_reward_model(incomplete: str) -> list[str]:
    """Keys of the reward models in this home."""
    return _checkpoints("reward_model", incomplete)


def complete_reason(incomplete: str) -> list[str]:
    """How calls end badly, as `cai retry` takes it."""
    from cai_dagster.calls.requests import EmptyCompletionError, MissingLabelError, RefusedRequestError
    from cai_dagster.models.chat_format import ContextTooLongError

    errors = (EmptyCompletionError, MissingLabelError, ContextTooLongError, RefusedRequestError)
    return [reason for reason in ("length", *(error.code for error in errors)) if reason.startswith(incomplete)]


def complete_slug(incomplete: str) -> list[str]:
    """Slugs of the principles in constitutions/; a file with a mistake has none."""
    from cai_dagster.constitution.constitution import load_constitution
    from cai_dagster.constitution.versions import ConstitutionError, constitution_versions

    slugs: set[str] = set()
    for version in constitution_versions(CONSTITUTIONS):
        with suppress(ConstitutionError):
            slugs |= {one.slug for one in load_constitution(CONSTITUTIONS / f"{version}.yaml").principles}
    return sorted(slug for slug in slugs if slug.startswith(incomplete))


def complete_traced(incomplete: str) -> list[str]:
    """What `cai trace` takes and is cheap to know: slugs of principles, keys of checkpoints."""
    return [*complete_slug(incomplete), *_checkpoints("*", incomplete)]


def _checkpoints(asset: str, incomplete: str) -> list[str]:
    keys = {file.parent.name for file in Home.from_environment().models.glob(f"{asset}/*/record.json")}
    return sorted(key for key in keys if key.startswith(incomplete))
