"""Critique and revision: a model finds fault with its own response under a principle and rewrites it.

Bai et al. 2022, section 3.1. It knows no engine and no table: dialogues in, texts out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cai_dagster.calls.requests import Completion, LanguageModel, Request, Slot
from cai_dagster.constitution.constitution import Constitution, Dialogue, Principle
from cai_dagster.models.messages import Message, Messages
from cai_dagster.recipes.settings import RevisionRoundsSettings

CRITIQUE = "revision_rounds/critique"
REVISION = "revision_rounds/revision"
DRAW = "revision_rounds"


@dataclass(frozen=True)
class Round:
    """Round i: the principle c_i, what was criticised (y^(i-1)), the critique and the revision y^i."""

    number: int
    principle: Principle
    response: str
    critique: Completion
    revision: Completion

    def to_row(self) -> dict[str, Any]:
        """The columns of `revision_rounds` that one round decides."""
        return {
            "round": self.number,
            "principle_id": self.principle.id,
            "response": self.response,
            "critique": self.critique.text,
            "revision": self.revision.text,
            "critique_reasoning": self.critique.reasoning,
            "revision_reasoning": self.revision.reasoning,
            "critique_finish_reason": self.critique.finish_reason,
            "revision_finish_reason": self.revision.finish_reason,
            "critique_request_id": self.critique.request_id,
            "revision_request_id": self.revision.request_id,
        }


async def revise(
    model: LanguageModel,
    constitution: Constitution,
    prompt_id: str,
    sample: int,
    prompt: Messages,
    response: str,
    settings: RevisionRoundsSettings,
) -> list[Round]:
    """y^1 … y^n: critique the latest response under a freshly drawn principle, then rewrite it."""
    rounds: list[Round] = []
    for number in range(1, settings.rounds + 1):
        (principle,) = constitution.draw(prompt_id, DRAW, number, seed=settings.seed)
        dialogue = critique_messages(constitution.dialogues, prompt, response, principle)
        slot = Slot(CRITIQUE, prompt_id, number, sample)
        critique = await model.complete(Request(dialogue, slot, settings.critique_sampling))
        dialogue = revision_messages(dialogue, critique.text, principle)
        slot = Slot(REVISION, prompt_id, number, sample)
        revision = await model.complete(Request(dialogue, slot, settings.revision_sampling))
        rounds.append(Round(number, principle, response, critique, revision))
        response = revision.text
    return rounds


def critique_messages(dialogues: Sequence[Dialogue], prompt: Messages, response: str, principle: Principle) -> Messages:
    """The few-shot dialogues, then the prompt, its response and the principle's critique request."""
    examples = [turn for dialogue in dialogues for turn in _example_turns(dialogue)]
    # A system prompt of the user's own dialogue stays where chat templates want it: first.
    system = tuple(message for message in prompt if message.role == "system")
    turns = tuple(message for message in prompt if message.role != "system")
    return (
        *system,
        *examples,
        *turns,
        Message("assistant", response),
        Message("user", principle.critique_request),
    )


def revision_messages(critique_dialogue: Messages, critique: str, principle: Principle) -> Messages:
    """The critique's dialogue continued: the critique as the model's turn, then the revision request."""
    return (*critique_dialogue, Message("assistant", critique), Message("user", principle.revision_request))


def _example_turns(dialogue: Dialogue) -> Messages:
    return (
        Message("user", dialogue.prompt),
        Message("assistant", dialogue.response),
        Message("user", dialogue.critique_request),
        Message("assistant", dialogue.critique),
        Message("user", dialogue.revision_request),
        Message("assistant", dialogue.revision),
    )
