"""Two versions of a constitution beside each other: what was edited, and what became of the rows, labels and costs.

Pure functions over frames. It knows no store, no model and nothing of how a difference is shown; a slug is a
principle's identity in both versions, and a row is shared when all its columns but the version are equal.
"""

# scikit-learn is typed in part only.
# pyright: reportMissingTypeStubs=false

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from cai_dagster.compare.settings import ConstitutionDiffSettings
from cai_dagster.constitution.constitution import Constitution, Principle
from cai_dagster.evaluation.intervals import mean_interval
from cai_dagster.inputs.pairs import pair_id
from cai_dagster.judging.label_policies import p_first
from cai_dagster.judging.label_statistics import win

Row = Mapping[str, Any]

_KEYS = {
    "revision_rounds": ("prompt_id", "sample", "round"),
    "sft_dataset": ("prompt_id", "sample", "round"),
    "response_pairs": ("pair_id",),
    "judgements": ("pair_id", "principle_id", "order"),
    "preference_pairs": ("pair_id",),
}
_TEXTS = ("critique_request", "revision_request", "comparison_request")
_NO_LABEL = "none"
_ALL = "all"
_SLICES = (_ALL, "principle", "labelled_by", "benchmark")
_PRINCIPLES_OF = {
    "revision_rounds": pl.concat_list("principle_id"),
    "judgements": pl.coalesce("principle_ids", pl.concat_list("principle_id")),
}

COMPARED = tuple(_KEYS)
"""The tables whose rows two versions may share."""

MEASURED = ("version_judgements", "reward_model_evaluation", "policy_evaluation")
"""The tables whose rows say how good a version is."""


@dataclass(frozen=True)
class VersionTables:
    """What there is of one version; a table that was never made is absent.

    `checks` are each check's latest result, `costs` what each table has cost so far.
    """

    version: str
    constitution: Constitution
    tables: Mapping[str, pl.DataFrame]
    checks: Sequence[Row] = ()
    costs: Sequence[Row] = ()


@dataclass(frozen=True)
class TextChange:
    """One text of a principle in both versions; None in the version that does not have the principle."""

    field: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class PrincipleChange:
    """A principle that is not the same in both versions. Weights are None in the version that does not have it.

    `change` is added, removed, or those of edited, re-weighted and re-tagged that apply. `drawn`: rounds that drew
    it, None where there are none yet and where the version does not have it.
    """

    slug: str
    change: str
    texts: tuple[TextChange, ...]
    weight_before: float | None
    weight_after: float | None
    drawn_before: int | None = None
    drawn_after: int | None = None


@dataclass(frozen=True)
class EarlierWording:
    """Rows of a version that were made under a wording which its constitution, edited in place since, no longer has.

    `principle` is the slug where the other version has this wording, else a name with the first digits of its id.
    """

    version: str
    table: str
    principle: str
    rows: int


@dataclass(frozen=True)
class TableChange:
    """The rows of one table: equal but for the version (`shared`), of the same key (`changed`), or of one version.

    Where one version has not made the table, its rows are None, and so is what takes both.
    """

    table: str
    rows_before: int | None
    rows_after: int | None
    shared: int | None
    changed: int | None
    only_before: int | None
    only_after: int | None


@dataclass(frozen=True)
class CompletionExample:
    """A final revision that is another one, and the first round in which it went another way.

    Where one version has no such round, its principle is None.
    """

    prompt_id: str
    sample: int
    prompt: str
    round: int
    principle_before: str | None
    principle_after: str | None
    before: str
    after: str


@dataclass(frozen=True)
class Completions:
    """Final revisions of the responses that both versions have revised."""

    compared: int
    changed: int
    examples: tuple[CompletionExample, ...]


@dataclass(frozen=True)
class PairExample:
    """A pair judged in both versions: P(completion_0 is better) and the label (completion_0, completion_1 or none)."""

    pair_id: str
    prompt_id: str
    prompt: str
    completion_0: str
    completion_1: str
    p_before: float
    p_after: float
    label_before: str
    label_after: str
    principles_before: tuple[str, ...]
    principles_after: tuple[str, ...]


