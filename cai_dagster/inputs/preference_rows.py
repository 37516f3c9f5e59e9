"""Rows of preference data sets: a prompt and two completions, in the layouts that are in use.

A layout is recognised from the row's columns and their content, or named. Transcripts and conversations are split at
the last assistant turn after the prefix that both share, never after a fixed number of turns. It knows no files, no
ids and no tables.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from cai_dagster.calls.requests import EmptyCompletionError
from cai_dagster.errors import RowError
from cai_dagster.inputs.preference_formats import PreferenceFormat
from cai_dagster.inputs.settings import PreferenceColumns

Turn = Mapping[str, Any]

_SPEAKER = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


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
    """The turns of the prompt (role and content, not yet checked) and the two completions."""

    prompt: list[Turn]
    chosen: str
    rejected: str


def split_pair(
    row: Mapping[str, Any], columns: PreferenceColumns, layout: PreferenceFormat = PreferenceFormat.auto
) -> SplitPair:
    """The prompt and the completions of a row.

    Raises BadPairError where the row has no such layout, DifferentPromptsError where the conversations differ before
    their last turn, EmptyCompletionError and IdenticalCompletionsError.
    """
    for column in (columns.chosen_column, columns.rejected_column):
        if row.get(column) is None:
            raise BadPairError(f"there is no {column!r} in the row; it has {sorted(map(str, row))}")
    prompt, chosen, rejected = (
        row.get(column) for column in (columns.prompt_column, columns.chosen_column, columns.rejected_column)
    )
    if chosen == rejected:
        raise IdenticalCompletionsError("chosen and rejected are the same")
    read = _LAYOUTS[layout if layout != PreferenceFormat.auto else _recognised(prompt, chosen)]
    pair = read(prompt, chosen, rejected)
    for name, text in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if not text.strip():
            raise EmptyCompletionError(f"the {name} completion has no word")
    if pair.chosen == pair.rejected:
        raise IdenticalCompletionsError("chosen and rejected are the same text but for white space at its ends")
    return pair


def _recognised(prompt: object, chosen: object) -> PreferenceFormat:
    if isinstance(chosen, str) and _SPEAKER.match(chosen):
        return PreferenceFormat.hh_rlhf
    return PreferenceFormat.trl_implicit if prompt is None else PreferenceFormat.trl_explicit


def _from_transcripts(_prompt: object, chosen: object, rejected: object) -> SplitPair:
    """hh-rlhf: whole transcripts with Human: and Assistant: (Bai et al. 2022, arXiv:2204.05862)."""
    return _split_conversations(*(_transcript_turns(_text(one)) for one in (chosen, rejected)))


def _explicit(prompt: object, chosen: object, rejected: object) -> SplitPair:
    """TRL's explicit prompt; RewardBench; UltraFeedback, whose conversations repeat the prompt."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        return SplitPair(_prompt_turns(prompt), chosen.strip(), rejected.strip())
    conversations = [_turns(one) for one in (chosen, rejected)]
    if conversations[0] and conversations[0][0].get("role") != "assistant":
        return _split_conversations(*conversations)  # the prompt is repeated there
    turns = _prompt_turns(prompt)
    return _split_conversations(*([*turns, *conversation] for conversation in conversations))


def _implicit(_prompt: object, chosen: object, rejected: object) -> SplitPair:
    """TRL's implicit prompt: conversations, or two texts whose shared beginning, cut at a space, is the prompt."""
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        return _split_conversations(_turns(chosen), _turns(rejected))
    shared = chosen[: _shared(chosen, rejected)]
    if len(shared) < min(len(chosen), len(rejected)):
        shared = shared[: max(shared.rfind(" "), shared.rfind("\n")) + 1]
    if not shared.strip():
        raise DifferentPromptsError("the two texts share no beginning that could be the prompt; name a prompt column")
    first, second = chosen[len(shared) :], rejected[len(shared) :]
    return SplitPair([{"role": "user", "content": shared.strip()}], first.strip(), second.strip())


_LAYOUTS: dict[PreferenceFormat, Callable[[object, object, object], SplitPair]] = {
    PreferenceFormat.hh_rlhf: _from_transcripts,
    PreferenceFormat.trl_explicit: _explicit,
    PreferenceFormat.trl_implicit: _implicit,
    PreferenceFormat.ultrafeedback: _explicit,
    PreferenceFormat.rewardbench: _explicit,
}


def _split_conversations(chosen: list[Turn], rejected: list[Turn]) -> SplitPair:
    """Split two conversations at the last assistant turn after their shared prefix."""
    for name, conversation in (("chosen", chosen), ("rejected", rejected)):
        if not conversation or conversation[-1].get("role") != "assistant":
            raise BadPairError(f"the {name} conversation does not end with the assistant's turn")
    shared = _shared(_comparable(chosen), _comparable(rejected))
    if max(len(chosen), len(rejected)) - 1 > shared:
        raise DifferentPromptsError(
            f"the conversations have {len(chosen)} and {len(rejected)} turns and differ from turn {shared + 1} on, "
            "before the last"
        )
    return SplitPair(chosen[:-1], _text(chosen[-1].get("content")).strip(), _text(rejected[-1].get("content")).strip())


def _shared(first: Sequence[object], second: Sequence[object]) -> int:
    """How long the beginning is that both share."""
    differ = (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    return next(differ, min(len(first), len(second)))


def _comparable(conversation: list[Turn]) -> list[tuple[object, object]]:
    return [(turn.get("role"), turn.get("content")) for turn in conversation]


def _transcript_turns(text: str) -> list[Turn]:
    """The turns of a transcript; the empty answer with which a prompt ends stays a turn."""
    before, *rest = _SPEAKER.split(text)
    if before.strip() or not rest:
        raise BadPairError("the text is no transcript: it does not begin with Human: or Assistant:")
    speakers, contents = rest[::2], rest[1::2]
    return [
        {"role": _ROLES[speaker], "content": content.strip()}
        for speaker, content in zip(speakers, contents, strict=True)
    ]


def _prompt_turns(prompt: object) -> list[Turn]:
    """A prompt: its turns, or one text: the user's turn, or a transcript that ends where the answer begins."""
    if not isinstance(prompt, str):
        return _turns(prompt)
    if not _SPEAKER.match(prompt):
        return [{"role": "user", "content": prompt}]
    turns = _transcript_turns(prompt)
    return turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns


def _turns(value: object) -> list[Turn]:
    turns: list[object] = cast("list[object]", value) if isinstance(value, list) else []
    if not turns or not all(isinstance(turn, Mapping) for turn in turns):
        raise BadPairError(f"turns with role and content were expected, and found {str(cast('object', value))[:80]!r}")
    return [*cast("list[Turn]", turns)]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise BadPairError(f"a text was expected, and found {str(value)[:80]!r}")
    return value
