"""How a text of others becomes a principle: what it lacks from templates, and a slug of its own words."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from cai_dagster.constitution.constitution import Principle
from cai_dagster.hashing import content_hash

# Where a source has no text for one of the three requests. {text} is what it has.
CRITIQUE_OF_PRINCIPLE = "Name every way in which your last response goes against this principle: {text}"
REVISION_OF_PRINCIPLE = "Rewrite the response so that it follows this principle: {text}"
COMPARISON_OF_PRINCIPLE = "Which response follows this principle better? {text}"
COMPARISON_OF_REVISION = "Which response leaves less to do for someone who is asked this about it? {text}"
CRITIQUE_OF_COMPARISON = (
    "Name every way in which your last response falls short of what is asked for when two responses are compared in "
    "this way: {text}"
)
REVISION_OF_COMPARISON = "Rewrite the response so that it would be the one chosen here: {text}"

SLUG_WORDS = 5
_SLUG_LENGTH = 60
_SLUG_HASH_DIGITS = 6
# Words of nearly every principle and request, which tell none from another.
_COMMON_WORDS = (
    "a all and any are as assistant assistants be by choose for from have if in is it its make more most new of on one "
    "or please possible principle remove respond response responses revise revision rewrite should so that the this to "
    "version way which with write"
)


def with_comparison(slug: str, critique_request: str, revision_request: str) -> Principle:
    """The principle of a critique and a revision request."""
    comparison = COMPARISON_OF_REVISION.format(text=revision_request)
    return Principle(slug, critique_request, revision_request, comparison)


def of_principle(text: str) -> Principle:
    """The principle of a text that is one."""
    return Principle(
        slug_of(text),
        CRITIQUE_OF_PRINCIPLE.format(text=text),
        REVISION_OF_PRINCIPLE.format(text=text),
        COMPARISON_OF_PRINCIPLE.format(text=text),
    )


def of_comparison(text: str) -> Principle:
    """The principle of a comparison request."""
    critique, revision = CRITIQUE_OF_COMPARISON.format(text=text), REVISION_OF_COMPARISON.format(text=text)
    return Principle(slug_of(text), critique, revision, text)


def slug_of(text: str) -> str:
    """`inappropriate-for-children`: the first words of a text that tell it from others.

    A text without such words gets its hash.
    """
    words = re.findall(r"[a-z0-9]+", text.lower().replace("'", ""))
    common = _COMMON_WORDS.split()
    telling = [word for word in words if word not in common][:SLUG_WORDS]
    return "-".join(telling)[:_SLUG_LENGTH].strip("-") or f"principle-{content_hash(text, _SLUG_HASH_DIGITS)}"


def named(principles: Iterable[Principle]) -> tuple[Principle, ...]:
    """Principles with a slug each, which depends on their texts and not on their order.

    Of different principles with one slug each gets the hash of its texts behind it. Of equal ones (an author's way to
    give more weight) one is left, with the sum of their weights.
    """
    distinct: dict[str, Principle] = {}
    for principle in principles:
        first = distinct.get(principle.id)
        distinct[principle.id] = principle if first is None else _together(first, principle)
    users = Counter(principle.slug for principle in distinct.values())
    return tuple(
        replace(one, slug=f"{one.slug}-{one.id[:_SLUG_HASH_DIGITS]}") if users[one.slug] > 1 else one
        for one in distinct.values()
    )


def _together(first: Principle, second: Principle) -> Principle:
    tags = tuple(dict.fromkeys((*first.tags, *second.tags)))
    return replace(first, weight=first.weight + second.weight, tags=tags)
