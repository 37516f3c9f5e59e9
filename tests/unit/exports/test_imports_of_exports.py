"""What `cai export` writes is read back as the same dialogues, in every format and for every text."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cai_dagster.exports.formats import ExportFormat, UnwritableRowError, layout_of
from cai_dagster.inputs.settings import LastAnswer
from cai_dagster.models.messages import to_messages
from cai_dagster.models.reasoning import UnfinishedThoughtError, answer_in_file
from cai_dagster.settings import active_settings
from tests.imported_rows import collect_human_preferences, collect_prompts

SETTINGS = active_settings()
SEEDED = hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
PIECES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20) | st.sampled_from(
    [
        "\n\nHuman: hello", "\n\nAssistant:", "\r\n\r\nHuman: b", "  Human: c", "Human:", "\n\n", " ", "\r",
        '[{"role": "user", "content": "x"}]', "[{'role': 'user', 'content': 'x'}]", '{"messages": []}', "</think>",
        "<think>", "NaN", "010", "# 3", '"', ",", "|", "{{ x }}", "<|im_end|>", "\u2028",
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES, min_size=1, max_size=4).map("".join).filter(str.strip)


def is_answer(text: str) -> bool:
    """Whether a table may hold the text as a completion: a thought before one is kept apart."""
    try:
        return answer_in_file(text).text == text
    except UnfinishedThoughtError:
        return False


ANSWERS = TEXTS.filter(is_answer)
PROMPTS = st.tuples(st.none() | TEXTS, st.lists(st.tuples(TEXTS, ANSWERS), max_size=2), TEXTS)


def turns(prompt: tuple[str | None, list[tuple[str, str]], str]) -> list[dict[str, str]]:
    system, exchanges, last = prompt
    said = [turn for asked, answer in exchanges for turn in (("user", asked), ("assistant", answer))]
    before = [("system", system)] if system is not None else []
    return [{"role": role, "content": content} for role, content in (*before, *said, ("user", last))]


@st.composite
def pairs(draw: st.DrawFn) -> dict[str, Any]:
    chosen, rejected = draw(ANSWERS), draw(ANSWERS)
    if chosen.strip() == rejected.strip():
        rejected += "!"
    return {
        "constitution_version": "v1",
        "pair_id": "ab",
        "prompt_id": "cd",
        "prompt": turns(draw(PROMPTS)),
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "p_chosen": 0.75,
        "label_policy": "soft",
        "source": "revisions",
        "split": "preference",
    }


def written(records: list[dict[str, Any]], folder: Path, kind: str) -> list[str]:
    file = folder / f"data.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        pl.DataFrame(records).write_parquet(file)
    return [str(file)]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("export_format", list(ExportFormat))
@SEEDED
@given(row=pairs())
def test_a_pair_is_read_back_as_it_was(
    tmp_path: Path, export_format: ExportFormat, kind: str, row: dict[str, Any]
) -> None:
    try:
        records = layout_of("preference_pairs", export_format).records(row)
    except UnwritableRowError:
        assert export_format == ExportFormat.hh
        return
    sources = written(records, tmp_path, kind)
    settings = SETTINGS.human_preferences.model_copy(update={"sources": sources})
    (read,), refused = collect_human_preferences(settings, SETTINGS.prompts)
    assert refused == []
    assert {name: read[name] for name in ("prompt", "chosen", "rejected")} == {
        name: row[name] for name in ("prompt", "chosen", "rejected")
    }


@pytest.mark.parametrize("export_format", [ExportFormat.trl, ExportFormat.messages, ExportFormat.nemo])
@SEEDED
@given(prompt=PROMPTS, answer=ANSWERS)
def test_the_prompt_of_an_example_is_read_back(
    tmp_path: Path, export_format: ExportFormat, prompt: tuple[str | None, list[tuple[str, str]], str], answer: str
) -> None:
    messages = [*turns(prompt), {"role": "assistant", "content": answer}]
    row = {
        "messages": messages,
        "constitution_version": "v1",
        "prompt_id": "ab",
        "sample": 0,
        "round": 1,
        "split": "sft",
    }
    records = layout_of("sft_dataset", export_format).records(row)
    update = {"sources": written(records, tmp_path, "jsonl"), "last_answer": LastAnswer.leave_out}
    (read,), refused = collect_prompts(SETTINGS.prompts.model_copy(update=update), lambda _: 1)
    assert refused == []
    assert read.messages == to_messages(messages[:-1])
