"""Texts to be scored by a reward model, as JSON lines: what `cai score` and benchmark files hold, and what comes out.

A line is a completion, `{"prompt": …, "completion": …}`, or a pair, `{"prompt": …, "chosen": …, "rejected": …}`, with
`messages` (role and content) in place of `prompt` for a dialogue, and a `principle` where the reward model reads one.
It loads no model: rewards come from a function that is handed in.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from cai_dagster.errors import MendableError, RowError
from cai_dagster.hashing import content_hash
from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.models.messages import Message, Messages
from cai_dagster.models.weights import has_weights
from cai_dagster.training.checkpoint_folders import CheckpointError
from cai_dagster.training.checkpoints import read_record
from cai_dagster.training.reward_modelling import TokenPair, conditioned

LINES_AT_ONCE = 32  # of which those of like length are scored together
_ROLES = ("system", "user", "assistant")
_KEPT = ("id", "subset", "principle")  # of a line, for whoever reads the result

Rewards = Callable[[Sequence[Sequence[int]]], list[float]]


class UnscorableLineError(RowError):
    """A line that is not a text to be scored; the message names the field."""

    code = "unscorable_line"


class BenchmarkError(MendableError):
    """A benchmark file that cannot be read."""


@dataclass(frozen=True)
class TextsToScore:
    """The prompt of a line and its completions: one, or chosen and rejected."""

    prompt: Messages
    completions: tuple[str, ...]
    principle: str | None
    kept: dict[str, Any]


@dataclass(frozen=True)
class ScoredLine:
    """A line of the input: its result, or why it has none."""

    line: int
    result: dict[str, Any]
    error: str | None = None


@dataclass(frozen=True)
class Reading:
    """How a reward model reads texts: its tokens, how many of them, and whether a principle comes first."""

    chat_format: ChatFormat
    max_length: int
    principle_conditioned: bool

    def token_rows(self, texts: TextsToScore) -> list[list[int]]:
        """Each completion with its prompt, as a reward model is trained on it.

        Raises UnscorableLineError where a principle is missing, or given to a model that reads none, and for a pair
        that truncation makes identical.
        """
        if self.principle_conditioned and texts.principle is None:
            raise UnscorableLineError("this reward model scores under a principle, and the line has no `principle`")
        if not self.principle_conditioned and texts.principle is not None:
            raise UnscorableLineError("this reward model was not trained to read a `principle`; leave it out")
        prompt = conditioned(texts.prompt, texts.principle)
        dialogues = [(*prompt, Message("assistant", text)) for text in texts.completions]
        rows = [self.chat_format.dialogue_ids(dialogue)[: self.max_length] for dialogue in dialogues]
        if len(rows) == 2 and rows[0] == rows[1]:
            raise UnscorableLineError(f"chosen and rejected are identical in their first {self.max_length} tokens")
        return rows


def reading_of(folder: Path) -> Reading:
    """How the reward model in a folder reads texts; one that was not trained here has no record and no principle.

    Raises CheckpointError where the folder holds no classifier with one output, or none in safetensors.
    """
    if not has_weights(folder):
        raise CheckpointError(f"{folder}: no safetensors file; convert the model with transformers' save_pretrained")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    labels = config.get("id2label", {})
    architectures = cast("list[str]", config.get("architectures") or [])
    if not any("SequenceClassification" in name for name in architectures) or len(labels) != 1:
        raise CheckpointError(f"{folder}: not a reward model (a sequence classifier with one output)")
    max_length, principle_conditioned = int(config["max_position_embeddings"]), False
    if (folder / "record.json").exists():
        trained_with = read_record(folder).settings
        max_length = int(trained_with["max_length"])
        principle_conditioned = bool(trained_with.get("principle_conditioned", False))
    return Reading(ChatFormat(folder), max_length, principle_conditioned)


def parse_line(text: str) -> TextsToScore:
    """Read one JSON line. Raises UnscorableLineError with the field and what it should be."""
    try:
        row = json.loads(text)
    except ValueError as error:
        raise UnscorableLineError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise UnscorableLineError("not a JSON object")
    fields = cast("dict[str, Any]", row)
    if ("prompt" in fields) == ("messages" in fields):
        raise UnscorableLineError("needs either `prompt` or `messages`")
    prompt = _dialogue(fields, "prompt" if "prompt" in fields else "messages")
    names = ("completion",) if "completion" in fields else ("chosen", "rejected")
    if "completion" in fields and ("chosen" in fields or "rejected" in fields):
        raise UnscorableLineError("needs either `completion`, or `chosen` and `rejected`")
    completions = tuple(_completion(fields, name) for name in names)
    principle = None if fields.get("principle") is None else _text(fields["principle"], "principle")
    return TextsToScore(prompt, completions, principle, {name: fields[name] for name in _KEPT if name in fields})


def score_lines(lines: Iterable[str], reading: Reading, rewards: Rewards, batch_size: int) -> Iterator[ScoredLine]:
    """Each line that is not blank, in its order, a few at a time; a bad one stops no other."""
    numbered = ((number, text) for number, text in enumerate(lines, start=1) if text.strip())
    while some := list(islice(numbered, LINES_AT_ONCE)):
        read = [(number, _read(text, reading)) for number, text in some]
        rows = [row for _, one in read if not isinstance(one, RowError) for row in one[1]]
        made = _rewards(rows, rewards, batch_size)
        for number, one in read:
            if isinstance(one, RowError):
                yield ScoredLine(number, {}, str(one))
            else:
                texts, ids = one
                yield ScoredLine(number, _result(number, texts, [next(made) for _ in ids]))


def read_benchmark(file: Path, reading: Reading) -> tuple[dict[str, list[TokenPair]], list[ScoredLine]]:
    """The pairs of a benchmark by `subset` (of certain labels), and the lines that are none.

    Raises BenchmarkError when the file cannot be read.
    """
    subsets: dict[str, list[TokenPair]] = {}
    rejected: list[ScoredLine] = []
    try:
        with file.open(encoding="utf-8", errors="surrogateescape") as lines:
            for number, text in enumerate(lines, start=1):
                if not text.strip():
                    continue
                try:
                    subset, pair = _benchmark_pair(text, reading)
                except RowError as error:
                    rejected.append(ScoredLine(number, {"line": text}, str(error)))
                else:
                    subsets.setdefault(subset, []).append(pair)
    except OSError as error:
        raise BenchmarkError(f"benchmark {file}: {error.strerror}") from error
    return subsets, rejected


def _benchmark_pair(text: str, reading: Reading) -> tuple[str, TokenPair]:
    texts = parse_line(text)
    if len(texts.completions) != 2:
        raise UnscorableLineError("a benchmark has pairs: `chosen` and `rejected`")
    chosen, rejected = reading.token_rows(texts)
    lengths = [len(completion) for completion in texts.completions]
    prompt_id = content_hash([(turn.role, turn.content) for turn in texts.prompt])
    pair = TokenPair(chosen, rejected, 1.0, lengths[0], lengths[1], prompt_id=prompt_id)
    return _text(texts.kept.get("subset", "all"), "subset"), pair


def _read(text: str, reading: Reading) -> tuple[TextsToScore, list[list[int]]] | RowError:
    try:
        texts = parse_line(text)
        return texts, reading.token_rows(texts)
    except RowError as error:
        return error


def _rewards(rows: list[list[int]], rewards: Rewards, batch_size: int) -> Iterator[float]:
    """Rewards in the order of the rows; rows of like length share a batch."""
    by_length = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    made = dict[int, float]()
    for start in range(0, len(rows), batch_size):
        batch = by_length[start : start + batch_size]
        made.update(zip(batch, rewards([rows[index] for index in batch]), strict=True))
    return (made[index] for index in range(len(rows)))


def _result(line: int, texts: TextsToScore, rewards: list[float]) -> dict[str, Any]:
    result: dict[str, Any] = {"line": line, **texts.kept}
    if len(rewards) == 1:
        return {**result, "reward": rewards[0]}
    margin = rewards[0] - rewards[1]
    p_chosen = 1 / (1 + math.exp(-margin)) if margin >= 0 else math.exp(margin) / (1 + math.exp(margin))
    return {
        **result,
        "reward_chosen": rewards[0],
        "reward_rejected": rewards[1],
        "margin": margin,
        "p_chosen": p_chosen,
    }


def _dialogue(fields: dict[str, Any], name: str) -> Messages:
    """A text is one turn of the user's; a dialogue ends with one."""
    value = fields[name]
    if isinstance(value, str):
        return (Message("user", _text(value, name)),)
    messages = _turns(value, name)
    if messages[-1].role != "user":
        raise UnscorableLineError(f"`{name}` ends with a turn of the {messages[-1].role}; its last is the user's")
    return messages


