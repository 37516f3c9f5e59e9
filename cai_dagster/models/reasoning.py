"""Reasoning: what a model thinks before it answers, kept apart from the answer.

Which marks enclose a thought differs between families of models. It knows neither templates nor engines.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ReasoningMarks:
    """The texts around a thought. `close` is followed by the answer."""

    open: str
    close: str


THINK = ReasoningMarks("<think>", "</think>")
_WITH_THINK = (
    *("deepseek_r1", "deepseek_v3", "deepseek_v4", "ernie45", "glm45", "glm47", "kimi_k2", "minimax_m2", "olmo3"),
    *("qwen3", "step3"),
)
FAMILIES = {
    **dict.fromkeys(_WITH_THINK, THINK),
    "cohere_command3": ReasoningMarks("<|START_THINKING|>", "<|END_THINKING|>"),
    "minimax_m3": ReasoningMarks("<mm:think>", "</mm:think>"),
    "mistral": ReasoningMarks("[THINK]", "[/THINK]"),
    "openai_gptoss": ReasoningMarks(
        "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"
    ),
    "plamo3": ReasoningMarks("<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>"),
    "seed_oss": ReasoningMarks("<seed:think>", "</seed:think>"),
}
"""Marks by the name of vLLM's reasoning parser for the family."""


@dataclass(frozen=True)
class SaidAndThought:
    """What a model said, and what it thought before, if that is known."""

    text: str
    reasoning: str | None = None


class UnfinishedThoughtError(ValueError):
    """A thought begins and never ends: there is no answer."""


def split_reasoning(text: str, marks: ReasoningMarks) -> SaidAndThought:
    """The answer and the thought that the text begins with.

    Raises UnfinishedThoughtError where the thought never ends.
    """
    thought, closed, answer = text.lstrip().removeprefix(marks.open).partition(marks.close)
    if not closed:
        raise UnfinishedThoughtError(f"a thought that begins with {marks.open} and never ends")
    return SaidAndThought(answer.lstrip(), thought.strip() or None)


def answer_in_text(text: str, marks: ReasoningMarks | None = None) -> SaidAndThought:
    """The answer of a model's text, and the thought at its beginning. `marks`: those of a model of no known family.

    Raises UnfinishedThoughtError where the thought never ends.
    """
    for one in (*((marks,) if marks else ()), *dict.fromkeys(FAMILIES.values())):
        if text.lstrip().startswith(one.open):
            return split_reasoning(text, one)
    return SaidAndThought(text)


def answer_in_file(text: str) -> SaidAndThought:
    """The answer in a text that any model may have written: only a thought at its very beginning is one.

    Raises UnfinishedThoughtError for a thought that never ends, and for one that ends without a beginning.
    """
    answer = answer_in_text(text)
    if answer.text != text:
        return answer
    for marks in dict.fromkeys(FAMILIES.values()):
        if re.search(rf"^\s*{re.escape(marks.close)}\s*$", text, re.MULTILINE) and marks.open not in text:
            raise UnfinishedThoughtError(
                f"a thought that ends with {marks.close} and does not begin: write {marks.open}"
            )
    return SaidAndThought(text)
