"""Small tables of labelled pairs, and a tokenizer that counts characters: for tests of reward models."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from cai_dagster.models.chat_options import ChatOptions
from cai_dagster.models.messages import Messages
from cai_dagster.tables.registry import TABLES


class CharacterFormat:
    """A token for each character, and one before each turn."""

    def __init__(self, folder: Path = Path(), options: ChatOptions | None = None) -> None: ...

    def dialogue_ids(self, messages: Messages) -> list[int]:
        return [token for message in messages for token in (0, *map(ord, message.content))]


FORMAT: Any = CharacterFormat()


def turn(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def preference_pairs(*texts: tuple[str, str, str], split: str = "preference") -> pl.DataFrame:
    """AI-labelled pairs (prompt, chosen, rejected) with P(chosen) = 3/4."""
    rows = [
        {
            "constitution_version": "v1",
            "pair_id": f"{number:x}",
            "prompt_id": "ab",
            "prompt": turn("user", prompt),
            "chosen": turn("assistant", chosen),
            "rejected": turn("assistant", rejected),
            "p_chosen": 0.75,
            "label_policy": "soft",
            "source": "revisions",
            "split": split,
        }
        for number, (prompt, chosen, rejected) in enumerate(texts)
    ]
    return pl.DataFrame(rows, schema=TABLES["preference_pairs"].schema)


def human_preferences(*votes: tuple[int | None, int | None], split: str = "preference") -> pl.DataFrame:
    """Human-labelled pairs, the chosen one "good <number>"; each with its votes."""
    rows = [
        {
            "pair_id": f"{number + 100:x}",
            "prompt_id": f"{number + 100:x}",
            "prompt": turn("user", "human question"),
            "chosen": turn("assistant", f"good {number}"),
            "rejected": turn("assistant", f"bad {number}"),
            "votes_chosen": chosen,
            "votes_rejected": rejected,
            "category": None,
            "source": f"people.jsonl:{number + 1}",
            "split": split,
        }
        for number, (chosen, rejected) in enumerate(votes)
    ]
    return pl.DataFrame(rows, schema=TABLES["human_preferences"].schema)


def judged_tables(
    judged: Mapping[tuple[str, str], Mapping[str, float]], split: str = "preference"
) -> dict[str, pl.DataFrame]:
    """Tables of one pair (`ab`: "first" against "second"), judged: (principle, order) → P(A) and P(B) that were seen.

    The principles are `kind` and `honest`, with the ids `aa` and `bb`.
    """
    principle_ids = {"kind": "aa", "honest": "bb"}
    principles = [
        {
            "constitution_version": "v1",
            "principle_id": principle_id,
            "slug": slug,
            "critique_request": "?",
            "revision_request": "?",
            "comparison_request": f"Which one is more {slug}?",
            "weight": 1.0,
            "tags": [],
            "dialogues": [],
        }
        for slug, principle_id in principle_ids.items()
    ]
    prompt = {"prompt_id": "cd", "messages": turn("user", "question"), "source": "x:1", "sources": ["x:1"]}
    pair = {"pair_id": "ab", "prompt_id": "cd", "completion_0": "first", "completion_1": "second"}
    judgements = [
        {
            "constitution_version": "v1",
            "pair_id": "ab",
            "principle_id": principle_ids[slug],
            "order": order,
            "logp_a": math.log(seen["A"]),
            "logp_b": math.log(seen["B"]),
            "rationale": None,
            "feedback_model": "scripted",
            "request_id": "00",
            "method": "one_principle",
            "principle_ids": [principle_ids[slug]],
            "principle_weight": 1.0,
        }
        for (slug, order), seen in judged.items()
    ]
    pair |= {"constitution_version": "v1", "source": "revisions", "finish_reason_0": "stop", "finish_reason_1": "stop"}
    rows: dict[str, list[dict[str, Any]]] = {
        "response_pairs": [pair | {"request_id_0": "00", "request_id_1": "01"}],
        "judgements": judgements,
        "prompts": [prompt | {"category": None, "split": split}],
        "constitution": principles,
    }
    return {name: pl.DataFrame(some, schema=TABLES[name].schema) for name, some in rows.items()}
