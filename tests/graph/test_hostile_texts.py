"""The hostile corpus wherever people look: the terminal, Dagster's metadata, the cards of data sets."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from markdown_it import MarkdownIt

from cai_dagster.commands.cli import app
from cai_dagster.evaluation.reward_model import RewardModelScores, ScoredSlice, Slice, scores_table
from cai_dagster.home import Home
from tests.hostile import HOSTILE, LONG_LINE
from tests.hostile_lake import VERSION
from tests.scripted_graph import WITHOUT_TRAINING, materialize, write_prompts

_ID = f"{7:032x}"  # of a prompt, a pair, a principle and a call in the hostile lake
COMMANDS = [
    ["summary", "--version", VERSION],
    ["retry", "--table", "revision_rounds", "--reason", "nothing", "--version", VERSION],
    ["retry", "--table", HOSTILE[6], "--reason", HOSTILE[6], "--version", VERSION],
    ["export", "--table", "sft_dataset", "--version", VERSION, "--output"],
    ["report", VERSION, "--output"],
    ["report", HOSTILE[6]],
    ["score", "--model", HOSTILE[6]],
    ["doctor"],
    ["trace", _ID],
    *(["trace", f"{number:032x}", "--version", VERSION] for number in (8, 9, 10, 11)),  # whose facts have the long line
    ["trace", _ID, "--json"],
    ["trace", HOSTILE[6]],
    *(["principle", text] for text in HOSTILE if text != LONG_LINE),
    ["principle", HOSTILE[6], "--json"],
    ["status"],
    ["status", "--json"],
    ["diff", VERSION, VERSION],
    ["diff", VERSION, HOSTILE[6]],
    ["forget", _ID, "--dry-run"],
    ["forget", _ID, "--dry-run", "--json"],
    ["demo", "--version", HOSTILE[6]],
]
SCORES = RewardModelScores(2, 0.5, 0.6, 0.7, 0.2, 0.1, None, 0.5, [], [], [(0.1, 0.2)])


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_no_command_prints_a_control_character(
    arguments: list[str],
    hostile_home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CAI_HOME", str(hostile_home.root))
    if arguments[-1] == "--output":
        arguments = [*arguments, str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        app(arguments)
    printed = "".join(capfd.readouterr())
    assert printed.strip()
    assert {character for character in printed if not character.isprintable()} <= {"\n"}
    assert len(printed) < 100_000 or "--json" in arguments  # JSON has texts whole


def links_and_images(markdown: str) -> list[str]:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    inside = [child for token in tokens for child in token.children or []]
    return [
        token.type for token in [*tokens, *inside] if token.type in {"image", "link_open", "html_inline", "html_block"}
    ]


def test_dagsters_previews_are_short_texts_without_control_characters(home: Home, tmp_path: Path) -> None:
    texts = [text for text in HOSTILE if text != LONG_LINE] + [f"question {number}" for number in range(8)]
    prompts = write_prompts(tmp_path / "p.jsonl", texts)
    config: dict[str, Any] = {"prompts": prompts, "sft_dataset": {"min_rows": 1}, "revision_rounds": {"rounds": 1}}
    result = materialize(WITHOUT_TRAINING, config, raise_on_error=False, voice=" ".join(HOSTILE[:-1]))
    shown: list[str] = []
    # The checks stop what comes later: these texts go in circles.
    for asset in WITHOUT_TRAINING:
        for event in result.asset_materializations_for_node(asset):
            for value in event.metadata.values():
                if isinstance(value, dg.TableMetadataValue):
                    shown += [str(cell) for record in value.records for cell in record.data.values()]
                else:
                    shown.append(str(value.value))
    assert any("initial_responses 0.0" in text for text in shown)
    assert any("evil.example" in text for text in shown)
    assert all(character.isprintable() or character == "\n" for text in shown for character in text)
    assert max(len(text) for text in shown if "evil.example" in text) < 1_500


@pytest.mark.parametrize("text", HOSTILE)
def test_names_from_files_are_text_in_a_markdown_table(text: str) -> None:
    table = scores_table([ScoredSlice(Slice("benchmark_subset", text, []), SCORES)])
    assert len(table.splitlines()) == 3
    assert links_and_images(table) == []
    assert len(table) < 1_500


def test_a_dataset_card_shows_texts_as_text(
    hostile_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAI_HOME", str(hostile_home.root))
    with pytest.raises(SystemExit) as exited:
        app(["export", "--table", "sft_dataset", "--version", VERSION, "--output", str(tmp_path / "out")])
    assert not exited.value.code
    front, card = (tmp_path / "out" / "README.md").read_text().removeprefix("---\n").split("\n---\n", 1)
    assert "owned" not in front
    assert links_and_images(card) == []
    assert all(character.isprintable() or character == "\n" for character in card)
    assert "evil" in card
    assert len(card) < 200_000
