"""Files are read right, row by row, or refused with file and line: nothing is shifted or dropped in silence."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cai_dagster.evaluation.reward_model import stem_of
from cai_dagster.inputs.decontamination import EvaluationSets, evaluation_sets
from cai_dagster.inputs.files import Expected, SourceFileError, SourceRow, files_of, source_rows
from cai_dagster.inputs.import_report import ImportReport
from cai_dagster.models.messages import Message
from cai_dagster.settings import active_settings
from tests.imported_rows import collect_human_preferences, collect_prompts

SETTINGS = active_settings()
PAIR = {"prompt": "Is tea warm?", "chosen": "Mostly.", "rejected": "No."}


def rows_of(*files: Path) -> list[SourceRow]:
    return list(source_rows([str(file) for file in files], Expected("prompts")))


def imported(*files: Path, report: ImportReport | None = None) -> tuple[list[dict[str, Any]], list[str]]:
    settings = SETTINGS.human_preferences.model_copy(update={"sources": [str(file) for file in files]})
    pairs, refused = collect_human_preferences(settings, SETTINGS.prompts, report=report)
    return pairs, [f"{one.source} {one.reason}" for one in refused]


def lines(file: Path, *rows: Mapping[str, Any] | str) -> Path:
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def zst(text: str) -> bytes:
    import pyarrow as pa

    library: Any = pa
    return library.Codec("zstd").compress(text.encode(), asbytes=True)


@pytest.mark.parametrize("packing", [gzip.compress, lambda raw: zst(raw.decode())], ids=["gz", "zst"])
@pytest.mark.parametrize(
    ("kind", "text"), [("jsonl", '{"prompt": "a"}\n{"prompt": "b"}\n'), ("csv", "prompt\na\nb\n"), ("txt", "a\nb\n")]
)
def test_packed_files_are_read(tmp_path: Path, packing: Any, kind: str, text: str) -> None:
    suffix = "gz" if packing is gzip.compress else "zst"
    file = tmp_path / f"mine.{kind}.{suffix}"
    file.write_bytes(packing(text.encode()))
    cells = [next(iter(row.cells.values())) for row in rows_of(file)]
    assert cells == ["a", "b"]
    assert stem_of(file) == "mine"


def test_a_json_file_with_one_list_is_read_where_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps([{"prompt": "a"}, 3]))
    first, second = rows_of(tmp_path / "mine.json")
    assert (first.place, first.cells, first.problem) == ("mine.json:1", {"prompt": "a"}, None)
    assert second.problem == "the item is not a JSON object"
    with pytest.raises(SourceFileError, match="has no"):
        files_of(tmp_path, "prompts")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a", "prompt": "b"}', "the key 'prompt' stands 2 times"),
        ('{"messages": [{"role": "user", "content": "One", "content": "Two"}]}', "the key 'content' stands 2 times"),
        ('{"prompt": "a", "votes": Infinity}', "Infinity is no number"),
        ('{"prompt": "a", "votes": 1e999}', "1e999 is too large"),
    ],
)
def test_json_that_would_lose_something_is_refused_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    (row,) = rows_of(lines(tmp_path / "mine.jsonl", line))
    assert row.place == "mine.jsonl:1"
    assert said in (row.problem or "")
    assert row.cells["line"].startswith(line)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"prompt,category,prompt\na,b,c\n", "has the column 'prompt' more than once"),
        ("a.csv", "prompt\na\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("a.csv", b"PK\x03\x04 a spreadsheet", "is a spreadsheet or zip file"),
        ("a.jsonl.gz", b'{"prompt": "a"}\n', "is not a readable gzip file"),
        ("a.jsonl.zst", b'{"prompt": "a"}\n', "cannot be read"),
        ("a.parquet.gz", b"", "is none of"),
        ("a.xlsx", b"", "is none of"),
    ],
)
def test_a_file_that_cannot_be_read_right_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceFileError, match=said):
        rows_of(tmp_path / name)


@pytest.mark.parametrize(("line", "cells"), [("a,b,c", 3), ("a", 1)])
def test_a_row_that_does_not_fit_its_header_is_whole_and_refused(tmp_path: Path, line: str, cells: int) -> None:
    (tmp_path / "a.csv").write_text(f"prompt,category\n{line}\nd,e\n")
    first, second = rows_of(tmp_path / "a.csv")
    assert first.place == "a.csv:2"
    assert (first.problem or "").startswith(f"the row has {cells} cells and the header 2")
    assert first.cells == {"cells": line.split(",")}
    assert second == SourceRow("a.csv:3", {"prompt": "d", "category": "e"}, None, str(tmp_path / "a.csv"))


def dataset_with_class_labels() -> Any:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({**dict.fromkeys(PAIR, Value("string")), "category": ClassLabel(names=["drinks", "weather"])})
    rows = [{**PAIR, "category": 0}, {**PAIR, "prompt": "Is snow cold?", "category": 1}]
    return Dataset.from_list(rows, features=features)


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_categories_of_a_dataset_have_their_names(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("mine" if kind == "folder" else "mine.parquet")
    dataset = dataset_with_class_labels()
    dataset.save_to_disk(str(path)) if kind == "folder" else dataset.to_parquet(str(path))
    prompts, refused = collect_prompts(SETTINGS.prompts.model_copy(update={"sources": [str(path)]}), lambda _: 1)
    assert ([prompt.category for prompt in prompts], refused) == (["drinks", "weather"], [])
    assert [pair["category"] for pair in imported(path)[0]] == ["drinks", "weather"]


def test_a_folder_of_the_hub_is_read_from_its_data(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    lines(tmp_path / "rejected.jsonl", {"row": "not one of them"})
    lines(tmp_path / "data" / "train.jsonl", PAIR)
    lines(tmp_path / "data" / "test.jsonl", {**PAIR, "prompt": "Is ice cold?"})
    assert [pair["source"] for pair in imported(tmp_path)[0]] == ["test.jsonl:1", "train.jsonl:1"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_votes_are_counts_however_a_spreadsheet_writes_them(tmp_path: Path, kind: str) -> None:
    votes: list[tuple[Any, Any]] = [(3.0, 1.0), (float("nan"), float("nan")), (2.0, None)]
    rows = [
        {**PAIR, "prompt": f"Is it {number}?", "votes_chosen": chosen, "votes_rejected": rejected}
        for number, (chosen, rejected) in enumerate(votes)
    ]
    file = tmp_path / f"pairs.{kind}"
    if kind == "jsonl":
        lines(file, *rows)
    else:
        frame = pl.DataFrame(rows)
        frame.write_csv(file) if kind == "csv" else frame.write_parquet(file)
    pairs, refused = imported(file)
    assert refused == []
    assert [(pair["votes_chosen"], pair["votes_rejected"]) for pair in pairs] == [(3, 1), (None, None), (2, None)]


@pytest.mark.parametrize("votes", [2.5, -1, True, "1_0", "three", 10**12, [1]])
def test_votes_that_are_no_counts_are_refused_with_their_line(tmp_path: Path, votes: Any) -> None:
    pairs, (said,) = imported(lines(tmp_path / "odd.jsonl", {**PAIR, "votes_chosen": votes}))
    assert pairs == []
    assert said.startswith("odd.jsonl:1 bad_cell: votes_chosen is ")


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ((7, 7), "tie: score_chosen is 7 and"),
        ((2, 8), "contradicted_pair:"),
        (("x", 1), "bad_cell: score_chosen is 'x'"),
    ],
)
def test_scores_that_name_no_better_completion_are_refused(tmp_path: Path, scores: tuple[Any, Any], said: str) -> None:
    row = {**PAIR, "score_chosen": scores[0], "score_rejected": scores[1]}
    pairs, (reason,) = imported(lines(tmp_path / "pairs.jsonl", row))
    assert pairs == []
    assert reason.startswith(f"pairs.jsonl:1 {said}")


@pytest.mark.parametrize("scores", [(8, 2.5), ("8", "2"), (None, 3), ("", ""), (float("nan"), 1)])
def test_scores_that_agree_or_are_not_there_change_nothing(tmp_path: Path, scores: tuple[Any, Any]) -> None:
    row = {**PAIR, "score_chosen": scores[0], "score_rejected": scores[1]}
    assert len(imported(lines(tmp_path / "pairs.jsonl", row))[0]) == 1


def test_a_thought_before_an_answer_is_kept_apart(tmp_path: Path) -> None:
    thought = {
        **PAIR,
        "chosen": "<think>\n9 is 3 times 3.\n</think>\n\nNo.",
        "rejected": "<think>\nOdd.\n</think>\n\nYes.",
    }
    empty = {**PAIR, "rejected": "<think>\n\n</think>\n\n"}
    endless = {**PAIR, "rejected": "<think>\nLet me try 2, 3, 5"}
    lost = {**PAIR, "rejected": "Let me see.\n</think>\nYes."}
    own_column = {
        "prompt": [{"role": "user", "content": "And 7?"}],
        "chosen": [{"role": "assistant", "content": "Yes.", "reasoning_content": "It is."}],
        "rejected": [{"role": "assistant", "content": "No."}],
    }
    (pair, other), refused = imported(lines(tmp_path / "a.jsonl", thought, empty, endless, lost, own_column))
    assert (pair["chosen"][0]["content"], pair["chosen_reasoning"]) == ("No.", "9 is 3 times 3.")
    assert (pair["rejected"][0]["content"], pair["rejected_reasoning"]) == ("Yes.", "Odd.")
    assert (other["chosen"][0]["content"], other["chosen_reasoning"], other["rejected_reasoning"]) == (
        "Yes.",
        "It is.",
        None,
    )
    assert [reason.split(": ")[0] for reason in refused] == [f"a.jsonl:{line} empty_completion" for line in (2, 3, 4)]
    assert "never ends" in refused[1]


def test_a_thought_in_a_transcript_is_kept_apart(tmp_path: Path) -> None:
    begun = "\n\nHuman: Is 9 prime?\n\nAssistant:"
    row = {"chosen": f"{begun} <think>Hm.</think>\nNo.", "rejected": f"{begun} Yes."}
    (pair,), refused = imported(lines(tmp_path / "a.jsonl", row, {**row, "rejected": f"{begun} <think>Hm."}))
    assert (pair["chosen"][0]["content"], pair["chosen_reasoning"]) == ("No.", "Hm.")
    assert refused[0].startswith("a.jsonl:2 empty_completion: ")


def test_rows_of_judgebench_rewardbench_2_and_nemo_are_pairs(tmp_path: Path) -> None:
    judged = {"question": "Q?", "response_A": "no", "response_B": "yes", "label": "B>A", "source": "x"}
    tied = {**judged, "label": "A=B"}
    listed = {"prompt": "P?", "chosen": ["yes"], "rejected": ["no", "never"], "subset": "Focus"}
    ranked = {
        "context": [{"role": "user", "content": "C?"}],
        "completions": [
            {"rank": 1, "completion": [{"role": "assistant", "content": "no"}]},
            {"rank": 0, "completion": [{"role": "assistant", "content": "yes"}]},
        ],
    }
    report = ImportReport()
    pairs, refused = imported(lines(tmp_path / "a.jsonl", judged, tied, listed, ranked), report=report)
    told = [[pair[name][0]["content"] for name in ("prompt", "chosen", "rejected")] for pair in pairs]
    assert told == [
        ["Q?", "yes", "no"],
        ["P?", "yes", "no"],
        ["P?", "yes", "never"],
        ["C?", "yes", "no"],
    ]  # fmt: skip
    assert refused == ["a.jsonl:2 bad_pair: label is 'A=B'; it has to be A>B or B>A"]
    (source,) = report.to_json()
    assert source["read_as"] == {"judgebench": 1, "trl_explicit": 1, "nemo": 1}


def test_unpaired_rows_make_pairs_or_are_refused(tmp_path: Path) -> None:
    def said(prompt: str, completion: str, label: Any) -> dict[str, Any]:
        return {"prompt": prompt, "completion": completion, "label": label}

    file = lines(
        tmp_path / "kto.jsonl",
        said("P?", "no", False),
        said("Q?", "a", True),
        said("P?", "yes", True),
        said("R?", "b", 3),
    )
    report = ImportReport()
    (pair,), refused = imported(file, report=report)
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"], pair["source"]) == (
        "yes",
        "no",
        "kto.jsonl:1",
    )
    assert refused == [
        "kto.jsonl:4 unpaired: label is '3'; it has to be true or false",
        "kto.jsonl:2 unpaired: no other completion of this prompt has the opposite label",
    ]
    (source,) = report.to_json()
    assert (source["rows"], source["kept"], source["refused"]) == (4, 2, {"unpaired": 2})


def test_the_report_says_what_was_read_and_what_was_not(tmp_path: Path) -> None:
    file = lines(tmp_path / "mine.jsonl", {"prompt": "a", "system": "Be kind."}, {"prompt": ""}, "no json")
    report = ImportReport()
    collect_prompts(SETTINGS.prompts.model_copy(update={"sources": [str(file)]}), lambda _: 1, report=report)
    assert report.lines() == [
        f"{file}: 3 rows, 1 kept (1 as prompt: text); refused: 1 bad_dialogue, 1 bad_prompt; first mine.jsonl:2: "
        'bad_dialogue: turn 1 is empty; columns read: prompt; not read: system; first row: {"prompt": "a", "system": '
        '"Be kind."}'
    ]


CHINESE = "中华人民共和国的首都是北京,它位于华北平原的北部。"
JAPANESE = "日本の首都は東京であり、関東地方に位置しています。"
THAI = "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทยและมีประชากรมากที่สุด"


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, THAI])
def test_overlap_is_found_in_languages_without_spaces(text: str) -> None:
    sets = EvaluationSets()
    sets.add(text, "b.jsonl:1")
    with pytest.raises(Exception, match="contaminated"):
        sets.refuse((Message("user", f"请问 {text[2:]} ใช่ไหม"),))
    sets.refuse((Message("user", text[:8] + "!"),))


def test_an_evaluation_set_with_a_row_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    file = lines(tmp_path / "benchmark.jsonl", {"question": "a"}, "no json")
    with pytest.raises(SourceFileError, match=r"benchmark\.jsonl:2: not JSON.*its texts would not be kept out"):
        evaluation_sets(SETTINGS.decontamination.model_copy(update={"evaluation_sets": [str(file)]}))
