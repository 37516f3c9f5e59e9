"""Texts to be scored by a reward model, as JSON lines: what `cai score` and benchmark files hold, and what comes out.

A line is a completion, `{"prompt": …, "completion": …}`, or a pair, `{"prompt": …, "chosen": …, "rejected": …}`, with
`messages` (role and content) in place of `prompt` for a dialogue, and a `principle` where the reward model reads one.
It loads no model: rewards come from a function that is handed in.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from cai_dagster.errors import MendableError, RowError
from cai_dagster.hashing import content_hash
from cai_dagster.inputs.cells import category_in
from cai_dagster.inputs.dialogues import answer_of, prompt_of, turns_of, turns_or_text
from cai_dagster.inputs.files import Expected, SourceFileError, source_rows
from cai_dagster.inputs.human_preferences import refuse_by_scores
from cai_dagster.inputs.preference_rows import pairs_of
from cai_dagster.inputs.settings import PreferenceColumns
from cai_dagster.inputs.strict_json import JsonTextError, parsed_json
from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.models.messages import Message, Messages
from cai_dagster.models.weights import has_weights
from cai_dagster.training.checkpoint_folders import CheckpointError
from cai_dagster.training.checkpoints import read_record
from cai_dagster.training.reward_modelling import TokenPair, conditioned

LINES_AT_ONCE = 32  # of which those of like length are scored together
_NO_LIMIT = 10**9  # transformers writes 10^30 where a tokenizer has none
PAIR_COLUMNS = PreferenceColumns(prompt_column="prompt", chosen_column="chosen", rejected_column="rejected")
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
class RejectedLine:
    """A row of a benchmark that is no pair: where it stands, why, and its cells."""

    place: str
    reason: str
    row: Mapping[str, Any]


@dataclass(frozen=True)
class TokenRows:
    """The token ids of each completion with its prompt, and how many tokens of each were cut."""

    ids: list[list[int]]
    cut: list[int]


@dataclass(frozen=True)
class Reading:
    """How a reward model reads texts: its tokens, how many of them (None: any), and whether a principle comes first."""

    chat_format: ChatFormat
    max_length: int | None
    principle_conditioned: bool

    def token_rows(self, texts: TextsToScore) -> TokenRows:
        """Each completion with its prompt, as a reward model is trained on it, and how much of its end is cut.

        Raises UnscorableLineError where a principle is missing, or given to a model that reads none, and for a pair
        that truncation makes identical.
        """
        if self.principle_conditioned and texts.principle is None:
            raise UnscorableLineError("this reward model scores under a principle, and the line has no `principle`")
        if not self.principle_conditioned and texts.principle is not None:
            raise UnscorableLineError("this reward model was not trained to read a `principle`; leave it out")
        prompt = conditioned(texts.prompt, texts.principle)
        dialogues = [(*prompt, Message("assistant", text)) for text in texts.completions]
        whole = [self.chat_format.dialogue_ids(dialogue) for dialogue in dialogues]
        rows = [ids[: self.max_length] for ids in whole]
        if len(rows) == 2 and rows[0] == rows[1]:
            raise UnscorableLineError(f"chosen and rejected are identical in their first {self.max_length} tokens")
        return TokenRows(rows, [len(ids) - len(row) for ids, row in zip(whole, rows, strict=True)])


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
    chat_format, principle_conditioned = ChatFormat(folder), False
    tokenizer: Any = chat_format.tokenizer
    max_length = context_of(config, tokenizer.model_max_length)
    if (folder / "record.json").exists():
        trained_with = read_record(folder).settings
        max_length = int(trained_with["max_length"])
        principle_conditioned = bool(trained_with.get("principle_conditioned", False))
    return Reading(chat_format, max_length, principle_conditioned)


def context_of(config: Mapping[str, Any], longest_of_tokenizer: int) -> int | None:
    """How many tokens a model reads, by its configuration or else its tokenizer; None where neither has a limit."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        if isinstance(config.get(name), int):
            return config[name]
    return longest_of_tokenizer if longest_of_tokenizer < _NO_LIMIT else None


def parse_line(text: str) -> TextsToScore:
    """Read one JSON line. Raises UnscorableLineError with the field and what it should be."""
    try:
        row = parsed_json(text)
    except JsonTextError as error:
        raise UnscorableLineError(str(error)) from error
    if not isinstance(row, dict):
        raise UnscorableLineError("not a JSON object")
    fields = cast("dict[str, Any]", row)
    if "completion" not in fields:
        found = pairs_to_score(fields)
        if len(found) > 1:
            raise UnscorableLineError(f"it has {len(found)} pairs; write one a line")
        return found[0]
    if "chosen" in fields or "rejected" in fields:
        raise UnscorableLineError("needs either `completion`, or `chosen` and `rejected`")
    try:
        name, cell = _prompt_cell(fields)
        prompt = prompt_of(turns_or_text(cell, name) if name == "prompt" else turns_of(cell, name))
        return _texts(fields, prompt, answer_of(fields["completion"], "the completion").text)
    except RowError as error:
        raise UnscorableLineError(error.reason) from error


