"""Decontamination: prompts that overlap with the evaluation sets a user names are found, so that nobody trains on them.

Texts are normalised to lower-case words. A prompt overlaps where it shares a run of thirteen words with any text of an
evaluation set (Brown et al. 2020, appendix C); a prompt that is too short to have one, where it equals such a text. It
knows nothing of what becomes of a prompt that does.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from cai_dagster.errors import RowError
from cai_dagster.inputs.files import Expected, source_rows
from cai_dagster.inputs.settings import DecontaminationSettings
from cai_dagster.models.messages import Messages

GRAM_WORDS = 13
_WORD = re.compile(r"\w+")


class ContaminatedPromptError(RowError):
    """A prompt overlaps with an evaluation set; the message says where and in which words."""

    code = "contaminated"


class EvaluationSets:
    """The texts of evaluation sets, as runs of words."""

    def __init__(self) -> None:
        self._places: dict[str, str] = {}

    def add(self, text: str, place: str) -> None:
        """Add a text that stands at `place` (file:line)."""
        for gram in _grams(text):
            self._places.setdefault(gram, place)

    def refuse(self, prompt: Messages) -> None:
        """Raise ContaminatedPromptError where the prompt's turns, taken together, overlap with one of the texts."""
        for gram in _grams("\n".join(message.content for message in prompt)):
            if gram in self._places:
                raise ContaminatedPromptError(f"it shares {gram!r} with the evaluation set at {self._places[gram]}")


NO_EVALUATION_SETS = EvaluationSets()


def evaluation_sets(settings: DecontaminationSettings) -> EvaluationSets:
    """The evaluation sets of the settings: every text of every row, whatever its column is called.

    Raises SourceFileError for a file that cannot be read.
    """
    sets = EvaluationSets()
    for place, row, _ in source_rows(settings.evaluation_sets, Expected("evaluation_sets")):
        for text in _texts(row):
            sets.add(text, place)
    return sets


def _grams(text: str) -> Iterator[str]:
    """Every run of thirteen words of a text; all its words where there are fewer."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    for start in range(max(1, len(words) - GRAM_WORDS + 1)):
        if words:
            yield " ".join(words[start : start + GRAM_WORDS])


def _texts(value: object) -> Iterator[str]:
    """The texts in a row; the turns of a dialogue each, and all together."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        turn = cast("Mapping[str, Any]", value)
        for part in [turn["content"]] if "content" in turn and "role" in turn else turn.values():
            yield from _texts(part)
    elif isinstance(value, Sequence):
        texts = [text for part in cast("Sequence[object]", value) for text in _texts(part)]
        yield from texts
        if len(texts) > 1:
            yield "\n".join(texts)
