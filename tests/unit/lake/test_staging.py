import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cai_dagster.lake.staging
from cai_dagster.lake.scratch import (
    LEASE,
    abandoned,
    new_scratch_folder,
    remove_abandoned,
    remove_scratch_folder,
)
from cai_dagster.lake.staging import StagedRows
from cai_dagster.tables.registry import TABLES

RESPONSE = {
    "prompt_id": "ab",
    "sample": 0,
    "completion": "text",
    "reasoning": None,
    "finish_reason": "stop",
    "request_id": "ff",
    "policy_model": "m",
}
JUDGEMENT = {
    "pair_id": "ab",
    "principle_id": "cd",
    "order": "01",
    "logp_a": -1.0,
    "logp_b": -2.0,
    "rationale": None,
    "feedback_model": "m",
    "request_id": "ff",
    "method": "one_principle",
    "principle_ids": ["cd"],
    "principle_weight": 1.0,
}


def stage(
    folder: Path, rows: list[dict[str, Any]], table: str = "initial_responses", version: str | None = None
) -> Any:
    staged = StagedRows(folder, table, version)
    staged.add(rows)
    staged.close()
    return staged


def rows_of(staged: StagedRows) -> list[dict[str, Any]]:
    return [row for part in staged.parts for row in pl.read_parquet(part).to_dicts()]


def rejected_of(staged: StagedRows) -> list[dict[str, Any]]:
    return [row for part in staged.rejected_parts for row in pl.read_parquet(part).to_dicts()]


def test_valid_rows_are_staged_as_they_are(tmp_path: Path) -> None:
    staged = stage(tmp_path, [RESPONSE, {**RESPONSE, "sample": 1}])
    assert rows_of(staged) == [RESPONSE, {**RESPONSE, "sample": 1}]
    assert (staged.row_count, staged.rejected_count, staged.rejected_parts) == (2, 0, [])
    assert pl.read_parquet(staged.parts[0]).schema == TABLES["initial_responses"].schema


@pytest.mark.parametrize(
    ("column", "value", "check"),
    [
        ("prompt_id", "not hex!", "str_matches"),
        ("prompt_id", None, "not_nullable"),
        ("sample", -1, "greater_than_or_equal_to(0)"),
        ("sample", None, "not_nullable"),
        ("completion", "", "str_length(1, None)"),
        ("completion", None, "not_nullable"),
    ],
)
def test_an_invalid_row_is_set_aside_with_column_and_check(tmp_path: Path, column: str, value: Any, check: str) -> None:
    staged = stage(tmp_path, [RESPONSE, {**RESPONSE, "request_id": "bad", column: value}, {**RESPONSE, "sample": 1}])
    assert [row["sample"] for row in rows_of(staged)] == [0, 1]
    (rejected,) = rejected_of(staged)
    assert rejected["reason"].startswith(f"invalid_row: {column} fails {check}")
    assert rejected["table_name"] == "initial_responses"
    assert json.loads(rejected["row"])["request_id"] == "bad"
    assert staged.reasons == {"invalid_row": 1}


def test_a_row_that_fails_several_checks_is_set_aside_once_with_all_of_them(tmp_path: Path) -> None:
    staged = stage(tmp_path, [{**JUDGEMENT, "order": "11", "logp_a": 0.5, "pair_id": None}], "judgements", "v1")
    (rejected,) = rejected_of(staged)
    for failed in (
        "order fails isin",
        "'11'",
        "logp_a fails less_than_or_equal_to",
        "0.5",
        "pair_id fails not_nullable",
    ):
        assert failed in rejected["reason"]
    assert rejected["constitution_version"] == "v1"
    assert rejected["row_id"] == "None/cd/11"
    assert (staged.row_count, staged.rejected_count) == (0, 1)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_log_probability_that_is_no_number_is_set_aside(tmp_path: Path, number: float) -> None:
    staged = stage(tmp_path, [JUDGEMENT, {**JUDGEMENT, "logp_b": number}], "judgements", "v1")
    unknown = dict.fromkeys(TABLES["judgements"].schema)
    assert rows_of(staged) == [{**unknown, "constitution_version": "v1", **JUDGEMENT}]
    assert "logp_b" in rejected_of(staged)[0]["reason"]


