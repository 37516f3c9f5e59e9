"""Human preferences and imported pairs: every row of a file is a pair or a rejected row with its reason."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cai_dagster.inputs.decontamination import EvaluationSets, evaluation_sets
from cai_dagster.inputs.files import SourceFileError
from cai_dagster.inputs.human_preferences import RejectedPair
from cai_dagster.inputs.imported_pairs import import_pairs
from cai_dagster.settings import active_settings
from tests.imported_rows import collect_human_preferences, collect_prompts

SETTINGS = active_settings()
LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"


def write(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    file.write_bytes(gzip.compress(lines.encode()) if file.suffix == ".gz" else lines.encode())
    return file


def collect(*files: Path, sets: EvaluationSets | None = None, **changed: Any) -> tuple[list[dict[str, Any]], list[str]]:
    update = {"sources": [str(file) for file in files], **changed}
    settings = SETTINGS.human_preferences.model_copy(update=update)
    rows, rejected = collect_human_preferences(settings, SETTINGS.prompts, sets or EvaluationSets())
    return rows, [f"{one.source} {one.reason}" for one in rejected]


def pair(prompt: str = "Hi?", chosen: str = "good", rejected: str = "bad", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def test_the_same_rows_come_from_every_kind_of_file(tmp_path: Path) -> None:
    rows = [pair(f"Hi {number}?", category="chat", votes_chosen=3, votes_rejected=1) for number in range(3)]
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame(rows).write_csv(tmp_path / "a.csv")
    write(tmp_path / "a.jsonl", rows)
    write(tmp_path / "a.jsonl.gz", rows)
    found = [collect(tmp_path / f"a.{kind}") for kind in ("jsonl", "jsonl.gz", "parquet", "csv")]
    assert all(rejected == [] for _, rejected in found)
    tables = [[{**row, "source": ""} for row in rows] for rows, _ in found]
    assert tables[0] == tables[1] == tables[2] == tables[3]
    assert (tables[0][0]["votes_chosen"], tables[0][0]["votes_rejected"], tables[0][0]["category"]) == (3, 1, "chat")
    assert found[1][0][2]["source"] == "a.jsonl.gz:3"


def test_a_pair_has_the_same_id_whoever_is_preferred_and_is_kept_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [pair(), pair(), pair(chosen="bad", rejected="good"), pair("Ho?")])
    rows, rejected = collect(file)
    assert [row["chosen"][0]["content"] for row in rows] == ["good", "good"]
    assert rejected == [
        "a.jsonl:2 duplicate_pair: the same pair is at a.jsonl:1",
        "a.jsonl:3 contradicted_pair: a.jsonl:1, which is kept, has the same pair and prefers the other completion",
    ]


def test_every_bad_line_is_rejected_where_it_stands(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [pair(), pair("Ho?", votes_chosen=-1), pair("Hu?", chosen="a\0b")])
    with file.open("a") as lines:
        lines.write("no json\n")
    rows, rejected = collect(file)
    assert len(rows) == 1
    assert [reason.split(" ")[:2] for reason in rejected] == [
        ["a.jsonl:2", "bad_cell:"],
        ["a.jsonl:3", "bad_dialogue:"],
        ["a.jsonl:4", "bad_pair:"],
    ]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl.gz").write_bytes(gzip.compress(b'{"chosen": "a"}\n' * 99)[:-9])
    with pytest.raises(SourceFileError, match=r"human_preferences: .*broken\.jsonl\.gz is not a readable gzip file"):
        collect(tmp_path / "broken.jsonl.gz")
    pl.DataFrame([{"text_correct": "a"}]).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(SourceFileError, match="'chosen' with 'rejected'"):
        collect(tmp_path / "other.parquet")


def test_a_preference_file_is_a_source_of_prompts_with_the_same_ids_and_splits(tmp_path: Path) -> None:
    asked = [f"\n\nHuman: Hi {number}?\n\nAssistant: " for number in range(20)]
    transcripts = [{"chosen": f"{one}good", "rejected": f"{one}bad"} for one in asked]
    file = write(tmp_path / "a.jsonl", [*transcripts, pair("Ho?")])
    rows, _ = collect(file)
    prompts, rejected = collect_prompts(SETTINGS.prompts.model_copy(update={"sources": [str(file)]}), lambda _: 1)
    assert rejected == []
    assert [prompt.id for prompt in prompts] == [row["prompt_id"] for row in rows]


def test_pairs_are_imported_for_known_prompts_without_their_preference(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.jsonl", [pair("Hi?"), pair("Ho?"), pair("Hu?"), pair("Hi?", chosen="bad", rejected="good")]
    )
    ids = {row["prompt"][0]["content"]: row["prompt_id"] for row in collect(file)[0]}
    settings = SETTINGS.response_pairs.model_copy(update={"sources": [str(file)]})
    rows: list[dict[str, Any]] = []
    rejected: list[RejectedPair] = []
    splits = {ids["Hi?"]: "preference", ids["Ho?"]: "sft"}
    assert import_pairs(settings, splits, rows.append, rejected.append) == 1
    (row,) = rows
    assert (row["source"], row["prompt_id"], row["finish_reason_0"]) == ("imported", ids["Hi?"], "imported")
    assert {row["completion_0"], row["completion_1"]} == {"good", "bad"}
    assert row["pair_id"] == collect(file)[0][0]["pair_id"]
    (unknown,) = rejected
    assert unknown.reason.startswith(
        "unknown_prompt: the prompt is not in the table prompts; add the file of a.jsonl:3"
    )


@pytest.mark.parametrize(
    ("prompt", "contaminated"),
    [
        (f"Say: {LONG.upper()}!", True),
        (LONG.replace(" ", "  ,  "), True),
        ("one two three four five six seven eight nine ten eleven twelve", False),
        ("What is the CAPITAL of France", True),
        ("What is the capital of France, please?", False),
        ("ﬁve", True),
    ],
)
def test_prompts_that_overlap_with_an_evaluation_set_are_rejected_everywhere(
    tmp_path: Path, prompt: str, contaminated: bool
) -> None:
    rows = [
        {"question": f"and zero {LONG} fourteen"},
        {"turns": ["What is the capital of France?", "Five!"]},
    ]
    named = {"evaluation_sets": [str(write(tmp_path / "benchmark.jsonl", rows))]}
    sets = evaluation_sets(SETTINGS.decontamination.model_copy(update=named))
    file = write(tmp_path / "a.jsonl", [pair(prompt)])
    kept, rejected = collect(file, sets=sets)
    prompts = SETTINGS.prompts.model_copy(update={"sources": [str(file)]})
    kept_prompts, rejected_prompts = collect_prompts(prompts, lambda _: 1, sets)
    assert (len(kept), len(kept_prompts)) == ((0, 0) if contaminated else (1, 1))
    if contaminated:
        assert rejected[0].startswith("a.jsonl:1 contaminated: it shares ")
        assert "benchmark.jsonl:" in rejected_prompts[0].reason
