"""A constitution version as it is compared: its constitution and its tables."""

# scikit-learn is typed in part only.
# pyright: reportMissingTypeStubs=false

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from cai_dagster.constitution.constitution import Constitution

Row = Mapping[str, Any]

PRINCIPLES_OF = {
    "revision_rounds": pl.concat_list("principle_id"),
    "judgements": pl.col("principle_ids"),
}

PromptTexts = Callable[[Sequence[str]], Mapping[str, str]]
"""The last turn of each of the prompts of these ids: what is answered."""

COMPARED = ("revision_rounds", "sft_dataset", "response_pairs", "judgements", "preference_pairs")
"""The tables whose rows two versions may share."""

MEASURED = ("version_judgements", "reward_model_evaluation", "policy_evaluation")
"""The tables whose rows say how good a version is."""


@dataclass(frozen=True)
class VersionTables:
    """What there is of one version. `tables` are those of MEASURED; one that was never made is absent.

    `checks` are each check's latest result, `costs` what each table has cost so far.
    """

    version: str
    constitution: Constitution
    tables: Mapping[str, pl.DataFrame]
    checks: Sequence[Row] = ()
    costs: Sequence[Row] = ()


def measured_rows(version: VersionTables, table: str) -> Iterable[dict[str, Any]]:
    """The rows of a table of measurements; none where it was never made."""
    rows = version.tables.get(table)
    return () if rows is None else rows.iter_rows(named=True)


def share_of(part: int, whole: int) -> float | None:
    """Part / whole; None of nothing."""
    return part / whole if whole else None
