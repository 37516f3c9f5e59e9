"""A dialogue is read the same from every way of writing it; what a message cannot hold is refused by its name."""

import csv
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_dagster.errors import RowError
from cai_dagster.inputs.dialogues import prompt_of, texts_in, turns_of, turns_or_text, written_as
from cai_dagster.inputs.import_report import ImportReport
from cai_dagster.inputs.prompts import prompt_id_of
from cai_dagster.inputs.transcripts import NoTranscriptError, transcript, transcript_turns
from cai_dagster.models.messages import to_messages
from cai_dagster.settings import active_settings
from cai_dagster.training.scored_texts import parse_line
from tests.imported_rows import collect_human_preferences, collect_prompts

SETTINGS = active_settings()
TURNS = [
    {"role": "user", "content": "How long does rice keep in the fridge?"},
    {"role": "assistant", "content": "About four days in a closed box."},
    {"role": "user", "content": "And frozen?"},
]
MESSAGES = to_messages(TURNS)
SHAREGPT = [{"from": {"user": "human", "assistant": "gpt"}[turn["role"]], "value": turn["content"]} for turn in TURNS]
TRANSCRIPT = transcript([(turn["role"], turn["content"]) for turn in TURNS]) + "\n\nAssistant:"
WAYS = {
    "turns": TURNS,
    "tuple": tuple(TURNS),
    "json": json.dumps(TURNS),
    "indented json": json.dumps(TURNS, indent=2),
    "repr": repr(TURNS),
    "wrapped": {"messages": TURNS},
    "wrapped json": json.dumps({"messages": TURNS}),
    "wrapped repr": repr({"messages": TURNS}),
    "conversations": {"conversations": SHAREGPT},
    "sharegpt": SHAREGPT,
    "columns of parts": {name: [turn[name] for turn in TURNS] for name in ("role", "content")},
    "other names of roles": [{"role": turn["from"], "content": turn["value"]} for turn in SHAREGPT],
    "json with ids first": json.dumps([{"id": number, **turn} for number, turn in enumerate(TURNS)]),
    "repr with ids first": repr({"id": 7, "messages": [{"id": 1, **turn} for turn in TURNS]}),
    "sharegpt json": json.dumps(SHAREGPT),
    "parts": [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in TURNS],
    "nulls of a parquet file": [{**turn, "tool_calls": None, "name": None, "weight": 1} for turn in TURNS],
    "transcript": TRANSCRIPT,
    "transcript with CRLF": TRANSCRIPT.replace("\n", "\r\n"),
    "indented transcript": TRANSCRIPT.replace("\n\n", "\n\n  "),
}


@pytest.mark.parametrize("value", WAYS.values(), ids=WAYS)
def test_one_dialogue_is_read_from_every_way_of_writing_it(value: object) -> None:
    assert prompt_of(turns_or_text(value, "prompt")) == MESSAGES
    assert texts_in(value)[:3] == [turn["content"] for turn in TURNS]


@pytest.mark.parametrize("column", ["prompt", "messages", "conversations"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("way", ["json", "repr", "wrapped json", "transcript", "transcript with CRLF", "turns"])
def test_the_prompt_has_one_id_in_every_file_and_column(tmp_path: Path, column: str, kind: str, way: str) -> None:
    value: Any = WAYS[way]
    file = tmp_path / f"prompts.{kind}"
    if kind == "csv":
        if way == "turns":
            pytest.skip("a cell of a CSV file is a text")
        with file.open("w", encoding="utf-8", newline="") as lines:
            csv.writer(lines).writerows([[column], [value]])
    elif kind == "jsonl":
        file.write_text(json.dumps({column: value}) + "\n")
    else:
        pl.DataFrame([{column: value}]).write_parquet(file)
    report = ImportReport()
    (prompt,), rejected = collect_prompts(
        SETTINGS.prompts.model_copy(update={"sources": [str(file)]}), lambda _: 1, report=report
    )
    assert rejected == []
    assert prompt.id == prompt_id_of(MESSAGES)
    (source,) = report.to_json()
    assert (source["rows"], source["kept"], source["columns_read"]) == (1, 1, [column])


@pytest.mark.parametrize("way", [name for name in WAYS if name != "tuple"])
def test_pairs_and_scored_texts_have_the_same_prompt(tmp_path: Path, way: str) -> None:
    row = {"prompt": WAYS[way], "chosen": "Half a year.", "rejected": "For ever."}
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(row) + "\n")
    settings = SETTINGS.human_preferences.model_copy(update={"sources": [str(file)]})
    (pair,), rejected = collect_human_preferences(settings, SETTINGS.prompts)
    assert rejected == []
    assert pair["prompt_id"] == prompt_id_of(MESSAGES)
    assert parse_line(json.dumps(row)).prompt == MESSAGES
    assert parse_line(json.dumps({"prompt": WAYS[way], "completion": "Half a year."})).prompt == MESSAGES


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2, 3] is a list: what is its sum?",
        '{"role": "admin"}',
        '[{"name": "a", "role": "admin"}, {"name": "b", "role": "user"}]',
        '{"from": "a@b.example", "messages": 3}',
        '{"a": 1, "role": "x"',
        "Human: rights are which?",
        "What does [{'role': 'user', 'content': 'Hi'}] mean?",
        "He said:\nHuman: hello",
        "{}",
    ],
)
def test_a_plain_text_stays_one_turn(text: str) -> None:
    turns = turns_or_text(text, "prompt")
    assert [(turn.role, turn.content) for turn in turns] == [("user", text)]
    assert written_as(text, turns) == "text"