@dataclass(frozen=True)
class Labels:
    """The pairs that were judged in both versions.

    `agreement`: the share with the same label, having none being one of three; `cohen_kappa` is null where all labels
    are the same. `flipped`: the other completion is preferred now.
    """

    pairs: int
    agreement: float | None
    cohen_kappa: float | None
    flipped: int
    gained: int
    lost: int
    mean_p_change: float | None
    flips: tuple[PairExample, ...]
    biggest_p_changes: tuple[PairExample, ...]


@dataclass(frozen=True)
class CheckResult:
    """What a check measured in one version."""

    value: float | None
    passed: bool
    severity: str
    bounds: str


@dataclass(frozen=True)
class CheckChange:
    """A check in both versions; None where it has not run."""

    table: str
    check: str
    before: CheckResult | None
    after: CheckResult | None


@dataclass(frozen=True)
class WinRate:
    """How often the later version's final revision is preferred to the earlier one's, where they differ.

    Under the principles of one version. A tie counts one half; the interval is a bootstrap over prompts. `mirrored`:
    the judgements were made for the earlier version against the later one, and this is the other side of them.
    """

    judged_by: str
    pairs: int
    prompts: int
    win_rate: float
    low: float | None
    high: float | None
    p_better: float
    mirrored: bool = False


@dataclass(frozen=True)
class RewardModelScore:
    """A reward model on one slice of pairs; see `tables.RewardModelEvaluation` for each number."""

    pairs: int
    accuracy: float
    low: float | None
    high: float | None
    log_loss: float
    calibration_error: float
    length_correlation: float | None


@dataclass(frozen=True)
class RewardModelChange:
    """The reward models of both versions on `slice`: all, or a kind and its value, such as principle/crisis-care."""

    slice: str
    before: RewardModelScore | None
    after: RewardModelScore | None


@dataclass(frozen=True)
class PolicyWinRate:
    """How often a policy wins against all others of its version, under that version's principles."""

    prompts: int
    win_rate: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PolicyChange:
    """A policy in both versions; None where it has not been evaluated."""

    policy: str
    before: PolicyWinRate | None
    after: PolicyWinRate | None


@dataclass(frozen=True)
class Cost:
    """All that a table has cost so far; `calls_found` is what its last materialization found in the ledger."""

    calls_paid: int = 0
    calls_found: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class CostChange:
    """The cost of one table in both versions; None where it was never materialized."""

    table: str
    before: Cost | None
    after: Cost | None


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
    before: VersionTables, after: VersionTables, prompts: pl.DataFrame, settings: ConstitutionDiffSettings
) -> ConstitutionDiff:
    """What the later version changed; `prompts` has the texts of the examples."""
    rounds = _both(before, after, "revision_rounds")
    old, new = before.constitution, after.constitution
    few_shot = [name for name in ("dialogues", "comparisons") if getattr(old, name) != getattr(new, name)]
    return ConstitutionDiff(
        before=before.version,
        after=after.version,
        principles=tuple(principle_changes(before, after)),
        unchanged_principles=sum(principle in old.principles for principle in new.principles),
        few_shot_changed=tuple(few_shot),
        earlier_wordings=(*earlier_wordings(before, new), *earlier_wordings(after, old)),
        tables=tuple(
            table_change(table, before.tables.get(table), after.tables.get(table))
            for table in COMPARED
            if table in before.tables or table in after.tables
        ),
        completions=None if rounds is None else completion_changes(*rounds, old, new, prompts, settings.examples),
        labels=label_changes(before, after, prompts, settings.examples),
        checks=tuple(check_changes(before.checks, after.checks)),
        win_rates=tuple(win_rates(before, after, settings)),
        reward_model=tuple(reward_model_changes(before, after)),
        policies=tuple(policy_changes(before, after)),
        costs=tuple(cost_changes(before.costs, after.costs)),
    )


def principle_changes(before: VersionTables, after: VersionTables) -> list[PrincipleChange]:
    """The principles that differ, those of the later version first and in its order."""
    old = {principle.slug: principle for principle in before.constitution.principles}
    new = {principle.slug: principle for principle in after.constitution.principles}
    drawn_before, drawn_after = _drawn(before, after.constitution), _drawn(after, before.constitution)
    changes: list[PrincipleChange] = []
    for slug in [*new, *(slug for slug in old if slug not in new)]:
        one, other = old.get(slug), new.get(slug)
        if change := _change(one, other):
            changes.append(
                PrincipleChange(
                    slug,
                    change,
                    _text_changes(one, other),
                    weight_before=one and one.weight,
                    weight_after=other and other.weight,
                    drawn_before=_drawn_of(one, slug, drawn_before),
                    drawn_after=_drawn_of(other, slug, drawn_after),
                )
            )
    return changes


