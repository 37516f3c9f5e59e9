"""From text to token ids, such that text is never a control token; a passage that is known is not tokenized again.

Dialogues share most of their text: worked examples, the prompt, the pair that is judged under every principle. So a
text is cut where this tokenizer begins a new word in any case, and the ids of words and of whole texts are kept. The
ids are those of the whole text, several times as fast as the tokenizer finds them. It knows no template.
"""

import json
import re
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any

from cai_dagster.errors import RowError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KEPT_CHARACTERS = 8_000_000  # of the texts whose ids are kept; the oldest go first
KEPT_WORDS = 200_000
# Where a word of English begins: before a space and after the end of a line.
_WORDS_BEGIN = (
    r" (?<=[!-~] )(?=[A-Za-z])",
    r"\n(?<=[!-~]\n)(?=[!-~])",
    r"\n(?<=[!-~]\n)(?=\n[!-~])",
    r"\n\n(?<=[!-~]\n\n)(?=[!-~])",
)
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
        self._inside = _Known(inside, frozenset(control.values()))
        self._first = self._inside if first is inside else _Known(first, frozenset(control.values()))
        self._cut = re.compile("|".join(_safe_cuts(inside)) or r"(?!)")

    def ids(self, text: str, at_start: bool) -> list[int]:
        """Token ids of a text; `at_start`: of the first one of a prompt. Raises ControlTokenError."""
        known = self._first if at_start else self._inside
        ids = known.texts.get(text)
        if ids is None:
            pieces = _pieces(text, self._cut)
            begin = 0 if known is self._inside else 1
            ids = known.keep(text, known.ids(pieces[:begin]) + self._inside.ids(pieces[begin:]))
        return ids


class _Known:
    """Token ids of words and texts, each tokenized once."""

    def __init__(self, tokenizer: "Tokenizer", control: frozenset[int]) -> None:
        self.texts: dict[str, list[int]] = {"": []}
        self._tokenizer = tokenizer
        self._control = control
        self._words: dict[str, list[int]] = {}
        self._characters = 0

    def keep(self, text: str, ids: list[int]) -> list[int]:
        """Keep a text's ids; the oldest texts make room."""
        self.texts[text] = ids
        self._characters += len(text)
        while self._characters > KEPT_CHARACTERS:
            oldest = next(iter(self.texts))
            del self.texts[oldest]
            self._characters -= len(oldest)
        return ids

    def ids(self, pieces: Sequence[str]) -> list[int]:
        """The ids of the pieces of a text, one after the other. Raises ControlTokenError."""
        words = self._words
        missing = [piece for piece in pieces if piece not in words]
        if missing:
            self._tokenize(list(dict.fromkeys(missing)))
        ids: list[int] = []
        for piece in pieces:
            ids += words[piece]
        if len(words) > KEPT_WORDS:
            words.clear()
        return ids

    def _tokenize(self, pieces: list[str]) -> None:
        encodings = self._tokenizer.encode_batch_fast(pieces, add_special_tokens=False)
        for piece, encoding in zip(pieces, encodings, strict=True):
            found = self._control.intersection(encoding.ids)
            if found:
                raise ControlTokenError(f"the tokenizer turns plain text into the control tokens {sorted(found)}")
            self._words[piece] = encoding.ids


def _pieces(text: str, cut: re.Pattern[str]) -> list[str]:
    """The text, cut before each space and behind each end of a line that matches."""
    cuts = [match.start() if match[0] == " " else match.end() for match in cut.finditer(text)]
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _safe_cuts(tokenizer: "Tokenizer") -> list[str]:
    """The places at which this tokenizer always begins a new word, as patterns of the space or line end there."""
    pre_tokenizer: Any = tokenizer.pre_tokenizer
    added = tokenizer.get_added_tokens_decoder().values()
    if pre_tokenizer is None or any(
        token.lstrip or token.rstrip or token.single_word or ("\n" in token.content and token.content.strip("\n"))
        for token in added
        if not token.special
    ):
        return []

    @cache
    def words_and_ids(text: str) -> tuple[list[str], list[int]]:
        words = [word for word, _ in pre_tokenizer.pre_tokenize_str(text)]
        return words, tokenizer.encode(text, add_special_tokens=False).ids

    def is_safe(pattern: str) -> bool:
        cut = re.compile(pattern)
        for parts in product(_BEFORE, (" ", "\n", "\n\n"), _AFTER):
            text = "".join(parts)
            apart = [words_and_ids(piece) for piece in _pieces(text, cut)]
            words = [word for of_piece, _ in apart for word in of_piece]
            ids = [one for _, of_piece in apart for one in of_piece]
            if words_and_ids(text) != (words, ids):
                return False
        return True

    return [pattern for pattern in _WORDS_BEGIN if is_safe(pattern)]


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
