"""How the labels of pairs moved from one version to another."""

# scikit-learn is typed in part only.
# pyright: reportMissingTypeStubs=false

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from cai_dagster.compare.completions import REVISION_CHANGED, final_revisions
from cai_dagster.compare.principles import name_of
from cai_dagster.compare.version import PRINCIPLES_OF, PromptTexts, share_of
from cai_dagster.inputs.pairs import pair_id
from cai_dagster.judging.label_policies import p_first

LABELLED = ("response_pairs", "judgements", "preference_pairs")
"""The tables that labels are compared by."""

_NO_LABEL = "none"
_LABEL, _LABEL_AFTER = pl.col("label"), pl.col("label_after")
_FLIPPED = (_LABEL != _LABEL_AFTER) & (_LABEL != _NO_LABEL) & (_LABEL_AFTER != _NO_LABEL)


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


@dataclass(frozen=True)
class LabelRows:
    """The pairs judged in both versions: of each how far P moved and both labels; the most moved with their texts."""

    moves: pl.DataFrame
    flips: pl.DataFrame
    biggest: pl.DataFrame

    def plus(self, other: "LabelRows | None", examples: int) -> "LabelRows":
        """With other pairs."""
        if other is None:
            return self
        flips, biggest = (
            _most_moved(pl.concat([one, another]), examples)
            for one, another in ((other.flips, self.flips), (other.biggest, self.biggest))
        )
        return LabelRows(pl.concat([other.moves, self.moves]), flips, biggest)


def label_rows(before: Mapping[str, pl.DataFrame], after: Mapping[str, pl.DataFrame], examples: int) -> LabelRows:
    """Of tables of LABELLED, with all that both versions have of some pairs."""
    new = _labelled(after).select("pair_id", "p_0", "label", "principles")
    both = _labelled(before).join(new, on="pair_id", suffix="_after")
    both = both.with_columns((pl.col("p_0_after") - pl.col("p_0")).alias("p_change"))
    moves = both.select("p_change", "label", "label_after")
    flips, moved = both.filter(_FLIPPED), both.filter(pl.col("p_change") != 0)
    return LabelRows(moves, _most_moved(flips, examples), _most_moved(moved, examples))


def label_changes(rows: LabelRows, slugs: Mapping[str, str], prompts: PromptTexts) -> Labels:
    """The labels of the pairs judged in both versions."""
    moves = rows.moves

    def counted(condition: pl.Expr) -> int:
        return moves.filter(condition).height

    texts = prompts([*rows.flips["prompt_id"], *rows.biggest["prompt_id"]])
    return Labels(
        pairs=moves.height,
        agreement=share_of(counted(_LABEL == _LABEL_AFTER), moves.height),
        cohen_kappa=_cohen_kappa(moves["label"], moves["label_after"]),
        flipped=counted(_FLIPPED),
        gained=counted((_LABEL == _NO_LABEL) & (_LABEL_AFTER != _NO_LABEL)),
        lost=counted((_LABEL != _NO_LABEL) & (_LABEL_AFTER == _NO_LABEL)),
        # Sorted: the order of the pairs decides nothing.
        mean_p_change=float(np.mean(np.sort(moves["p_change"].abs().to_numpy()))) if moves.height else None,
        flips=_pair_examples(rows.flips, texts, slugs),
        biggest_p_changes=_pair_examples(rows.biggest, texts, slugs),
    )


def revision_pairs(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """The ids of the pairs of final revisions that differ: `pair_id`, and `mirrored_id` of the same the other way."""
    texts = final_revisions(before, after).filter(REVISION_CHANGED)
    ids = [
        {"pair_id": pair_id(prompt, one, other), "mirrored_id": pair_id(prompt, other, one)}
        for prompt, one, other in texts.select("prompt_id", "revision", "revision_after").iter_rows()
    ]
    return pl.DataFrame(ids, schema={"pair_id": pl.String, "mirrored_id": pl.String})


def _most_moved(pairs: pl.DataFrame, examples: int) -> pl.DataFrame:
    return pairs.sort([pl.col("p_change").abs(), pl.col("pair_id")], descending=[True, False]).head(examples)


def _labelled(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """`pair_id`, `prompt_id`, both completions, `p_0`, `label`, `principles` (ids) of every judged pair."""
    pairs, judged, labels = (tables[table] for table in LABELLED)
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
        .select("pair_id", "prompt_id", "completion_0", "completion_1", "p_0", label.alias("label"), "principles")
    )


def _pair_examples(
    shown: pl.DataFrame, prompts: Mapping[str, str], slugs: Mapping[str, str]
) -> tuple[LabelChange, ...]:
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
        for row in shown.iter_rows(named=True)
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