def earlier_wordings(version: VersionTables, other: Constitution) -> list[EarlierWording]:
    """What of the version's rounds and judgements is of an earlier edition of its constitution."""
    own, slugs = _slugs(version.constitution), _slugs(other)
    found: list[EarlierWording] = []
    for table, ids in _PRINCIPLES_OF.items():
        if table not in version.tables:
            continue
        principles = version.tables[table].select(ids.alias("principle_id")).explode("principle_id")
        counted = principles.group_by("principle_id").len().sort("principle_id").iter_rows()
        found += [
            EarlierWording(version.version, table, _named(principle, slugs), rows)
            for principle, rows in counted
            if principle not in own
        ]
    return found


def table_change(table: str, before: pl.DataFrame | None, after: pl.DataFrame | None) -> TableChange:
    """How many rows of a table the versions share."""
    if before is None or after is None:
        heights = (None if frame is None else frame.height for frame in (before, after))
        return TableChange(table, *heights, shared=None, changed=None, only_before=None, only_after=None)
    key = list(_KEYS[table])
    others = [name for name in before.columns if name not in (*key, "constitution_version") and name in after.columns]
    both = before.select(*key, *others).join(after.select(*key, *others), on=key, how="inner", suffix="_after")
    same = pl.all_horizontal(pl.lit(value=True), *(pl.col(name).eq_missing(pl.col(f"{name}_after")) for name in others))
    shared = int(both.select(same.sum()).item())
    return TableChange(
        table,
        rows_before=before.height,
        rows_after=after.height,
        shared=shared,
        changed=both.height - shared,
        only_before=before.height - both.height,
        only_after=after.height - both.height,
    )


def completion_changes(
    before: pl.DataFrame,
    after: pl.DataFrame,
    old: Constitution,
    new: Constitution,
    prompts: pl.DataFrame,
    examples: int,
) -> Completions:
    """Whose final revision is another one; examples of as many principles as there are."""
    finals = _final_revisions(before).join(_final_revisions(after), on=["prompt_id", "sample"], suffix="_after")
    changed = finals.filter(pl.col("revision") != pl.col("revision_after"))
    slugs = _slugs(old) | _slugs(new)
    principle = pl.coalesce("principle_id_after", "principle_id").alias("principle")
    shown = (
        changed.join(_first_other_round(before, after, slugs), on=["prompt_id", "sample"])
        .with_columns(principle)
        .sort("prompt_id", "sample")
        .with_columns(pl.int_range(pl.len()).over("principle").alias("turn"))
        .sort("turn", "principle")
        .head(examples)
    )
    texts = _prompt_texts(prompts, shown["prompt_id"])
    return Completions(
        compared=finals.height,
        changed=changed.height,
        examples=tuple(
            CompletionExample(
                prompt_id=row["prompt_id"],
                sample=row["sample"],
                prompt=texts.get(row["prompt_id"], ""),
                round=row["round"],
                principle_before=row["principle_id"] and _named(row["principle_id"], slugs),
                principle_after=row["principle_id_after"] and _named(row["principle_id_after"], slugs),
                before=row["revision"],
                after=row["revision_after"],
            )
            for row in shown.iter_rows(named=True)
        ),
    )


def label_changes(before: VersionTables, after: VersionTables, prompts: pl.DataFrame, examples: int) -> Labels | None:
    """The labels of the pairs judged in both versions; None where one of them has no labels yet."""
    frames = [_labelled(version) for version in (before, after)]
    if any(frame is None for frame in frames):
        return None
    old, new = (frame for frame in frames if frame is not None)
    both = old.join(new.select("pair_id", "p_0", "label", "principles"), on="pair_id", suffix="_after")
    both = both.with_columns((pl.col("p_0_after") - pl.col("p_0")).alias("p_change"))
    label, label_after = pl.col("label"), pl.col("label_after")
    flips = both.filter(label != label_after, label != _NO_LABEL, label_after != _NO_LABEL)
    moved = both.filter(pl.col("p_change") != 0)
    by_change = [pl.col("p_change").abs(), pl.col("pair_id")]
    first_flips, biggest = (frame.sort(by_change, descending=[True, False]).head(examples) for frame in (flips, moved))
    texts = _prompt_texts(prompts, pl.concat([first_flips["prompt_id"], biggest["prompt_id"]]))
    pairs = before.tables["response_pairs"].select("pair_id", "completion_0", "completion_1")
    slugs = _slugs(before.constitution) | _slugs(after.constitution)
    return Labels(
        pairs=both.height,
        agreement=_share(both.filter(label == label_after).height, both.height),
        cohen_kappa=_cohen_kappa(both["label"], both["label_after"]),
        flipped=flips.height,
        gained=both.filter(label == _NO_LABEL, label_after != _NO_LABEL).height,
        lost=both.filter(label != _NO_LABEL, label_after == _NO_LABEL).height,
        mean_p_change=float(np.mean(both["p_change"].abs().to_numpy())) if both.height else None,
        flips=_pair_examples(first_flips, pairs, texts, slugs),
        biggest_p_changes=_pair_examples(biggest, pairs, texts, slugs),
    )