def pairs_to_score(fields: Mapping[str, Any]) -> list[TextsToScore]:
    """The pairs of a row, in any layout of preference data sets. Raises UnscorableLineError where there is none."""
    try:
        cells = {**fields, "prompt": _prompt_cell(fields)[1]} if "messages" in fields else fields
        return [_texts(fields, pair.prompt, pair.chosen, pair.rejected) for pair in pairs_of(cells, PAIR_COLUMNS)]
    except RowError as error:
        raise UnscorableLineError(error.reason) from error


def _prompt_cell(fields: Mapping[str, Any]) -> tuple[str, Any]:
    if ("prompt" in fields) == ("messages" in fields):
        raise UnscorableLineError("needs either `prompt` or `messages`")
    name = "prompt" if "prompt" in fields else "messages"
    return name, fields[name]


def _texts(fields: Mapping[str, Any], prompt: Messages, *completions: str) -> TextsToScore:
    principle = fields.get("principle")
    if principle is not None and not (isinstance(principle, str) and principle.strip()):
        raise UnscorableLineError("`principle` is not a text with something in it")
    return TextsToScore(prompt, completions, principle, {name: fields[name] for name in _KEPT if name in fields})


def score_lines(lines: Iterable[str], reading: Reading, rewards: Rewards, batch_size: int) -> Iterator[ScoredLine]:
    """Each line that is not blank, in its order, a few at a time; a bad one stops no other."""
    numbered = ((number, text) for number, text in enumerate(lines, start=1) if text.strip())
    while some := list(islice(numbered, LINES_AT_ONCE)):
        read = [(number, _read(text, reading)) for number, text in some]
        rows = [row for _, one in read if not isinstance(one, RowError) for row in one[1].ids]
        made = _rewards(rows, rewards, batch_size)
        for number, one in read:
            if isinstance(one, RowError):
                yield ScoredLine(number, {}, str(one))
            else:
                texts, found = one
                yield ScoredLine(number, _result(number, texts, [next(made) for _ in found.ids], found.cut))


def read_benchmark(
    path: Path, reading: Reading, report: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, list[TokenPair]], list[RejectedLine]]:
    """The pairs of a benchmark by `subset` (of certain labels), and the rows that are none. `report` is told of cuts.

    A file or a folder in any format that `inputs.files` reads, in any layout of pairs: of RewardBench 2, whose rows
    hold lists, every chosen completion is paired with every rejected one. Raises BenchmarkError when it cannot be read.
    """
    subsets: dict[str, list[TokenPair]] = {}
    rejected: list[RejectedLine] = []
    cut = 0
    try:
        for row in source_rows([str(path.absolute())], Expected("benchmark")):
            try:
                if row.problem is not None:
                    raise UnscorableLineError(row.problem)
                refuse_by_scores(row.cells, "score_chosen", "score_rejected")
                pairs = [(texts, reading.token_rows(texts)) for texts in pairs_to_score(row.cells)]
                subset = category_in(row.cells, "subset") or "all"
                subsets.setdefault(subset, []).extend(_token_pair(texts, rows) for texts, rows in pairs)
                cut += sum(tokens > 0 for _, rows in pairs for tokens in rows.cut)
            except RowError as error:
                rejected.append(RejectedLine(row.place, str(error), row.cells))
    except SourceFileError as error:
        raise BenchmarkError(str(error)) from error
    if cut:
        report(f"{path.name}: {cut:,} texts are longer than {reading.max_length} tokens; their ends are not read")
    return subsets, rejected


def _token_pair(texts: TextsToScore, rows: TokenRows) -> TokenPair:
    lengths = [len(completion) for completion in texts.completions]
    prompt_id = content_hash([(turn.role, turn.content) for turn in texts.prompt])
    chosen, rejected = rows.ids
    return TokenPair(chosen, rejected, 1.0, lengths[0], lengths[1], prompt_id=prompt_id)


def _read(text: str, reading: Reading) -> tuple[TextsToScore, TokenRows] | RowError:
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


def _result(line: int, texts: TextsToScore, rewards: list[float], cut: Sequence[int]) -> dict[str, Any]:
    result: dict[str, Any] = {"line": line, **texts.kept}
    names = ("tokens_cut",) if len(rewards) == 1 else ("tokens_cut_chosen", "tokens_cut_rejected")
    result |= {name: tokens for name, tokens in zip(names, cut, strict=True) if tokens}
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
