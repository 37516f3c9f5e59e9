"""Rows for the lake's tests, and what they read back."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.snapshots import Account


def judged_under(principle_id: str) -> dict[str, Any]:
    """The columns of a judgement that say how it was made: by one principle."""
    return {"method": "one_principle", "principle_ids": [principle_id], "principle_weight": 1.0}


def judgements(count: int, logp_a: float = -1.0) -> list[dict[str, Any]]:
    return [
        {
            "pair_id": f"{number:x}",
            "principle_id": "ab",
            "order": "01",
            "logp_a": logp_a,
            "logp_b": -2.0,
            "rationale": None,
            "feedback_model": "m",
            "request_id": "ff",
            **judged_under("ab"),
        }
        for number in range(count)
    ]


def responses(*completions: str) -> list[dict[str, Any]]:
    return [
        {
            "prompt_id": f"{number:04x}",
            "sample": 0,
            "completion": completion,
            "reasoning": None,
            "finish_reason": "stop",
            "request_id": "ff",
            "policy_model": "m",
        }
        for number, completion in enumerate(completions)
    ]


def commit(
    lake: Lake,
    table: str,
    rows: Iterable[dict[str, Any]],
    version: str | None = None,
    rejected: Iterable[str] = (),
    run: str = "run",
) -> int:
    staged = lake.stage(table, version)
    staged.add(rows)
    for row_id in rejected:
        staged.reject(row_id, "code: explanation", {"id": row_id})
    staged.close()
    return lake.commit(staged, Account(run, "scripted"))


def completions(lake: Lake) -> list[str]:
    return lake.snapshot("initial_responses").frame()["completion"].to_list()


def logps(lake: Lake, version: str) -> list[float]:
    return lake.snapshot("judgements", version).frame()["logp_a"].to_list()


def rejected_ids(lake: Lake, table: str, version: str | None = None) -> list[str]:
    return lake.rejected(table, version)["row_id"].to_list()


def accounts(lake: Lake, version: str) -> list[dict[str, Any]]:
    sql = "FROM lake.materializations WHERE constitution_version = $version ORDER BY materialized_at"
    return lake.select(sql, {"version": version}).to_dicts()


def folders(home: Home) -> set[Path]:
    return set(home.staging.iterdir())