def check_changes(before: Sequence[Row], after: Sequence[Row]) -> list[CheckChange]:
    """Every check that ran in either version, with what it measured last."""
    old, new = (
        {
            (row["table_name"], row["check_name"]): CheckResult(
                row["value"], row["passed"], row["severity"], row["bounds"]
            )
            for row in rows
        }
        for rows in (before, after)
    )
    return [CheckChange(*key, old.get(key), new.get(key)) for key in sorted({*old, *new})]


def win_rates(before: VersionTables, after: VersionTables, settings: ConstitutionDiffSettings) -> list[WinRate]:
    """Under each version's principles; none where the revisions of these two versions have not been judged.

    Which of them was judged against the other does not matter. Judgements of revisions that have been replaced since
    do not count.
    """
    rates = _judged_win_rates(before, after, settings)
    return rates or [_mirrored(rate) for rate in reversed(_judged_win_rates(after, before, settings))]


def reward_model_changes(before: VersionTables, after: VersionTables) -> list[RewardModelChange]:
    """All held-out pairs, where either version has a reward model; then the slices that both were measured on."""
    old, new = (
        {
            _slice(row): RewardModelScore(
                row["pairs"],
                row["accuracy"],
                row["accuracy_low"],
                row["accuracy_high"],
                row["log_loss"],
                row["calibration_error"],
                row["length_correlation"],
            )
            for row in _measured(version, "reward_model_evaluation")
            if (row["slice"] or _ALL) in _SLICES
        }
        for version in (before, after)
    )
    shown = [name for name in {**old, **new} if name == _ALL or (name in old and name in new)]
    return [
        RewardModelChange(name, old.get(name), new.get(name)) for name in sorted(shown, key=lambda n: (n != _ALL, n))
    ]


def policy_changes(before: VersionTables, after: VersionTables) -> list[PolicyChange]:
    """Every policy that was evaluated in either version."""
    old, new = (
        {
            row["policy"]: PolicyWinRate(row["prompts"], row["win_rate"], row["win_rate_low"], row["win_rate_high"])
            for row in _measured(version, "policy_evaluation")
            if row["opponent"] == _ALL
        }
        for version in (before, after)
    )
    return [PolicyChange(policy, old.get(policy), new.get(policy)) for policy in sorted({*old, *new})]


def cost_changes(before: Sequence[Row], after: Sequence[Row]) -> list[CostChange]:
    """Every table that either version has paid for or spent time on."""
    old, new = (
        {
            row["table_name"]: Cost(int(row["calls_paid"]), row["calls_found"], int(row["tokens"]), row["seconds"])
            for row in rows
        }
        for rows in (before, after)
    )
    return [CostChange(table, old.get(table), new.get(table)) for table in dict.fromkeys([*old, *new])]


