"""Which final revisions differ, and the first round in which they differ."""

# scikit-learn is typed in part only.
# pyright: reportMissingTypeStubs=false

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from cai_dagster.compare.principles import name_of
from cai_dagster.compare.version import PromptTexts

REVISION_CHANGED = pl.col("revision") != pl.col("revision_after")


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
class CompletionRows:
    """Counts of `Completions`; of each principle the first changed responses, as they come.

    `changed_first`: the columns of the responses' final revisions, of `_first_other_round`, and `principle`.
    """

    compared: int
    changed: int
    changed_first: pl.DataFrame

    def plus(self, before: "CompletionRows | None", examples: int) -> "CompletionRows":
        """With what came before it."""
        if before is None:
            return self
        first = _first_of_each_principle(pl.concat([before.changed_first, self.changed_first]), examples)
        return CompletionRows(before.compared + self.compared, before.changed + self.changed, first)


def completion_rows(
    before: pl.DataFrame, after: pl.DataFrame, slugs: Mapping[str, str], examples: int
) -> CompletionRows:
    """Whose final revision is another one, of some rounds of both versions."""
    finals = final_revisions(before, after)
    changed = finals.filter(REVISION_CHANGED)
    principle = pl.coalesce("principle_id_after", "principle_id").alias("principle")
    others = changed.join(_first_other_round(before, after, slugs), on=["prompt_id", "sample"])
    first = _first_of_each_principle(others.with_columns(principle).sort("prompt_id", "sample"), examples)
    return CompletionRows(finals.height, changed.height, first)


def completion_changes(
    rows: CompletionRows, slugs: Mapping[str, str], prompts: PromptTexts, examples: int
) -> Completions:
    """Whose final revision is another one; examples of as many principles as there are."""
    turn = pl.int_range(pl.len()).over("principle").alias("turn")
    shown = rows.changed_first.with_columns(turn).sort("turn", "principle").head(examples)
    texts = prompts(shown["prompt_id"].to_list())
    return Completions(
        compared=rows.compared,
        changed=rows.changed,
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


def _first_of_each_principle(responses: pl.DataFrame, examples: int) -> pl.DataFrame:
    return responses.filter(pl.int_range(pl.len()).over("principle") < examples)


def final_revisions(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """The last rounds of the responses that both have: `prompt_id`, `sample`, `revision`, `revision_after`."""
    last = pl.col("round") == pl.col("round").max().over("prompt_id", "sample")
    one, other = (rounds.filter(last).select("prompt_id", "sample", "revision") for rounds in (before, after))
    return one.join(other, on=["prompt_id", "sample"], suffix="_after")


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
