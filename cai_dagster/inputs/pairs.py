"""A pair: two completions of one prompt, its id, and its row in `response_pairs`."""

from dataclasses import dataclass
from typing import Any, Literal

from cai_dagster.calls.requests import Completion
from cai_dagster.hashing import ROW_ID_DIGITS, content_hash
from cai_dagster.models.messages import Messages

Order = Literal["01", "10"]


@dataclass(frozen=True)
class Pair:
    """Two completions of one prompt. `revision_request_id`: the call that made completion_1 out of completion_0."""

    pair_id: str
    prompt_id: str
    prompt: Messages
    completion_0: str
    completion_1: str
    revision_request_id: str | None = None

    def shown(self, order: Order) -> tuple[str, str]:
        """What stands as (A) and as (B)."""
        texts = (self.completion_0, self.completion_1)
        return texts if order == "01" else (texts[1], texts[0])


def pair_id(prompt_id: str, completion_0: str, completion_1: str) -> str:
    """Hash of the prompt id and both completions, in this order: an unchanged pair keeps its judgements."""
    return content_hash([prompt_id, completion_0, completion_1], ROW_ID_DIGITS)


def in_hash_order(chosen: str, rejected: str) -> tuple[str, str]:
    """The completions as completion_0 and completion_1: in the order of their hashes, which knows no preference.

    Where the chosen one always came first, a judge that likes (A) would seem to agree with everybody.
    """
    first, second = sorted((chosen, rejected), key=content_hash)
    return first, second


def pair_row(prompt_id: str, source: str, first: Completion, second: Completion) -> dict[str, Any]:
    """One row of `response_pairs`; its id follows the texts, so an unchanged pair keeps its judgements."""
    return {
        "pair_id": pair_id(prompt_id, first.text, second.text),
        "prompt_id": prompt_id,
        "source": source,
        "completion_0": first.text,
        "completion_1": second.text,
        "reasoning_0": first.reasoning,
        "reasoning_1": second.reasoning,
        "finish_reason_0": first.finish_reason,
        "finish_reason_1": second.finish_reason,
        "request_id_0": first.request_id,
        "request_id_1": second.request_id,
    }
