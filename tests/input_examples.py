"""Rows as people bring them, and what each is read as: asserted by tests/unit/inputs/test_input_examples.py.

`python -m tests.input_examples` writes them as the tables of docs/inputs.md (`make docs`).
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "inputs.md"
HI = [{"role": "user", "content": "Hi?"}]
TURNS = [*HI, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Why?"}]


def said(text: str) -> list[dict[str, str]]:
    """A completion as a list of one turn."""
    return [{"role": "assistant", "content": text}]


@dataclass(frozen=True)
class Example:
    """A row, and the texts it is read as (prompt turns, and of a pair chosen and rejected), or why it is refused."""

    what: str
    row: dict[str, Any]
    read: str = ""
    refused: str = ""


PROMPTS = [
    Example("a text", {"prompt": "Hi?"}, "user: Hi?"),
    Example("turns", {"messages": TURNS}, "user: Hi? · assistant: Hello. · user: Why?"),
    Example("turns in `prompt`, as TRL has them", {"prompt": HI}, "user: Hi?"),
    Example("JSON in a cell", {"prompt": json.dumps(HI)}, "user: Hi?"),
    Example("Python's repr, as pandas writes it", {"messages": str(HI)}, "user: Hi?"),
    Example("turns in an object", {"prompt": {"messages": HI}}, "user: Hi?"),
    Example("ShareGPT", {"conversations": [{"from": "human", "value": "Hi?"}]}, "user: Hi?"),
    Example(
        "content in parts", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi?"}]}]}, "user: Hi?"
    ),
    Example(
        "an hh-rlhf transcript",
        {"prompt": "\n\nHuman: Hi?\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"},
        "user: Hi? · assistant: Hello. · user: Why?",
    ),
    Example(
        "a text that begins as a transcript does",
        {"prompt": "Human: rights are which?"},
        "user: Human: rights are which?",
    ),
    Example("a preference pair", {"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."}, "user: Hi?"),
    Example(
        "tool calls",
        {"messages": [*HI, {"role": "assistant", "content": "I look.", "tool_calls": [{"id": "1"}]}, *HI]},
        refused="turn 2 has 'tool_calls', which a message cannot hold",
    ),
    Example(
        "images",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        refused="turn 1 holds a part of type 'image_url'",
    ),
    Example(
        "a thought in an earlier turn",
        {"messages": [*HI, {"role": "assistant", "content": "<think>Hm.</think>Hello."}, *HI]},
        refused="turn 2 has what the assistant thought",
    ),
    Example(
        "a dialogue that ends with an answer",
        {"messages": [*HI, *said("Hello.")]},
        refused="the last turn is the assistant's",
    ),
]
PAIRS = [
    Example(
        "hh-rlhf",
        {"chosen": "\n\nHuman: Hi?\n\nAssistant: Hello.", "rejected": "\n\nHuman: Hi?\n\nAssistant: No."},
        "user: Hi? → Hello. | No.",
    ),
    Example(
        "texts (TRL, RewardBench)", {"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."}, "user: Hi? → Hello. | No."
    ),
    Example(
        "turns (TRL)", {"prompt": HI, "chosen": said("Hello."), "rejected": said("No.")}, "user: Hi? → Hello. | No."
    ),
    Example(
        "conversations that repeat the prompt (UltraFeedback)",
        {
            "prompt": "Hi?",
            "chosen": [*HI, *said("Hello.")],
            "rejected": [*HI, *said("No.")],
            "score_chosen": 8,
            "score_rejected": 3,
        },
        "user: Hi? → Hello. | No.",
    ),
    Example(
        "conversations without a prompt",
        {"chosen": [*HI, *said("Hello.")], "rejected": [*HI, *said("No.")]},
        "user: Hi? → Hello. | No.",
    ),
    Example(
        "lists of completions (RewardBench 2)",
        {"prompt": "Hi?", "chosen": ["Hello."], "rejected": ["No.", "Go."]},
        "user: Hi? → Hello. | No. and user: Hi? → Hello. | Go.",
    ),
    Example(
        "JudgeBench",
        {"question": "Hi?", "response_A": "No.", "response_B": "Hello.", "label": "B>A"},
        "user: Hi? → Hello. | No.",
    ),
    Example(
        "NeMo RL",
        {
            "context": HI,
            "completions": [{"rank": 0, "completion": said("Hello.")}, {"rank": 1, "completion": said("No.")}],
        },
        "user: Hi? → Hello. | No.",
    ),
    Example(
        "a thought before the answer",
        {"prompt": "Hi?", "chosen": "<think>Hm.</think>\n\nHello.", "rejected": "No."},
        "user: Hi? → Hello. | No. (reasoning: Hm.)",
    ),
    Example(
        "a thought that never ends",
        {"prompt": "Hi?", "chosen": "<think>Hm.", "rejected": "No."},
        refused="a thought that begins with <think> and never ends",
    ),
    Example(
        "equal scores",
        {"prompt": "Hi?", "chosen": "Hello.", "rejected": "No.", "score_chosen": 7, "score_rejected": 7},
        refused="neither completion is preferred",
    ),
    Example(
        "scores that say the opposite",
        {"prompt": "Hi?", "chosen": "Hello.", "rejected": "No.", "score_chosen": 2, "score_rejected": 8},
        refused="the scores say the opposite of the columns",
    ),
    Example(
        "votes that are no counts",
        {"prompt": "Hi?", "chosen": "Hello.", "rejected": "No.", "votes_chosen": 2.5},
        refused="votes_chosen is '2.5', which is no count",
    ),
]


def table(examples: list[Example]) -> str:
    """The examples as a table of the page."""
    lines = ["| what | a row | is read as |", "|---|---|---|"]
    for one in examples:
        row = json.dumps(one.row, ensure_ascii=False).replace("|", "\\|")
        read = one.read.replace("|", "\\|") or f"refused: {one.refused}"
        lines.append(f"| {one.what} | `{row}` | {read} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The text of docs/inputs.md with its tables made anew."""
    for name, examples in (("prompts", PROMPTS), ("pairs", PAIRS)):
        marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
        made = f"{marks[0]}\n{table(examples)}\n{marks[1]}"
        text = re.sub(rf"{marks[0]}\n.*?{marks[1]}", lambda _, made=made: made, text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
