"""What changed in the principles of a constitution, and how often each was drawn."""

# scikit-learn is typed in part only.
# pyright: reportMissingTypeStubs=false

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from cai_dagster.constitution.constitution import Constitution, Principle

_TEXTS = ("critique_request", "revision_request", "comparison_request")


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


Counts = Mapping[str, Mapping[str, int]]
"""Table → principle id → rows made under it; a table that was never made is absent."""


def principle_changes(
    before: Constitution, after: Constitution, counts_before: Counts, counts_after: Counts
) -> list[PrincipleChange]:
    """The principles that differ, those of the later version first and in its order."""
    old = {principle.slug: principle for principle in before.principles}
    new = {principle.slug: principle for principle in after.principles}
    drawn_before, drawn_after = _drawn(counts_before, before, after), _drawn(counts_after, after, before)
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


def earlier_wordings(own: Constitution, counts: Counts, other: Constitution) -> list[EarlierWording]:
    """What of a version's rounds and judgements is of an earlier edition of its constitution."""
    known, slugs = slugs_of(own), slugs_of(other)
    return [
        EarlierWording(own.version, table, name_of(principle, slugs), rows)
        for table, counted in counts.items()
        for principle, rows in sorted(counted.items())
        if principle not in known
    ]


def slugs_of(constitution: Constitution) -> dict[str, str]:
    """The slug of each principle, by its id."""
    return {principle.id: principle.slug for principle in constitution.principles}


def name_of(principle_id: str, slugs: Mapping[str, str]) -> str:
    """The slug; where neither version has this wording any more, a name by which it can be found."""
    return slugs.get(principle_id, f"(an earlier wording, {principle_id[:8]})")


def _drawn(counts: Counts, own: Constitution, other: Constitution) -> Counter[str] | None:
    """Slug → rounds that drew it, be it in a wording that only the other version still has."""
    if "revision_rounds" not in counts:
        return None
    slugs = slugs_of(other) | slugs_of(own)
    drawn: Counter[str] = Counter()
    for principle, count in counts["revision_rounds"].items():
        drawn[name_of(principle, slugs)] += count
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
