"""What every judge is shown: the conversation, the completions, then the question, in one frame.

Every line of a quoted text begins with `>`, so that no completion can pose as the frame. The completions stand before
the principle, so that one cached prefix serves every principle judged on them. It knows no method and no model.
"""

from collections.abc import Sequence

from cai_dagster.constitution.constitution import Comparison
from cai_dagster.inputs.pairs import Order, Pair
from cai_dagster.models.messages import Message, Messages

LABELS = ("A", "B")
PREFILL = "The better response is ("
ANSWER = "Answer with (A) or (B)."


def comparison_question(pair: Pair, order: Order, request: str) -> str:
    """The pair, then what is asked about it."""
    first, second = pair.shown(order)
    return (
        'Compare two responses of an AI assistant to a conversation. Quoted lines begin with ">".\n\n'
        f"Conversation:\n{quote_turns(pair.prompt)}\n\n"
        f"Response (A):\n{quote(first)}\n\n"
        f"Response (B):\n{quote(second)}\n\n"
        f"{request}"
    )


def example_question(comparison: Comparison, request: str) -> str:
    """The same of a few-shot example."""
    prompt = (Message("user", comparison.prompt),)
    return comparison_question(Pair("", "", prompt, comparison.response_a, comparison.response_b), "01", request)


def example_answer(comparison: Comparison) -> Message:
    """The answer of a few-shot example, in the words that PREFILL begins."""
    return Message("assistant", f"{PREFILL}{comparison.better}).")


def example_turns(question: str, comparison: Comparison) -> Messages:
    """A few-shot example as two turns."""
    return (Message("user", question), example_answer(comparison))


def dialogue(examples: Sequence[Messages], question: str) -> Messages:
    """The turns of the few-shot examples, one after the other, then the real question."""
    return (*(turn for example in examples for turn in example), Message("user", question))


def quote_turns(conversation: Messages) -> str:
    """Each turn, quoted, under its role."""
    return "\n".join(f"{message.role}:\n{quote(message.content)}" for message in conversation)


def quote(text: str) -> str:
    """The text with `> ` before each of its lines, whatever it uses as line breaks."""
    return "\n".join(f"> {line}" for line in text.splitlines() or [""])