def turn(**more: Any) -> list[dict[str, Any]]:
    said = {"role": "assistant", "content": "Yes.", **more}
    return [{"role": "user", "content": "Hi"}, said, {"role": "user", "content": "And?"}]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (turn(tool_calls=[{"id": "c1"}]), "turn 2 has 'tool_calls'"),
        (turn(function_call={"name": "f"}), "turn 2 has 'function_call'"),
        (turn(images=["a.png"]), "turn 2 has 'images'"),
        (turn(name="Bob"), "turn 2 has 'name'"),
        (turn(reasoning_content="7 has none."), "reasoning_content"),
        (turn(content="<think>a</think>b"), "<think>"),
        (turn(content=[{"type": "image_url", "image_url": {"url": "x"}}]), "a part of type 'image_url'"),
        (turn(content=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "2 text parts"),
        (turn(content=[{"type": "text", "text": "a", "audio": "b"}]), "a part of it has 'audio'"),
        (turn(content=[{"type": "text"}]), "turn 2 has no text"),
        (turn(content=None), "turn 2 has no text"),
        ("[{'role': 'user', 'content': 'a'}\n {'role': 'assistant'}]", "looks like a list of turns"),
        ('[{"role": "user", "content": "a"', "looks like a list of turns"),
        ('[{"role": "user", "content": "a", "content": "b"}]', "the key 'content' stands 2 times"),
        ({"chat": TURNS}, "an object without `messages`"),
        ({"messages": TURNS, "conversations": SHAREGPT}, "an object without `messages`"),
        ([{"from": "tool", "value": "x"}], "the role 'tool'"),
        ([{"role": "user", "content": "a\ud800"}], "lone surrogate"),
    ],
)  # fmt: skip
def test_what_a_message_cannot_hold_is_refused_by_name(value: object, said: str) -> None:
    with pytest.raises(RowError) as caught:
        prompt_of(turns_or_text(value, "prompt"))
    assert said in str(caught.value)


def test_a_text_that_is_no_dialogue_is_none_where_turns_are_due() -> None:
    with pytest.raises(RowError, match="messages is not a list of turns: it is the text 'Hello"):
        turns_of("Hello?", "messages")


ODD = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    [
        "\n\nHuman: x",
        "a\n\n  Assistant: b",
        "\r\n\r\nHuman: y",
        " z",
        "z\n",
        "\r",
        "Human:",
        "\n\n",
        "</think>",
        "[{'role':",
    ]
)
SPOKEN = st.lists(ODD, min_size=1, max_size=3).map("".join).filter(lambda text: text.strip() and "\0" not in text)


@given(st.lists(SPOKEN, min_size=1, max_size=5))
def test_a_transcript_is_read_back_or_refused(texts: list[str]) -> None:
    turns = [(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)]
    try:
        written = transcript(turns)
    except NoTranscriptError:
        return
    assert transcript_turns(written) == turns


@pytest.mark.parametrize("text", ["Here:\n\n  Human: Who?\n\n  Assistant: Me.", "A\r\n\r\nHuman: b", "a\n\nHuman: b"])
def test_a_speaker_inside_a_text_is_refused_by_the_writer(text: str) -> None:
    with pytest.raises(NoTranscriptError, match="Human: after an empty line"):
        transcript([("user", "Write."), ("assistant", text)])


@pytest.mark.parametrize("text", ["  Human: b", " Mostly.", "ends with a space ", "\nb\n", "Human: b"])
def test_a_text_that_no_reader_splits_comes_back_unchanged(text: str) -> None:
    turns = [("user", "Write."), ("assistant", text)]
    assert transcript_turns(transcript(turns)) == turns