def _completion(fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        raise UnscorableLineError(f"has no `{name}`: needs either `completion`, or `chosen` and `rejected`")
    value = fields[name]
    if isinstance(value, str):
        return _text(value, name)
    messages = _turns(value, name)
    if len(messages) != 1 or messages[0].role != "assistant":
        raise UnscorableLineError(f"`{name}` is a text, or a list of one message of the assistant")
    return messages[0].content


def _turns(value: Any, name: str) -> Messages:
    if not isinstance(value, list) or not value:
        raise UnscorableLineError(f"`{name}` is neither a text nor a list of messages")
    messages: list[Message] = []
    for number, turn in enumerate(cast("list[Any]", value)):
        place = f"{name}[{number}]"
        if not isinstance(turn, dict) or turn.keys() != {"role", "content"}:
            raise UnscorableLineError(f"`{place}` is not a message with `role` and `content`")
        if turn["role"] not in _ROLES:
            raise UnscorableLineError(f"`{place}.role` is {turn['role']!r}, and may be {', '.join(_ROLES)}")
        messages.append(Message(turn["role"], _text(turn["content"], f"{place}.content")))
    return tuple(messages)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UnscorableLineError(f"`{name}` is not a text with something in it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UnscorableLineError(f"`{name}` is not UTF-8: {error.reason}") from error
    return value