def test_a_missing_column_is_null_and_refused_only_where_null_is(tmp_path: Path) -> None:
    without_rationale = {name: value for name, value in JUDGEMENT.items() if name != "rationale"}
    without_model = {name: value for name, value in JUDGEMENT.items() if name != "feedback_model"}
    staged = stage(tmp_path, [without_rationale, without_model], "judgements", "v1")
    assert [row["rationale"] for row in rows_of(staged)] == [None]
    (rejected,) = rejected_of(staged)
    assert rejected["reason"].startswith("invalid_row: feedback_model fails not_nullable")


def test_nested_columns_are_staged_as_they_are_and_refused_where_null(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "x"}]
    prompt = {
        "prompt_id": "ab",
        "messages": turns,
        "source": "f:1",
        "sources": ["f:1"],
        "category": None,
        "split": "sft",
    }
    staged = stage(tmp_path, [prompt, {**prompt, "messages": None}, {**prompt, "sources": None}], "prompts")
    assert rows_of(staged) == [prompt]
    reasons = [row["reason"] for row in rejected_of(staged)]
    assert [reason.split(" fails")[0] for reason in reasons] == ["invalid_row: messages", "invalid_row: sources"]


def test_the_constitution_version_is_filled_in(tmp_path: Path) -> None:
    of_another = {**JUDGEMENT, "constitution_version": "v9"}
    staged = stage(tmp_path, [JUDGEMENT, of_another], "judgements", "v1")
    staged.add_frame(pl.DataFrame([of_another], TABLES["judgements"].schema))
    assert {row["constitution_version"] for row in rows_of(staged)} == {"v1"}
    assert staged.row_count == 3


def test_rejected_share_counts_rows_of_both_kinds(tmp_path: Path) -> None:
    staged = StagedRows(tmp_path, "initial_responses", None)
    assert staged.rejected_share == 0
    staged.reject("a", "empty_completion: no text", {})
    assert staged.rejected_share == 1
    staged.add([RESPONSE, RESPONSE, {**RESPONSE, "sample": -1}])
    staged.close()
    assert staged.rejected_share == 0.5
    assert staged.reasons == {"empty_completion": 1, "invalid_row": 1}


def test_a_lone_surrogate_in_a_rejected_row_is_escaped(tmp_path: Path) -> None:
    staged = StagedRows(tmp_path, "prompts", None)
    staged.reject("file\udc80:1", "bad_prompt: \ud800", {"text": "a\udfffb", "emoji": "🙂"})
    staged.close()
    (rejected,) = rejected_of(staged)
    assert rejected["row_id"] == r"file\udc80:1"
    assert rejected["reason"] == r"bad_prompt: \ud800"
    assert json.loads(rejected["row"]) == {"text": "a\udfffb", "emoji": "🙂"}


def test_a_lone_surrogate_in_a_row_costs_that_row_only(tmp_path: Path) -> None:
    staged = stage(tmp_path, [RESPONSE, {**RESPONSE, "completion": "a\udfffb"}])
    assert staged.row_count + staged.rejected_count == 2
    assert RESPONSE in rows_of(staged)


def test_what_json_does_not_know_is_set_aside_as_text(tmp_path: Path) -> None:
    staged = StagedRows(tmp_path, "prompts", None)
    staged.reject("a", "bad_prompt: why", {"raw": b"\xff", "path": Path("x")})
    staged.close()
    assert json.loads(rejected_of(staged)[0]["row"]) == {"raw": "b'\\xff'", "path": "x"}


def test_rows_beyond_a_chunk_are_written_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cai_dagster.lake.staging, "CHUNK_ROWS", 4)
    staged = StagedRows(tmp_path, "initial_responses", None)
    for number in range(10):
        staged.add([{**RESPONSE, "sample": number}])
        staged.reject(str(number), "code: why", {})
    assert (len(staged.parts), len(staged.rejected_parts)) == (2, 2)
    staged.close()
    assert (len(staged.parts), len(staged.rejected_parts)) == (3, 3)
    assert [row["sample"] for row in rows_of(staged)] == list(range(10))
    assert [row["row_id"] for row in rejected_of(staged)] == [str(number) for number in range(10)]


