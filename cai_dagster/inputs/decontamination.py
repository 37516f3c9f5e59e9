"""Decontamination: prompts that overlap with the evaluation sets a user names are found, so that nobody trains on them.

Texts are normalised to lower-case words; where a script writes no spaces, to its characters. A prompt overlaps where it
shares a run of thirteen words with any text of an evaluation set (Brown et al. 2020, appendix C); a prompt that is too
short to have one, where it equals such a text. It knows nothing of what becomes of a prompt that does.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from itertools import accumulate

from cai_dagster.errors import RowError
from cai_dagster.inputs.dialogues import texts_in
from cai_dagster.inputs.files import Expected, SourceFileError, source_rows
from cai_dagster.inputs.settings import DecontaminationSettings
from cai_dagster.models.messages import Messages

GRAM_WORDS = 13
# In scripts without spaces a character counts as a word, in those that spell a word with many letters as half a one.
_WORD_OF_ONE = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HALF_A_WORD = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(rf"[{_WORD_OF_ONE}]|[{_HALF_A_WORD}]|[^\W{_WORD_OF_ONE}{_HALF_A_WORD}]+")
_IS_HALF = re.compile(rf"[{_HALF_A_WORD}]")


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

    Raises SourceFileError for a file that cannot be read, or a row.
    """
    sets = EvaluationSets()
    for place, row, problem, source in source_rows(settings.evaluation_sets, Expected("evaluation_sets")):
        if problem is not None:
            raise SourceFileError(f"evaluation_sets: {source}: {place}: {problem}; its texts would not be kept out")
        for text in _texts(row):
            sets.add(text, place)
    return sets


def _grams(text: str) -> Iterator[str]:
    """Every run of thirteen words of a text; all its words where there are fewer."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    ends = list(accumulate((0.5 if _IS_HALF.match(word) else 1.0 for word in words), initial=0.0))
    begin = 0
    for end in range(1, len(words) + 1):
        while ends[end] - ends[begin + 1] >= GRAM_WORDS:
            begin += 1
        if ends[end] - ends[begin] >= GRAM_WORDS:
            yield " ".join(words[begin:end])
    if words and ends[-1] < GRAM_WORDS:
        yield " ".join(words)


def _texts(row: Mapping[str, object]) -> Iterator[str]:
    """The texts in a row, each, and those of one cell together: a prompt may quote a dialogue whole."""
    for cell in row.values():
        texts = texts_in(cell)
        yield from texts
        if len(texts) > 1:
            yield "\n".join(texts)
