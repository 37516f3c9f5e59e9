"""Every row that docs/inputs.md shows is read as the page says."""

import json
from pathlib import Path

import pytest

from cai_dagster.models.messages import Messages, to_messages
from cai_dagster.settings import active_settings
from tests.imported_rows import collect_human_preferences, collect_prompts
from tests.input_examples import PAGE, PAIRS, PROMPTS, Example, page

SETTINGS = active_settings()


def shown(prompt: Messages) -> str:
    return " · ".join(f"{message.role}: {message.content}" for message in prompt)


def written(example: Example, folder: Path) -> list[str]:
    file = folder / "example.jsonl"
    file.write_text(json.dumps(example.row) + "\n")
    return [str(file)]


@pytest.mark.parametrize("example", PROMPTS, ids=lambda example: example.what)
def test_a_prompt_is_read_as_the_page_says(example: Example, tmp_path: Path) -> None:
    prompts, refused = collect_prompts(
        SETTINGS.prompts.model_copy(update={"sources": written(example, tmp_path)}), lambda _: 1
    )
    if example.refused:
        assert prompts == []
        assert example.refused in refused[0].reason
    else:
        assert [shown(prompt.messages) for prompt in prompts] == [example.read]


@pytest.mark.parametrize("example", PAIRS, ids=lambda example: example.what)
def test_a_pair_is_read_as_the_page_says(example: Example, tmp_path: Path) -> None:
    settings = SETTINGS.human_preferences.model_copy(update={"sources": written(example, tmp_path)})
    pairs, refused = collect_human_preferences(settings, SETTINGS.prompts)
    if example.refused:
        assert pairs == []
        assert example.refused in refused[0].reason
        return
    told = [
        f"{shown(to_messages(pair['prompt']))} → {pair['chosen'][0]['content']} | {pair['rejected'][0]['content']}"
        + (f" (reasoning: {pair['chosen_reasoning']})" if pair["chosen_reasoning"] else "")
        for pair in pairs
    ]
    assert " and ".join(told) == example.read


def test_the_page_shows_these_examples() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "run `make docs`"
