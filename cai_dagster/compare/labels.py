"""How the labels of pairs moved from one version to another."""

# scikit-learn is typed in part only.
# pyright: reportMissingTypeStubs=false

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from cai_dagster.compare.completions import final_revisions
from cai_dagster.compare.principles import name_of, slugs_of
from cai_dagster.compare.version import PRINCIPLES_OF, VersionTables, prompt_texts, share_of
from cai_dagster.inputs.pairs import pair_id
from cai_dagster.judging.label_policies import p_first

_NO_LABEL = "none"


@dataclass(frozen=True)
class LabelChange:
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
    flips: tuple[LabelChange, ...]
    biggest_p_changes: tuple[LabelChange, ...]


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
    texts = prompt_texts(prompts, pl.concat([first_flips["prompt_id"], biggest["prompt_id"]]))
    pairs = before.tables["response_pairs"].select("pair_id", "completion_0", "completion_1")
    slugs = slugs_of(before.constitution) | slugs_of(after.constitution)
    return Labels(
        pairs=both.height,
        agreement=share_of(both.filter(label == label_after).height, both.height),
        cohen_kappa=_cohen_kappa(both["label"], both["label_after"]),
        flipped=flips.height,
        gained=both.filter(label == _NO_LABEL, label_after != _NO_LABEL).height,
        lost=both.filter(label != _NO_LABEL, label_after == _NO_LABEL).height,
        mean_p_change=float(np.mean(both["p_change"].abs().to_numpy())) if both.height else None,
        flips=_pair_examples(first_flips, pairs, texts, slugs),
        biggest_p_changes=_pair_examples(biggest, pairs, texts, slugs),
    )


def pair_ids(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """The ids of the pairs of final revisions as they are now."""
    both = final_revisions(before).join(final_revisions(after), on=["prompt_id", "sample"], suffix="_after")
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
    principles = judged.group_by("pair_id").agg(PRINCIPLES_OF["judgements"].explode().unique().alias("principles"))
    return (
        pairs.select("pair_id", "prompt_id", "completion_0", "completion_1")
        .join(p_first(judged), on="pair_id")
        .join(principles, on="pair_id")
        .join(chosen, on="pair_id", how="left")
        .select("pair_id", "prompt_id", "p_0", label.alias("label"), "principles")
    )


def _pair_examples(
    shown: pl.DataFrame, pairs: pl.DataFrame, prompts: Mapping[str, str], slugs: Mapping[str, str]
) -> tuple[LabelChange, ...]:
    rows = shown.join(pairs, on="pair_id", maintain_order="left").iter_rows(named=True)
    return tuple(
        LabelChange(
            pair_id=row["pair_id"],
            prompt_id=row["prompt_id"],
            prompt=prompts.get(row["prompt_id"], ""),
            completion_0=row["completion_0"],
            completion_1=row["completion_1"],
            p_before=row["p_0"],
            p_after=row["p_0_after"],
            label_before=row["label"],
            label_after=row["label_after"],
            principles_before=tuple(sorted(name_of(principle, slugs) for principle in row["principles"])),
            principles_after=tuple(sorted(name_of(principle, slugs) for principle in row["principles_after"])),
        )
        for row in rows
    )


def _cohen_kappa(before: pl.Series, after: pl.Series) -> float | None:
    """None where chance alone would agree always: all labels are the same."""
    from sklearn import metrics

    labels = sorted({*before, *after})
    if len(labels) < 2:
        return None
    library: Any = metrics
    kappa = float(library.cohen_kappa_score(before.to_list(), after.to_list(), labels=labels))
    return None if math.isnan(kappa) else kappa
