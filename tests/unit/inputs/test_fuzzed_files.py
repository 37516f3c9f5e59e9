"""Twenty thousand rows, mutated in every way that files go wrong: each is read right or refused, and none is lost."""

import csv
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from cai_dagster.constitution.constitution import load_constitution
from cai_dagster.constitution.versions import ConstitutionError
from cai_dagster.inputs.files import SourceFileError
from cai_dagster.inputs.import_report import ImportReport
from cai_dagster.settings import active_settings
from tests.imported_rows import collect_prompts

SETTINGS = active_settings()
ROWS = 6_500  # of each of the three formats; and five hundred constitutions
Mutation = Callable[[random.Random, str], Any]
SPEAKING = "\n\nHuman: {}\n\nAssistant:"


def question(number: int) -> str:
    return f"Question {number}: is it \"so\", or 'not', {{x}} # {number}?"


def turns(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


# What becomes of a row's cell; what is not refused has to be read as the question, unchanged.
CELLS: list[Mutation] = [
    lambda _, text: text,
    lambda _, text: turns(text),
    lambda _, text: json.dumps(turns(text)),
    lambda _, text: str(turns(text)),
    lambda _, text: {"messages": turns(text)},
    lambda _, text: json.dumps({"conversations": [{"from": "human", "value": text}]}),
    lambda _, text: SPEAKING.format(text),
    lambda _, text: SPEAKING.format(text).replace("\n", "\r\n"),
    lambda _, text: [{"role": "user", "content": [{"type": "text", "text": text}]}],
    lambda _, text: [{"role": "user", "content": text, "tool_calls": [{"id": "1"}]}],
    lambda _, text: [{"role": "user", "content": text, "weight": 1}],
    lambda _, text: [*turns(text), {"role": "assistant", "content": "Yes."}],
    lambda _, text: [{"role": "tool", "content": text}],
    lambda _, text: [text],
    lambda _, text: text + "\0",
    lambda _, text: json.dumps(turns(text))[:-2],
    lambda chance, text: chance.choice([None, "", "  ", 3, 2.5, float("nan"), True, [], {}]),
]
# What becomes of a line of a file, as bytes.
LINES: list[Callable[[random.Random, bytes], bytes]] = [
    lambda _, line: line,
    lambda _, line: line,
    lambda _, line: line,
    lambda _, line: b"\xff" + line,
    lambda _, line: line[: len(line) // 2],
    lambda _, line: line.replace(b"Question", b"Question\xe9"),
    lambda _, line: line + b",1",
    lambda _, line: line.replace(b'"note"', b'"prompt"'),
    lambda _, line: line.replace(b": 1", b": Infinity"),
    lambda _, line: line.replace(b": 1", b": NaN"),
    lambda _, line: b"[" * 3_000 + line,
    lambda _, line: line.replace(b'"', b"'"),
]


def checked(file: Path, written: int, cells: Sequence[str] = ()) -> tuple[int, int]:
    """Read the file: every row is kept as its question, or whole as its cell, or refused; how many of each."""
    whole = set(cells)
    report = ImportReport()
    settings = SETTINGS.prompts.model_copy(update={"sources": [str(file)]})
    prompts, refused = collect_prompts(settings, lambda _: 1, report=report)
    (source,) = report.sources.values()
    assert source.rows == source.kept + sum(source.refused.values()) == written
    assert len(refused) == sum(source.refused.values())
    assert sum(len(prompt.sources) for prompt in prompts) == source.kept
    for prompt in prompts:
        asked = prompt.messages[-1].content
        assert [message.role for message in prompt.messages] == ["user"]
        if asked not in whole:
            assert asked == question(int(asked.partition(":")[0].removeprefix("Question ")))
    return source.kept, sum(source.refused.values())


def mutated(chance: random.Random, cell: Any) -> Any:
    return chance.choice(CELLS)(chance, cell)


def test_json_lines_are_read_right_or_refused(tmp_path: Path) -> None:
    chance = random.Random(0)
    lines = [
        chance.choice(LINES)(chance, json.dumps({"prompt": mutated(chance, question(number)), "note": 1}).encode())
        for number in range(ROWS)
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    kept, refused = checked(tmp_path / "a.jsonl", ROWS)
    assert min(kept, refused) > ROWS / 10


def test_cells_of_csv_are_read_right_or_refused(tmp_path: Path) -> None:
    chance = random.Random(1)
    texts: list[str] = []
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "note"])
        for number in range(ROWS):
            cell = mutated(chance, question(number))
            texts.append(cell if isinstance(cell, str) else json.dumps(cell))
            cells = [texts[-1], "1"]
            writer.writerow(chance.choice([cells, cells, cells, [*cells, "2"], cells[:1], cells]))
    kept, refused = checked(
        tmp_path / "a.csv", ROWS, [text for text in texts if "role" not in text and "from" not in text]
    )
    assert min(kept, refused) > ROWS / 10


def test_rows_of_parquet_are_read_right_or_refused(tmp_path: Path) -> None:
    chance = random.Random(2)
    cells = [mutated(chance, question(number)) for number in range(ROWS)]
    rows = [{"prompt": cell if isinstance(cell, str) else json.dumps(cell), "messages": None} for cell in cells]
    texts = [row["prompt"] for row in rows]
    plain = [text for text in texts if "role" not in text and "from" not in text]
    structured = [{"prompt": None, "messages": turns(question(ROWS + number))} for number in range(100)]
    pl.DataFrame([*rows, *structured], infer_schema_length=None).write_parquet(tmp_path / "a.parquet")
    kept, refused = checked(tmp_path / "a.parquet", ROWS + 100, plain)
    assert min(kept, refused) > ROWS / 10


BREAKS: list[Callable[[str], str]] = [
    lambda text: text,
    lambda text: text.replace("'", ""),
    lambda text: text.replace("weight: 2", "weight: 020"),
    lambda text: text.replace("weight: 2", "weight: 1:30"),
    lambda text: text.replace("weight: 2", "weight: .inf"),
    lambda text: text.replace("slug: kind", "slug: kind\n    slug: other"),
    lambda text: text.replace("critique_request", "critique"),
    lambda text: text.replace("principles:", "principles: &a\n  - *a\nother:"),
    lambda text: text[: len(text) * 2 // 3],
    lambda text: text.replace("\n", "\r\n"),
    lambda text: text.replace(": ", ":", 1),
    lambda text: "\ufeff" + text,
]


@pytest.mark.parametrize("seed", range(5))
def test_constitutions_are_read_right_or_refused(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    read, refused = 0, list[str]()
    for number in range(100):
        texts = {
            name: f"{name} of {question(number)}"
            for name in ("critique_request", "revision_request", "comparison_request")
        }
        whole = yaml.safe_dump({"principles": [{"slug": "kind", **texts, "weight": 2}]}, sort_keys=False, width=1_000)
        text = chance.choice(BREAKS)(whole)
        (tmp_path / "v1.yaml").write_text(text, encoding="utf-8", newline="")
        try:
            (principle,) = load_constitution(tmp_path / "v1.yaml").principles
        except ConstitutionError as error:
            refused.append(str(error))
            continue
        read += 1
        assert (principle.slug, principle.weight) == ("kind", 2)
        assert {name: getattr(principle, name).replace("'", "") for name in texts} == {
            name: value.replace("'", "") for name, value in texts.items()
        }
    assert read > 10
    assert all(str(tmp_path / "v1.yaml") in message for message in refused)


def test_a_header_that_is_no_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe" + "prompt\n".encode("utf-16-le"))
    with pytest.raises(SourceFileError, match="UTF-16"):
        checked(tmp_path / "a.csv", 0)
