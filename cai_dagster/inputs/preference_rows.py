"""Rows of preference data sets: a prompt and two completions, in the layouts that are in use.

A layout is recognised from the row's columns and their content, or named. Transcripts and conversations are split at
the last assistant turn after the prefix that both share, never after a fixed number of turns. It knows no files, no
ids and no tables.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from cai_dagster.errors import RowError
from cai_dagster.inputs.dialogues import (
    BadDialogueError,
    Turn,
    answer_in_turn,
    answer_of,
    answered,
    prompt_of,
    turns_in_list,
    turns_of,
    turns_of_transcript,
    turns_or_text,
    without_empty_answer,
)
from cai_dagster.inputs.preference_formats import PreferenceFormat
from cai_dagster.inputs.settings import PreferenceColumns
from cai_dagster.inputs.transcripts import NoTranscriptError, begins_with_a_speaker, is_transcript
from cai_dagster.models.messages import Messages
from cai_dagster.models.reasoning import SaidAndThought

RANKED = ("context", "completions")
"""The columns of NeMo RL's preference format: turns, and completions with their ranks."""
JUDGEBENCH = ("question", "response_A", "response_B", "label")
"""The columns of JudgeBench (Tan et al. 2024, arXiv:2410.12784)."""

UNPAIRED = ("completion", "label")
"""The columns of KTO's format besides the prompt: `unpaired_rows` makes pairs of its rows."""


class BadPairError(RowError):
    """A row is no prompt with two completions; the message is the reason."""

    code = "bad_pair"


class DifferentPromptsError(RowError):
    """The two completions do not answer the same conversation."""

    code = "different_prompts"


class IdenticalCompletionsError(RowError):
    """Both completions are the same text: there is nothing to prefer."""

    code = "identical_completions"


@dataclass(frozen=True)
class SplitPair:
    """A prompt, two completions and, where a model thought before one, its reasoning."""

    prompt: Messages
    chosen: str
    rejected: str
    chosen_reasoning: str | None = None
    rejected_reasoning: str | None = None


Conversations = tuple[list[Turn], SaidAndThought, SaidAndThought]


def pairs_of(
    row: Mapping[str, Any], columns: PreferenceColumns, layout: PreferenceFormat = PreferenceFormat.auto
) -> list[SplitPair]:
    """The pairs of a row: one; of lists of completions (RewardBench 2) every chosen with every rejected.

    Raises BadPairError where the row has no such layout, DifferentPromptsError where the conversations differ before
    their last turn, EmptyCompletionError and IdenticalCompletionsError.
    """
    prompt, chosen, rejected = _cells(row, columns, layout)
    if _is_list_of_texts(chosen) and _is_list_of_texts(rejected):
        pairs = [(one, other) for one in chosen for other in rejected]
        if not pairs:
            raise BadPairError("a row needs a chosen completion and a rejected one")
        return [_pair(prompt, one, other, layout) for one, other in pairs]
    return [_pair(prompt, chosen, rejected, layout)]


def split_pair(
    row: Mapping[str, Any], columns: PreferenceColumns, layout: PreferenceFormat = PreferenceFormat.auto
) -> SplitPair:
    """The first pair of a row, as `pairs_of`."""
    return pairs_of(row, columns, layout)[0]


def layout_of_row(row: Mapping[str, Any], columns: PreferenceColumns) -> PreferenceFormat:
    """How the row is written, as far as its cells say."""
    if all(row.get(name) for name in RANKED):
        return PreferenceFormat.nemo
    if all(row.get(name) for name in JUDGEBENCH):
        return PreferenceFormat.judgebench
    if row.get(columns.chosen_column) is None and all(name in row for name in UNPAIRED):
        return PreferenceFormat.kto
    return _recognised(row.get(columns.prompt_column), row.get(columns.chosen_column))


def _cells(row: Mapping[str, Any], columns: PreferenceColumns, layout: PreferenceFormat) -> tuple[Any, Any, Any]:
    """What the row has as prompt, as chosen and as rejected."""
    named = (columns.chosen_column, columns.rejected_column)
    if layout == PreferenceFormat.auto and any(row.get(column) is None for column in named):
        layout = layout_of_row(row, columns)
    if layout == PreferenceFormat.nemo:
        return _ranked(row)
    if layout == PreferenceFormat.judgebench:
        return _judged(row)
    for column in named:
        if row.get(column) is None:
            raise BadPairError(f"there is no {column!r} in the row; it has {sorted(map(str, row))}")
    return row.get(columns.prompt_column), row[columns.chosen_column], row[columns.rejected_column]


