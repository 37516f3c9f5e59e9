"""Which final revisions differ, and the first round in which they differ."""

# scikit-learn is typed in part only.
# pyright: reportMissingTypeStubs=false

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from cai_dagster.compare.principles import name_of, slugs_of
from cai_dagster.compare.version import prompt_texts
from cai_dagster.constitution.constitution import Constitution


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


def completion_changes(
    before: pl.DataFrame,
    after: pl.DataFrame,
    old: Constitution,
    new: Constitution,
    prompts: pl.DataFrame,
    examples: int,
) -> Completions:
    """Whose final revision is another one; examples of as many principles as there are."""
    finals = final_revisions(before).join(final_revisions(after), on=["prompt_id", "sample"], suffix="_after")
    changed = finals.filter(pl.col("revision") != pl.col("revision_after"))
    slugs = slugs_of(old) | slugs_of(new)
    principle = pl.coalesce("principle_id_after", "principle_id").alias("principle")
    shown = (
        changed.join(_first_other_round(before, after, slugs), on=["prompt_id", "sample"])
        .with_columns(principle)
        .sort("prompt_id", "sample")
        .with_columns(pl.int_range(pl.len()).over("principle").alias("turn"))
        .sort("turn", "principle")
        .head(examples)
    )
    texts = prompt_texts(prompts, shown["prompt_id"])
    return Completions(
        compared=finals.height,
        changed=changed.height,
        examples=tuple(
            CompletionExample(
                prompt_id=row["prompt_id"],
                sample=row["sample"],
                prompt=texts.get(row["prompt_id"], ""),
                round=row["round"],
                principle_before=row["principle_id"] and name_of(row["principle_id"], slugs),
                principle_after=row["principle_id_after"] and name_of(row["principle_id_after"], slugs),
                before=row["revision"],
                after=row["revision_after"],
            )
            for row in shown.iter_rows(named=True)
        ),
    )


def final_revisions(rounds: pl.DataFrame) -> pl.DataFrame:
    """The last round of each response: `prompt_id`, `sample`, `revision`."""
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