def _judged_win_rates(before: VersionTables, after: VersionTables, settings: ConstitutionDiffSettings) -> list[WinRate]:
    """The win rates of `after` where it was judged against `before`."""
    rounds = _both(before, after, "revision_rounds")
    judged = after.tables.get("version_judgements")
    if rounds is None or judged is None:
        return []
    judged = judged.filter(pl.col("against") == before.version).join(_pair_ids(*rounds), on="pair_id", how="semi")
    unit = pl.concat_str("judged_by", "prompt_id", "sample", separator="/").alias("pair_id")
    units = judged.with_columns(unit)
    better = (
        units.select("pair_id", "judged_by", "prompt_id")
        .unique()
        .join(p_first(units), on="pair_id")
        .with_columns((1 - pl.col("p_0")).alias("p_better"))
        .with_columns(win("p_better").alias("win"))
        .sort("pair_id")
    )
    rates: list[WinRate] = []
    for version in (before.version, after.version):
        own = better.filter(pl.col("judged_by") == version)
        if not own.height:
            continue
        wins, clusters = own["win"].to_numpy(), own["prompt_id"].to_list()
        low, high = mean_interval(wins, settings.resamples, settings.sample_seed, clusters, settings.confidence)
        rates.append(
            WinRate(
                version,
                pairs=own.height,
                prompts=len(set(clusters)),
                win_rate=float(np.mean(wins)),
                low=low,
                high=high,
                p_better=float(np.mean(own["p_better"].to_numpy())),
            )
        )
    return rates


def _mirrored(rate: WinRate) -> WinRate:
    """The other side's: what is no win of the one is a win of the other, and a tie is half of one for both."""
    low, high = (None if end is None else 1 - end for end in (rate.high, rate.low))
    win_rate, p_better = 1 - rate.win_rate, 1 - rate.p_better
    return replace(rate, win_rate=win_rate, low=low, high=high, p_better=p_better, mirrored=True)


def _both(before: VersionTables, after: VersionTables, table: str) -> tuple[pl.DataFrame, pl.DataFrame] | None:
    if table not in before.tables or table not in after.tables:
        return None
    return before.tables[table], after.tables[table]


def _measured(version: VersionTables, table: str) -> Iterable[dict[str, Any]]:
    rows = version.tables.get(table)
    return () if rows is None else rows.iter_rows(named=True)


def _slice(row: Row) -> str:
    """`all` (null in rows of older versions of the program), or `principle/crisis-care`."""
    kind, value = row["slice"] or _ALL, row["slice_value"]
    return kind if kind == _ALL else f"{kind}/{value}"


def _slugs(constitution: Constitution) -> dict[str, str]:
    return {principle.id: principle.slug for principle in constitution.principles}


def _named(principle_id: str, slugs: Mapping[str, str]) -> str:
    """The slug; where neither version has this wording any more, a name by which it can be found."""
    return slugs.get(principle_id, f"(an earlier wording, {principle_id[:8]})")


def _drawn(version: VersionTables, other: Constitution) -> Counter[str] | None:
    """Slug → rounds that drew it, be it in a wording that only the other version still has."""
    rounds = version.tables.get("revision_rounds")
    if rounds is None:
        return None
    slugs = _slugs(other) | _slugs(version.constitution)
    drawn: Counter[str] = Counter()
    for principle, count in rounds.group_by("principle_id").len().iter_rows():
        drawn[_named(principle, slugs)] += count
    return drawn


def _drawn_of(principle: Principle | None, slug: str, drawn: Counter[str] | None) -> int | None:
    """None too where the version has no such principle, unless its rounds are of an edition that had."""
    return None if drawn is None or (principle is None and not drawn[slug]) else drawn[slug]


def _change(before: Principle | None, after: Principle | None) -> str:
    if before is None or after is None:
        return "added" if before is None else "removed"
    changes = [
        name
        for name, differs in (
            ("edited", before.id != after.id),
            ("re-weighted", before.weight != after.weight),
            ("re-tagged", before.tags != after.tags),
        )
        if differs
    ]
    return ", ".join(changes)


def _text_changes(before: Principle | None, after: Principle | None) -> tuple[TextChange, ...]:
    old, new = (
        {**{name: getattr(principle, name) for name in _TEXTS}, "tags": ", ".join(principle.tags)} if principle else {}
        for principle in (before, after)
    )
    texts = [TextChange(name, old.get(name), new.get(name)) for name in (*_TEXTS, "tags")]
    return tuple(text for text in texts if (text.before or "") != (text.after or ""))


def _final_revisions(rounds: pl.DataFrame) -> pl.DataFrame:
    last = pl.col("round") == pl.col("round").max().over("prompt_id", "sample")
    return rounds.filter(last).select("prompt_id", "sample", "revision")


