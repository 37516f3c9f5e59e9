"""From text to token ids, such that text is never a control token; a passage that is known is not tokenized again.

Dialogues share most of their text: worked examples, the prompt, the pair that is judged under every principle. So a
text is cut at ends of lines where this tokenizer begins a new word in any case, and the ids of the pieces are kept.
The ids are those of the whole text. It knows no template.
"""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cai_dagster.errors import RowError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KEPT_CHARACTERS = 8_000_000  # of the texts whose ids are kept; the oldest go first
_ENDS_OF_LINES = (r"(?<=[!-~]\n)(?=[!-~])", r"(?<=[!-~]\n)(?=\n[!-~])", r"(?<=[!-~]\n\n)(?=[!-~])")
# One for each way in which tokenizers tell characters apart: letters, digits, punctuation, contractions, runs.
_WORDS = ("a", "word", "Word", "WORD", "7", "2026", "...", "- -", "<|a|>", ">", '"so"')
_BEFORE = (*_WORDS, "end.", "so?!", "x)", "'", "it's")
_AFTER = (*_WORDS, ".", "?!", "(A)", "'s", "'t is", "> a")


class ControlTokenError(RowError):
    """A text would be tokenized to a control token in spite of everything: the row is refused."""

    code = "text_becomes_control_token"


class TextTokenizer:
    """A tokenizer that reads no text as a control token, and neither cuts nor pads."""

    def __init__(self, serialized: str, control: dict[str, int]) -> None:
        """Of a tokenizer.json, and the model's control tokens."""
        first, inside = _plain_tokenizers(serialized, set(control))
        self._first = _Pieces(first, frozenset(control.values()))
        self._inside = self._first if first is inside else _Pieces(inside, frozenset(control.values()))
        self._cut = re.compile("|".join(_safe_cuts(inside)) or r"(?!)")

    def ids(self, text: str, at_start: bool) -> list[int]:
        """Token ids of a text; `at_start`: of the first one of a prompt. Raises ControlTokenError."""
        if not text:
            return []
        begin, *rest = self._cut.split(text)
        ids = (self._first if at_start else self._inside).ids([begin])
        if rest:
            ids += self._inside.ids(rest)
        return ids


class _Pieces:
    """Token ids of texts, each tokenized once."""

    def __init__(self, tokenizer: "Tokenizer", control: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._control = control
        self._known: dict[str, list[int]] = {}
        self._characters = 0

    def ids(self, texts: Sequence[str]) -> list[int]:
        """The ids of the texts, one after the other. Raises ControlTokenError."""
        missing = list(dict.fromkeys(text for text in texts if text not in self._known))
        if missing:
            self._tokenize(missing)
        ids: list[int] = []
        for text in texts:
            ids += self._known[text]
        while self._characters > KEPT_CHARACTERS:
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._characters -= len(oldest)
        return ids

    def _tokenize(self, texts: list[str]) -> None:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            found = self._control & set(encoding.ids)
            if found:
                raise ControlTokenError(f"the tokenizer turns plain text into the control tokens {sorted(found)}")
            self._known[text] = encoding.ids
            self._characters += len(text)


def _safe_cuts(tokenizer: "Tokenizer") -> list[str]:
    """The ends of lines at which this tokenizer always begins a new word, as patterns of the place between two."""
    pre_tokenizer: Any = tokenizer.pre_tokenizer
    added = tokenizer.get_added_tokens_decoder().values()
    if pre_tokenizer is None or any(
        token.lstrip or token.rstrip or token.single_word or ("\n" in token.content and token.content.strip("\n"))
        for token in added
        if not token.special
    ):
        return []

    def words(text: str) -> list[str]:
        return [word for word, _ in pre_tokenizer.pre_tokenize_str(text)]

    def ids(*texts: str) -> list[int]:
        return [one for text in texts for one in tokenizer.encode(text, add_special_tokens=False).ids]

    def is_safe(pattern: str) -> bool:
        for before in _BEFORE:
            for newlines in ("\n", "\n\n"):
                for after in _AFTER:
                    left, *right = re.split(pattern, before + newlines + after)
                    if not right:
                        continue
                    text = left + right[0]
                    if words(text) != words(left) + words(right[0]) or ids(text) != ids(left, right[0]):
                        return False
        return True

    return [pattern for pattern in _ENDS_OF_LINES if is_safe(pattern)]


def _plain_tokenizers(serialized: str, control: set[str]) -> "tuple[Tokenizer, Tokenizer]":
    """Tokenizers that read no text as a control token, keep all ids, and neither cut nor pad.

    The first is for the first text; the second for others, where one that marks only the first word must mark none.
    """
    from tokenizers import Tokenizer

    parts: dict[str, Any] = json.loads(serialized)
    for token in parts["added_tokens"]:
        token["special"] = token["content"] in control
    first = json.dumps({**parts, "truncation": None, "padding": None}, separators=(",", ":"))
    inside = first.replace('"prepend_scheme":"first"', '"prepend_scheme":"never"')
    made = {text: Tokenizer.from_str(text) for text in dict.fromkeys((first, inside))}  # mostly the same: a large text
    for plain in made.values():
        plain.encode_special_tokens = True  # read them as text
    return made[first], made[inside]
