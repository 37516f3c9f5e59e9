"""The supervised stage: which revisions a model is fine-tuned on, and as which token rows.

Bai et al. 2022, section 3: SL-CAI is trained on the revisions of all rounds. It knows no trainer.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from cai_dagster.hashing import content_hash_of_list
from cai_dagster.inputs.settings import Split
from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.models.messages import Messages, to_messages
from cai_dagster.training.settings import TrainedRounds

REVISED_PROMPTS = {"prompts": "FROM prompts", "revision_rounds": "FROM revision_rounds"}
"""What `supervised_examples` takes, by table."""


@dataclass(frozen=True)
class TokenRow:
    """A dialogue as tokens; `completion_mask` is 1 where the loss is taken."""

    input_ids: Sequence[int]
    completion_mask: Sequence[int]

    @classmethod
    def of(cls, input_ids: list[int], completion_start: int) -> "TokenRow":
        """A row of which the tokens from `completion_start` on are learned."""
        return cls(input_ids, [int(index >= completion_start) for index in range(len(input_ids))])


def supervised_examples(
    revision_rounds: pl.DataFrame, prompts: pl.DataFrame, split: Split, rounds: TrainedRounds
) -> pl.DataFrame:
    """`prompt_id`, `sample`, `round`, `messages` of the split's prompts: each ends with a revision."""
    examples = revision_rounds.join(
        prompts.filter(pl.col("split") == split).select("prompt_id", pl.col("messages").alias("prompt")), on="prompt_id"
    )
    if rounds == TrainedRounds.final:
        examples = examples.filter(pl.col("round") == pl.col("round").max().over("prompt_id", "sample"))
    answer = pl.struct(pl.lit("assistant").alias("role"), pl.col("revision").alias("content"))
    return examples.select(
        "prompt_id",
        "sample",
        "round",
        pl.concat_list("prompt", answer).alias("messages"),
    ).sort("prompt_id", "sample", "round")


def answered_prompts(responses: pl.DataFrame, prompts: pl.DataFrame) -> pl.DataFrame:
    """`prompt_id`, `sample`, `messages`: each prompt with a response (column `completion`)."""
    answer = pl.struct(pl.lit("assistant").alias("role"), pl.col("completion").alias("content"))
    return (
        responses.join(prompts.select("prompt_id", "messages"), on="prompt_id")
        .select("prompt_id", "sample", pl.concat_list("messages", answer).alias("messages"))
        .sort("prompt_id", "sample")
    )


def examples_hash(dialogues: Iterable[Messages]) -> str:
    """The training rows in their order, for the key of a checkpoint."""
    return content_hash_of_list([(turn.role, turn.content) for turn in messages] for messages in dialogues)


def token_rows(dialogues: Iterable[Messages], chat_format: ChatFormat, max_length: int) -> Iterator[TokenRow]:
    """The dialogues cut to `max_length` tokens, without those of which nothing to learn is left."""
    for messages in dialogues:
        row = TokenRow.of(chat_format.dialogue_ids(messages)[:max_length], chat_format.completion_start(messages))
        if any(row.completion_mask):
            yield row


def dialogues_of(examples: Iterable[Mapping[str, Any]]) -> Iterator[Messages]:
    """The `messages` of rows as messages."""
    return (to_messages(row["messages"]) for row in examples)