def _first_other_round(before: pl.DataFrame, after: pl.DataFrame, slugs: Mapping[str, str]) -> pl.DataFrame:
    """Of each response the first round in which slug, critique or revision differ, or that one version alone has.

    Not the principle's id: an edit of its comparison request alone makes it another one, and no round another way. A
    slug that nobody knows any more is taken for the same: the texts say whether the round is.
    """
    key = ["prompt_id", "sample", "round"]
    slug = pl.col("principle_id").replace_strict(slugs, default=None, return_dtype=pl.String).alias("slug")
    one, other = (rounds.select(*key, "principle_id", slug, "critique", "revision") for rounds in (before, after))
    both = one.join(other, on=key, how="full", coalesce=True, suffix="_after")
    missing = pl.col("principle_id").is_null() | pl.col("principle_id_after").is_null()
    differs = pl.any_horizontal(pl.col(name) != pl.col(f"{name}_after") for name in ("slug", "critique", "revision"))
    first = both.filter(missing | differs.fill_null(value=False)).sort("round")
    first = first.unique(["prompt_id", "sample"], keep="first", maintain_order=True)
    return first.select(*key, "principle_id", "principle_id_after")


def _pair_ids(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """The ids of the pairs of final revisions as they are now."""
    both = _final_revisions(before).join(_final_revisions(after), on=["prompt_id", "sample"], suffix="_after")
    texts = both.filter(pl.col("revision") != pl.col("revision_after"))
    ids = [pair_id(*row) for row in texts.select("prompt_id", "revision", "revision_after").iter_rows()]
    return pl.DataFrame({"pair_id": ids}, schema={"pair_id": pl.String}).unique()


def _labelled(version: VersionTables) -> pl.DataFrame | None:
    """`pair_id`, `prompt_id`, `p_0`, `label`, `principles` (ids) of every judged pair."""
    pairs, judged, labels = (
        version.tables.get(table) for table in ("response_pairs", "judgements", "preference_pairs")
    )
    if pairs is None or judged is None or labels is None:
        return None
    chosen = labels.select("pair_id", pl.col("chosen").list.last().struct.field("content").alias("chosen"))
    label = (
        pl.when(pl.col("chosen") == pl.col("completion_0"))
        .then(pl.lit("completion_0"))
        .when(pl.col("chosen") == pl.col("completion_1"))
        .then(pl.lit("completion_1"))
        .otherwise(pl.lit(_NO_LABEL))
    )
    principles = judged.group_by("pair_id").agg(_PRINCIPLES_OF["judgements"].explode().unique().alias("principles"))
    return (
        pairs.select("pair_id", "prompt_id", "completion_0", "completion_1")
        .join(p_first(judged), on="pair_id")
        .join(principles, on="pair_id")
        .join(chosen, on="pair_id", how="left")
        .select("pair_id", "prompt_id", "p_0", label.alias("label"), "principles")
    )


def _pair_examples(
    shown: pl.DataFrame, pairs: pl.DataFrame, prompts: Mapping[str, str], slugs: Mapping[str, str]
) -> tuple[PairExample, ...]:
    rows = shown.join(pairs, on="pair_id", maintain_order="left").iter_rows(named=True)
    return tuple(
        PairExample(
            pair_id=row["pair_id"],
            prompt_id=row["prompt_id"],
            prompt=prompts.get(row["prompt_id"], ""),
            completion_0=row["completion_0"],
            completion_1=row["completion_1"],
            p_before=row["p_0"],
            p_after=row["p_0_after"],
            label_before=row["label"],
            label_after=row["label_after"],
            principles_before=tuple(sorted(_named(principle, slugs) for principle in row["principles"])),
            principles_after=tuple(sorted(_named(principle, slugs) for principle in row["principles_after"])),
        )
        for row in rows
    )


def _prompt_texts(prompts: pl.DataFrame, ids: pl.Series) -> dict[str, str]:
    """The last turn of each prompt: what is answered."""
    wanted = prompts.filter(pl.col("prompt_id").is_in(ids.unique().to_list()))
    text = pl.col("messages").list.last().struct.field("content")
    return dict(wanted.select("prompt_id", text).iter_rows())


def _cohen_kappa(before: pl.Series, after: pl.Series) -> float | None:
    """None where chance alone would agree always: all labels are the same."""
    from sklearn import metrics

    labels = sorted({*before, *after})
    if len(labels) < 2:
        return None
    library: Any = metrics
    kappa = float(library.cohen_kappa_score(before.to_list(), after.to_list(), labels=labels))
    return None if math.isnan(kappa) else kappa


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


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
