"""The status of every version: what is made, stale or failed, and what it has cost.

Read from the accounts and check results in the lake and from the constitution files, without Dagster, polars or the
tables' models: a look has to be quick. It does not see settings or code that changed; the Dagster UI shows the code.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from cai_dagster.calls.token_counts import TokenCounts
from cai_dagster.checks.outcomes import LatestResult, Outcome, outcome_of, result_of
from cai_dagster.constitution.constitution import Constitution, load_constitution
from cai_dagster.constitution.versions import ConstitutionError, constitution_versions, natural_order
from cai_dagster.home import Home
from cai_dagster.lake.catalog_database import is_begun
from cai_dagster.lake.newest import in_commit_order, newest_check_results, newest_materializations
from cai_dagster.lake.reader import LakeReader, has_committed_files
from cai_dagster.tables.registry import TABLES, graph

_CONSTITUTIONS = """
    SELECT constitution_version, any_value(dialogues) AS dialogues, any_value(comparisons) AS comparisons,
        list({slug: slug, critique_request: critique_request, revision_request: revision_request,
            comparison_request: comparison_request, weight: weight, tags: tags}) AS principles
    FROM lake.constitution WHERE constitution_version IN ($versions) GROUP BY constitution_version
"""

Row = Mapping[str, Any]
Key = tuple[str, str | None]  # table and constitution version


class State(StrEnum):
    """How a table of a version stands."""

    never_made = "never_made"
    failed = "failed"
    stale = "stale"
    fresh = "fresh"


@dataclass(frozen=True)
class CheckCounts:
    """The latest result of each check, each in one of these counts.

    `not_measured`: there was nothing to measure. `outdated`: of rows that have been replaced since.
    """

    passed: int = 0
    warned: int = 0
    failed: int = 0
    not_measured: int = 0
    outdated: int = 0


@dataclass(frozen=True)
class AssetStatus:
    """One table of one version. Cost is that of all its materializations, rows are those it has now.

    Speed, and the share of prompts in the engine's prefix cache, are of the calls paid for, while there were any.
    `warned` are the checks beyond their bound that stop nothing.
    """

    asset: str
    state: State
    because: str
    checks: CheckCounts
    rows: int = 0
    rejected: int = 0
    made_at: datetime | None = None
    calls_paid: int = 0
    tokens: int = 0
    prompt_tokens_per_second: float | None = None
    completion_tokens_per_second: float | None = None
    cached_prompt_share: float | None = None
    seconds: float = 0.0
    warned: tuple[str, ...] = ()


@dataclass(frozen=True)
class VersionStatus:
    """The tables of one version, in the order of the graph; of those made on demand only what is made."""

    constitution_version: str
    has_file: bool
    assets: tuple[AssetStatus, ...]


@dataclass(frozen=True)
class Status:
    """The tables that all versions share, and the versions, newest first."""

    shared: tuple[AssetStatus, ...]
    versions: tuple[VersionStatus, ...]

    @property
    def assets(self) -> list[AssetStatus]:
        """Of all versions and of none."""
        return [*self.shared, *(asset for version in self.versions for asset in version.assets)]

    def to_json(self) -> dict[str, Any]:
        """As `cai status --json` prints it."""
        return {
            "shared": [_asset_json(asset) for asset in self.shared],
            "versions": [
                {
                    "constitution_version": version.constitution_version,
                    "has_file": version.has_file,
                    "assets": [_asset_json(asset) for asset in version.assets],
                }
                for version in self.versions
            ],
        }


def read_status(home: Home, constitutions: Path, only: Sequence[str] = ()) -> Status:
    """The status of the versions that have a file or a table (of those named in `only`, where any are)."""
    reader = LakeReader(home) if is_begun(home) or has_committed_files(home) else None
    queries = (
        in_commit_order("materializations"),
        f"FROM ({newest_check_results()}) ORDER BY check_name",
        in_commit_order("failed_materializations"),
    )
    accounts, results, failures = (reader.rows(query) if reader else [] for query in queries)
    files = constitution_versions(constitutions)
    known = {row["constitution_version"] for row in (*accounts, *failures)} - {None}
    shown = sorted({*files, *known}, key=natural_order, reverse=True)
    chosen = [version for version in shown if not only or version in only]
    changed = _changed_files(reader, constitutions, set(files) & set(chosen) & known) if reader else {}
    counted = _rows_now(reader, accounts) if reader else {}
    return status_of(accounts, results, chosen, files, changed, counted, failures)


def latest_results(home: Home, only: Sequence[str] = ()) -> list[LatestResult]:
    """The latest result of each check, of the versions in `only` or of all: the newest version first, then by table."""
    reader = LakeReader(home) if is_begun(home) or has_committed_files(home) else None
    if reader is None:
        return []
    now = {
        (row["table_name"], row["constitution_version"]): row["data_version"]
        for row in reader.rows(newest_materializations())
    }
    order = list(TABLES)
    results = [
        result_of(row, now.get((row["table_name"], row["constitution_version"])))
        for row in reader.rows(f"FROM ({newest_check_results()})")
        if not only or row["constitution_version"] in only
    ]
    results.sort(key=lambda one: (order.index(one.table), one.check))
    return sorted(results, key=lambda one: natural_order(one.version or ""), reverse=True)


def standing(
    version: str, accounts: Sequence[Row], results: Sequence[Row], principles: Sequence[Row], constitutions: Path
) -> list[AssetStatus]:
    """How the tables of one version stood, and those that all share, when the lake had these rows.

    `accounts` are its rows of `materializations`, the newest last, `results` the newest of its checks by name,
    `principles` its rows of `constitution`.
    """
    changed: dict[str, str] = {}
    files = constitution_versions(constitutions)
    if principles and version in files:
        reason = _changed_since(constitutions / f"{version}.yaml", principles)
        changed |= {version: reason} if reason else {}
    return status_of(accounts, results, [version], files, changed).assets


def status_of(
    accounts: Iterable[Row],
    results: Iterable[Row],
    versions: Sequence[str],
    files: Iterable[str],
    changed_constitutions: Mapping[str, str],
    rows_now: Mapping[Key, int] | None = None,
    failures: Iterable[Row] = (),
) -> Status:
    """The status of `versions`, in their order, from the accounts (oldest first) and each check's latest result.

    `changed_constitutions` says of a version why its constitution in the lake is not that of its file, `rows_now` how
    many rows each table has; as many as its account says, where it is left out. `failures` are the rows of
    `failed_materializations`, the newest last.
    """
    history: dict[Key, list[Row]] = defaultdict(list)
    for account in accounts:
        history[account["table_name"], account["constitution_version"]].append(account)
    checked: dict[Key, list[Row]] = defaultdict(list)
    for result in results:
        checked[result["table_name"], result["constitution_version"]].append(result)
    failed = {(failure["table_name"], failure["constitution_version"]): failure for failure in failures}
    judge = _Judge(history, checked, failed, changed_constitutions, rows_now)
    with_file = frozenset(files)
    return Status(
        shared=tuple(judge.tables(None)),
        versions=tuple(
            VersionStatus(version, version in with_file, tuple(judge.tables(version))) for version in versions
        ),
    )


class _Judge:
    """Says how each table stands; a table after those it is made of."""

    def __init__(
        self,
        history: Mapping[Key, list[Row]],
        checked: Mapping[Key, list[Row]],
        failed: Mapping[Key, Row],
        changed: Mapping[str, str],
        rows_now: Mapping[Key, int] | None,
    ) -> None:
        self._history = history
        self._checked = checked
        self._failed = failed
        self._changed = changed
        self._rows_now = rows_now
        self._stale: set[Key] = set()

    def tables(self, version: str | None) -> Iterable[AssetStatus]:
        for table in graph():
            made = (table.name, version) in self._history or (table.name, version) in self._failed
            if table.versioned == (version is not None) and (made or not table.on_demand):
                yield self._status(table.name, version)

    def _status(self, table: str, version: str | None) -> AssetStatus:
        history = self._history.get((table, version))
        failure = self._failed.get((table, version))
        if not history:
            if failure:
                return AssetStatus(table, State.failed, f"the run failed: {failure['error']}", CheckCounts())
            return AssetStatus(table, State.never_made, "", CheckCounts())
        latest = history[-1]
        checks, failing, warned = _count(self._checked.get((table, version), ()), latest["data_version"])
        because = self._stale_because(table, version, latest)
        if because:
            self._stale.add((table, version))
        wrong = (
            [f"the last run failed: {failure['error']}"]
            if failure and failure["snapshot_id"] > latest["snapshot_id"]
            else []
        )
        wrong += [f"check {', '.join(failing)} failed"] if failing else []
        state = State.failed if wrong else State.stale if because else State.fresh
        because = "; ".join([*wrong, *([because] if because else [])])
        names = ("prompt_tokens", "completion_tokens", "cached_tokens", "engine_seconds")
        *counts, paying = (sum(account[name] for account in history) for name in names)
        tokens = TokenCounts(*counts)
        prompt, completion = (round(speed, 1) if paying else None for speed in tokens.a_second(paying))
        return AssetStatus(
            table,
            state,
            because,
            checks,
            rows=self._rows(table, version, latest),
            rejected=latest["rejected"],
            made_at=latest["materialized_at"].replace(tzinfo=UTC),
            calls_paid=sum(account["ledger_misses"] for account in history),
            tokens=tokens.total,
            prompt_tokens_per_second=prompt,
            completion_tokens_per_second=completion,
            cached_prompt_share=None if tokens.cached_share is None else round(tokens.cached_share, 4),
            seconds=round(sum(account["seconds"] for account in history), 3),
            warned=tuple(warned),
        )

    def _rows(self, table: str, version: str | None, latest: Row) -> int:
        return latest["rows"] if self._rows_now is None else self._rows_now.get((table, version), 0)

    def _stale_because(self, table: str, version: str | None, latest: Row) -> str:
        """Why the rows are not what they would be now; empty where they are.

        What was materialized again and has the same rows changes nothing.
        """
        rows = self._rows(table, version, latest)
        if rows < latest["rows"]:
            return f"its rows were deleted ({latest['rows']:,} when it was made, {rows:,} now)"
        if table == "constitution" and version is not None and version in self._changed:
            return self._changed[version]
        reads = [(name, version if TABLES[name].versioned else None) for name in TABLES[table].reads]
        for upstream, of_version in reads:
            history = self._history.get((upstream, of_version), [])
            read = [account for account in history if _was_read(account, latest)]
            if history and (not read or read[-1]["data_version"] != history[-1]["data_version"]):
                return f"{upstream} changed since"
        for key in reads:
            if key in self._stale:
                return f"{key[0]} is stale"
        return ""


def _was_read(upstream: Row, account: Row) -> bool:
    """Whether a run read what another had committed when it began, or what it had committed itself before."""
    own = upstream["run_id"] == account["run_id"]
    return upstream["snapshot_id"] <= (account["snapshot_id"] if own else account["read_at"])


def _count(results: Iterable[Row], data_version: str) -> tuple[CheckCounts, list[str], list[str]]:
    """The counts, and the names of the checks that failed, and that warned."""
    ended: dict[Outcome, list[str]] = {outcome: [] for outcome in Outcome}
    for result in results:
        ended[outcome_of(result, data_version)].append(result["check_name"])
    return CheckCounts(*(len(names) for names in ended.values())), ended[Outcome.failed], ended[Outcome.warned]


def _rows_now(reader: LakeReader, accounts: Iterable[Row]) -> dict[Key, int]:
    """How many rows each table has of each version: somebody may have deleted some without us."""
    made = sorted({account["table_name"] for account in accounts} & TABLES.keys())
    if not made:
        return {}
    counts = [
        f"SELECT '{name}' AS name, {'constitution_version' if TABLES[name].versioned else 'NULL'} AS version, "
        f"count(*) AS rows FROM lake.{name} GROUP BY ALL"
        for name in made
    ]
    return {(row["name"], row["version"]): row["rows"] for row in reader.rows(" UNION ALL ".join(counts))}


def _changed_files(reader: LakeReader, constitutions: Path, versions: Iterable[str]) -> dict[str, str]:
    """What is different in the files of versions since they were materialized, of those that differ."""
    changed: dict[str, str] = {}
    for made in reader.rows(_CONSTITUTIONS, versions=sorted(versions)):
        rows = [{**made, **principle} for principle in made["principles"]]
        if reason := _changed_since(constitutions / f"{made['constitution_version']}.yaml", rows):
            changed[made["constitution_version"]] = reason
    return changed


def _changed_since(file: Path, principles: Sequence[Row]) -> str:
    """What is different in the file since it was materialized; empty where nothing is."""
    try:
        now = load_constitution(file)
    except ConstitutionError as error:
        return f"{file.name} has a mistake now: {str(error).splitlines()[0].removeprefix(str(file))}"
    return "" if _content(now) == _content(Constitution.from_rows(principles)) else f"{file.name} changed since"


def _content(constitution: Constitution) -> tuple[Any, ...]:
    by_slug = sorted(constitution.principles, key=lambda principle: principle.slug)
    return by_slug, constitution.dialogues, constitution.comparisons


def _asset_json(asset: AssetStatus) -> dict[str, Any]:
    row = asdict(asset)
    return {**row, "state": asset.state.value, "made_at": asset.made_at and asset.made_at.isoformat()}