def test_a_frame_is_written_in_chunks_and_its_invalid_rows_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cai_dagster.lake.staging, "FRAME_ROWS", 4)
    rows = [{**RESPONSE, "sample": number, "completion": "" if number % 5 == 0 else "text"} for number in range(10)]
    staged = StagedRows(tmp_path, "initial_responses", None)
    staged.add_frame(pl.DataFrame(rows).select(*reversed(RESPONSE), pl.lit(1).alias("of no table")))
    staged.close()
    assert [row["sample"] for row in rows_of(staged)] == [1, 2, 3, 4, 6, 7, 8, 9]
    assert [row["row_id"] for row in rejected_of(staged)] == ["ab/0", "ab/5"]
    assert len(staged.parts) == 3


ROWS = st.fixed_dictionaries(
    {
        "prompt_id": st.sampled_from(["ab", "0", "XYZ", "", None]),
        "sample": st.one_of(st.integers(-2, 3), st.none()),
        "completion": st.one_of(st.text(max_size=5), st.none()),
        "reasoning": st.none(),
        "finish_reason": st.sampled_from(["stop", None]),
        "request_id": st.just("ff"),
    },
    optional={"policy_model": st.just("m"), "of no table": st.just(1)},
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS, max_size=10), given_up=st.integers(0, 3), chunk=st.integers(2, 7))
def test_no_row_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], given_up: int, chunk: int
) -> None:
    monkeypatch.setattr(cai_dagster.lake.staging, "CHUNK_ROWS", chunk)
    staged = StagedRows(tmp_path, "initial_responses", None)
    for row in rows:
        staged.add([row])
    for number in range(given_up):
        staged.reject(str(number), "code: why", {})
    staged.close()
    assert staged.row_count == len(rows_of(staged))
    assert staged.rejected_count == len(rejected_of(staged)) == sum(staged.reasons.values())
    assert staged.row_count + staged.rejected_count == len(rows) + given_up


def abandoned_folder(parent: Path, name: str = "0a") -> Path:
    """As a process leaves it that was killed: with a lease that nobody holds."""
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / LEASE).touch()
    (folder / "rows_0.parquet").touch()
    return folder


def test_what_ended_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    abandoned_folder(tmp_path)
    mine, of_others = new_scratch_folder(tmp_path), tmp_path / "without-a-lease"
    of_others.mkdir()
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, of_others])


def test_a_folder_lives_as_long_as_its_process_whatever_its_number_and_host_are(tmp_path: Path) -> None:
    """The process id and host name say nothing across containers that share a home."""
    hold = (
        "import sys, pathlib; from cai_dagster.lake.scratch import new_scratch_folder as new; "
        "print(new(pathlib.Path(sys.argv[1])), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        folder = Path(other.stdout.readline().strip())
        (folder / "weights.safetensors").touch()
        remove_abandoned(tmp_path)
        assert (folder / "weights.safetensors").exists()
        other.kill()
    remove_abandoned(tmp_path)
    assert not folder.exists()


def test_two_processes_may_sweep_one_folder_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = abandoned_folder(tmp_path)
    remove = shutil.rmtree

    def remove_after_another(folder: Path, ignore_errors: bool = False) -> None:
        remove(folder)
        remove(folder, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", remove_after_another)
    remove_abandoned(tmp_path)
    assert not folder.exists()


def test_folders_of_one_process_are_its_own_until_it_removes_them(tmp_path: Path) -> None:
    first, second = new_scratch_folder(tmp_path), new_scratch_folder(tmp_path)
    assert first != second
    assert abandoned(tmp_path) == []
    remove_scratch_folder(first)
    assert list(tmp_path.iterdir()) == [second]


def test_rows_that_start_again_leave_nothing_of_those_before(tmp_path: Path) -> None:
    staged = stage(tmp_path, [RESPONSE, {**RESPONSE, "sample": -1}])
    staged.add([{**RESPONSE, "sample": 2}])
    staged.start_again()
    assert [file.name for file in staged.folder.iterdir()] == [LEASE]
    staged.add([{**RESPONSE, "sample": 3}])
    staged.close()
    assert [row["sample"] for row in rows_of(staged)] == [3]
    assert (staged.row_count, staged.rejected_count, staged.reasons) == (1, 0, {})


def test_rows_are_written_while_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is added may be more than memory holds."""
    monkeypatch.setattr(cai_dagster.lake.staging, "CHUNK_ROWS", 10)
    staged = StagedRows(tmp_path, "initial_responses", None)
    seen: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(35):
            seen.append(len(staged.parts))
            yield {**RESPONSE, "prompt_id": f"{number:x}"}

    staged.add(rows())
    assert seen == [number // 10 for number in range(35)]
    staged.close()
    assert staged.row_count == 35
