"""Compares two versions of a constitution: what was edited, and what became of the rows, labels and costs.

Pure functions over frames. It knows no store, no model and nothing of how a difference is shown; a slug is a
principle's identity in both versions, and a row is shared when all its columns but the version are equal.
"""

# scikit-learn is typed in part only.
# pyright: reportMissingTypeStubs=false

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from cai_dagster.compare.compared_rows import ComparedRows
from cai_dagster.compare.completions import Completions, completion_changes
from cai_dagster.compare.labels import Labels, label_changes
from cai_dagster.compare.principles import (
    EarlierWording,
    PrincipleChange,
    earlier_wordings,
    principle_changes,
    slugs_of,
)
from cai_dagster.compare.rows import TableChange
from cai_dagster.compare.runs import CheckChange, CostChange, check_changes, cost_changes
from cai_dagster.compare.scores import (
    PolicyChange,
    PolicyWinRate,
    RewardModelChange,
    RewardModelScore,
    WinRate,
    policy_changes,
    reward_model_changes,
    win_rates,
)
from cai_dagster.compare.settings import ConstitutionDiffSettings
from cai_dagster.compare.version import PromptTexts, VersionTables


@dataclass(frozen=True)
class ConstitutionDiff:
    """`after` compared with `before`. What one of the versions does not have yet is None or missing in the lists.

    `few_shot_changed` names the few-shot examples that differ: every call of their stage is then another one.
    """

    before: str
    after: str
    principles: tuple[PrincipleChange, ...]
    unchanged_principles: int
    few_shot_changed: tuple[str, ...]
    earlier_wordings: tuple[EarlierWording, ...]
    tables: tuple[TableChange, ...]
    completions: Completions | None
    labels: Labels | None
    checks: tuple[CheckChange, ...]
    win_rates: tuple[WinRate, ...]
    reward_model: tuple[RewardModelChange, ...]
    policies: tuple[PolicyChange, ...]
    costs: tuple[CostChange, ...]

    def to_json(self) -> dict[str, Any]:
        """As `cai diff --json` prints it."""
        return asdict(self)

    def to_rows(self) -> list[dict[str, Any]]:
        """Rows of `constitution_diff`."""
        return [{"against": self.before, **row} for row in _rows(self)]


def compare_versions(
    before: VersionTables,
    after: VersionTables,
    rows: ComparedRows,
    prompts: PromptTexts,
    settings: ConstitutionDiffSettings,
) -> ConstitutionDiff:
    """What the later version changed; `prompts` has the texts of the examples."""
    old, new = before.constitution, after.constitution
    slugs, (counts_before, counts_after) = slugs_of(old) | slugs_of(new), rows.principles
    few_shot = [name for name in ("dialogues", "comparisons") if getattr(old, name) != getattr(new, name)]
    return ConstitutionDiff(
        before=before.version,
        after=after.version,
        principles=tuple(principle_changes(old, new, counts_before, counts_after)),
        unchanged_principles=sum(principle in old.principles for principle in new.principles),
        few_shot_changed=tuple(few_shot),
        earlier_wordings=(*earlier_wordings(old, counts_before, new), *earlier_wordings(new, counts_after, old)),
        tables=tuple(rows.tables.values()),
        completions=rows.completions and completion_changes(rows.completions, slugs, prompts, settings.examples),
        labels=rows.labels and label_changes(rows.labels, slugs, prompts),
        checks=tuple(check_changes(before.checks, after.checks)),
        win_rates=tuple(win_rates(before, after, rows.revision_pairs, settings)),
        reward_model=tuple(reward_model_changes(before, after)),
        policies=tuple(policy_changes(before, after)),
        costs=tuple(cost_changes(before.costs, after.costs)),
    )


def _rows(diff: ConstitutionDiff) -> Iterable[dict[str, Any]]:
    for principle in diff.principles:
        weights = (principle.weight_before, principle.weight_after)
        yield {**_row("principle", principle.slug, "weight", *weights), "note": principle.change}
        yield _row("principle", principle.slug, "drawn", principle.drawn_before, principle.drawn_after)
    yield from _earlier_rows(diff)
    for table in diff.tables:
        yield _row("rows", table.table, "rows", table.rows_before, table.rows_after)
        for measure in ("shared", "changed", "only_before", "only_after"):
            yield _row("rows", table.table, measure, after=getattr(table, measure))
    yield from _change_rows(diff)
    for check in diff.checks:
        values = [result and result.value for result in (check.before, check.after)]
        yield _row("check", f"{check.table}/{check.check}", "value", *values)
    for rate in diff.win_rates:
        yield _row("win_rate", rate.judged_by, "win_rate", after=rate.win_rate, low=rate.low, high=rate.high)
        yield _row("win_rate", rate.judged_by, "pairs", after=rate.pairs)
    for model in diff.reward_model:
        yield from _score_rows("reward_model", model.slice, "accuracy", (model.before, model.after))
    for policy in diff.policies:
        yield from _score_rows("policy", policy.policy, "win_rate", (policy.before, policy.after))
    for cost in diff.costs:
        for measure in ("calls_paid", "calls_found", "tokens", "seconds"):
            figures = (getattr(one, measure, None) for one in (cost.before, cost.after))
            yield _row("cost", cost.table, measure, *figures)


def _change_rows(diff: ConstitutionDiff) -> Iterable[dict[str, Any]]:
    """What became of the rows that both versions have."""
    if diff.completions:
        for measure in ("compared", "changed"):
            yield _row("completions", "revision_rounds", measure, after=getattr(diff.completions, measure))
    if diff.labels:
        for measure in ("pairs", "agreement", "cohen_kappa", "flipped", "gained", "lost", "mean_p_change"):
            yield _row("labels", "preference_pairs", measure, after=getattr(diff.labels, measure))


def _score_rows(
    section: str, name: str, with_interval: str, both: tuple[RewardModelScore | PolicyWinRate | None, ...]
) -> Iterable[dict[str, Any]]:
    old, new = (asdict(score) if score else {} for score in both)
    for measure in sorted({**old, **new}.keys() - {"low", "high"}):
        interval = (new.get("low"), new.get("high")) if measure == with_interval else ()
        yield _row(section, name, measure, old.get(measure), new.get(measure), *interval)


def _earlier_rows(diff: ConstitutionDiff) -> Iterable[dict[str, Any]]:
    """Rounds that are counted for no principle above."""
    slugs = {principle.slug for principle in diff.principles}
    drawn: dict[str, dict[str, int]] = {}
    for wording in diff.earlier_wordings:
        if wording.table == "revision_rounds" and wording.principle not in slugs:
            drawn.setdefault(wording.principle, {})[wording.version] = wording.rows
    for name, rows in drawn.items():
        yield _row("principle", name, "drawn", rows.get(diff.before), rows.get(diff.after))


def _row(
    section: str,
    name: str,
    measure: str,
    before: float | None = None,
    after: float | None = None,
    low: float | None = None,
    high: float | None = None,
) -> dict[str, Any]:
    figures = {"before": before, "after": after, "low": low, "high": high}
    return {
        "section": section,
        "name": name,
        "measure": measure,
        **{figure: None if value is None else float(value) for figure, value in figures.items()},
    }