def _ranked(row: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """NeMo RL: the completion of rank 0 is the chosen one."""
    completions = row.get("completions")
    ranked = cast("list[Mapping[str, Any]]", completions) if _is_list_of_objects(completions) else []
    found = {one.get("rank"): one.get("completion") for one in ranked}
    if sorted(map(str, found)) != ["0", "1"] or len(ranked) != 2:
        raise BadPairError("completions has to hold two, one of rank 0 (chosen) and one of rank 1 (rejected)")
    return row.get("context"), found[0], found[1]


def _judged(row: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """JudgeBench: which of two responses is right is in the label, `A>B` or `B>A`."""
    sides = {"A>B": ("response_A", "response_B"), "B>A": ("response_B", "response_A")}
    label = str(row.get("label")).replace(" ", "")
    if label not in sides:
        raise BadPairError(f"label is {label[:40]!r}; it has to be A>B or B>A")
    chosen, rejected = sides[label]
    return row.get("question"), row.get(chosen), row.get(rejected)


def _pair(prompt: object, chosen: object, rejected: object, layout: PreferenceFormat) -> SplitPair:
    if chosen == rejected:
        raise IdenticalCompletionsError("chosen and rejected are the same")
    turns, better, worse = _reader(prompt, chosen, layout)(prompt, chosen, rejected)
    if better.text.strip() == worse.text.strip():
        raise IdenticalCompletionsError("chosen and rejected are the same text but for white space at its ends")
    return SplitPair(prompt_of(turns), better.text, worse.text, better.reasoning, worse.reasoning)


def _reader(
    prompt: object, chosen: object, layout: PreferenceFormat
) -> Callable[[object, object, object], Conversations]:
    return _LAYOUTS[layout if layout in _LAYOUTS else _recognised(prompt, chosen)]


def _recognised(prompt: object, chosen: object) -> PreferenceFormat:
    if isinstance(chosen, str) and (is_transcript(chosen) or (prompt is None and begins_with_a_speaker(chosen))):
        return PreferenceFormat.hh_rlhf
    return PreferenceFormat.trl_implicit if prompt is None else PreferenceFormat.trl_explicit


def _from_transcripts(_prompt: object, chosen: object, rejected: object) -> Conversations:
    """hh-rlhf: whole transcripts with Human: and Assistant: (Bai et al. 2022, arXiv:2204.05862)."""
    return _split_conversations(*(_transcript(one) for one in (chosen, rejected)))


def _transcript(value: object) -> list[Turn]:
    if not isinstance(value, str):
        raise BadPairError(f"a text was expected, and found {str(value)[:80]!r}")
    try:
        return turns_of_transcript(value)
    except NoTranscriptError as error:
        raise BadPairError(str(error)) from error


def _explicit(prompt: object, chosen: object, rejected: object) -> Conversations:
    """TRL's explicit prompt; RewardBench; UltraFeedback, whose conversations repeat the prompt."""
    conversations = [_conversation(one, name) for one, name in ((chosen, "chosen"), (rejected, "rejected"))]
    if all(conversation[0].role != "assistant" for conversation in conversations):
        return _split_conversations(*conversations)  # the prompt is repeated there
    try:
        turns = turns_or_text(prompt, "prompt")
    except BadDialogueError as error:
        raise BadPairError(error.reason) from error
    turns = without_empty_answer(turns)
    return _split_conversations(*([*turns, *conversation] for conversation in conversations))


def _implicit(_prompt: object, chosen: object, rejected: object) -> Conversations:
    """TRL's implicit prompt: conversations, or two texts whose shared beginning, cut at a space, is the prompt."""
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        return _split_conversations(
            *(turns_of(one, name) for one, name in ((chosen, "chosen"), (rejected, "rejected")))
        )
    conversations = [_conversation(one, name) for one, name in ((chosen, "chosen"), (rejected, "rejected"))]
    if all(len(conversation) > 1 for conversation in conversations):
        return _split_conversations(*conversations)
    shared = chosen[: _shared(chosen, rejected)]
    if len(shared) < min(len(chosen), len(rejected)):
        shared = shared[: max(shared.rfind(" "), shared.rfind("\n")) + 1]
    if not shared.strip():
        raise DifferentPromptsError("the two texts share no beginning that could be the prompt; name a prompt column")
    first, second = (answer_of(one[len(shared) :], "the completion") for one in (chosen, rejected))
    return [Turn("user", shared.strip())], first, second


_LAYOUTS: dict[PreferenceFormat, Callable[[object, object, object], Conversations]] = {
    PreferenceFormat.hh_rlhf: _from_transcripts,
    PreferenceFormat.trl_explicit: _explicit,
    PreferenceFormat.trl_implicit: _implicit,
    PreferenceFormat.ultrafeedback: _explicit,
    PreferenceFormat.rewardbench: _explicit,
}


def _conversation(value: object, name: str) -> list[Turn]:
    """The turns of a cell; a text that holds no list of them is one of the assistant's."""
    try:
        if isinstance(value, str):
            return turns_in_list(value) or [answered(value, f"the {name} completion")]
        return turns_of(value, name)
    except BadDialogueError as error:
        raise BadPairError(error.reason) from error


def _split_conversations(chosen: list[Turn], rejected: list[Turn]) -> Conversations:
    """Split two conversations at the last assistant turn after their shared prefix."""
    for name, conversation in (("chosen", chosen), ("rejected", rejected)):
        if not conversation or conversation[-1].role != "assistant":
            raise BadPairError(f"the {name} conversation does not end with the assistant's turn")
    shared = _shared([turn.message for turn in chosen], [turn.message for turn in rejected])
    if max(len(chosen), len(rejected)) - 1 > shared:
        raise DifferentPromptsError(
            f"the conversations have {len(chosen)} and {len(rejected)} turns and differ from turn {shared + 1} on, "
            "before the last"
        )
    answers = [
        answer_in_turn(chosen[-1], "the chosen completion"),
        answer_in_turn(rejected[-1], "the rejected completion"),
    ]
    return chosen[:-1], answers[0], answers[1]


def _shared(first: Sequence[object], second: Sequence[object]) -> int:
    """How long the beginning is that both share."""
    differ = (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    return next(differ, min(len(first), len(second)))


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in cast("list[object]", value))


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, Mapping) for one in cast("list[object]", value))
