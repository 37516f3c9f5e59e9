"""A text in pieces has the ids of the whole text, with every kind of tokenizer, and each piece is tokenized once."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from cai_dagster.models import text_tokens
from cai_dagster.models.text_tokens import ControlTokenError, TextTokenizer
from cai_dagster.project import CHECKOUT

GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
LLAMA3 = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(
            Regex(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
            "isolated",
        ),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
LINES = [
    "> I think that",
    "The quick brown fox.",
    "Is it (A) or (B)?",
    "* one, two; 3.14",
    "it's 'so'",
    "",
    "  indented ",
    "\ttabbed\r",
    "e\u0301 naïve 東京 🙂",
    "\u0301combining at the start",
    "def f(x):",
    "   ",
    "...",
    "2026-11-28",
    "<|im_start|>user",
]
texts = st.lists(st.one_of(st.sampled_from(LINES), st.text(max_size=12)), max_size=14).map("\n".join)


def trained(pre_tokenizer: Any, normalizer: Any = None, **added: Any) -> Tokenizer:
    """A BPE tokenizer with merges over what its pre-tokenizer leaves together, ends of lines too."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=["<unk>"], initial_alphabet=alphabet)
    corpus = [(CHECKOUT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "docs/judging.md")]
    corpus += ["\n".join(LINES) * 20, "end.\n\nNext\nline\n" * 200]
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens(["<|im_start|>"])
    if added:
        tokenizer.add_tokens([AddedToken(**added)])
    return tokenizer


def metaspace() -> Tokenizer:
    return trained(pre_tokenizers.Metaspace(prepend_scheme="first"))


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: trained(GPT2),
    "llama3": lambda: trained(LLAMA3),
    "digits": lambda: trained(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])),
    "composed": lambda: trained(GPT2, normalizers.NFC()),
    "lowercase": lambda: trained(pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer()),
    "metaspace": metaspace,
    "whole": lambda: trained(None),
    "newlines": lambda: trained(GPT2, content="\n\n", normalized=False),
    "newline_in_token": lambda: trained(GPT2, content="fox.\nIs", normalized=False),
    "token_takes_space": lambda: trained(GPT2, content="fox", lstrip=True, rstrip=True, normalized=False),
}
NEVER_CUT = {"whole", "newline_in_token", "token_takes_space"}


@pytest.fixture(scope="module", params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tokenizer(kind: str) -> Tokenizer:
    return KINDS[kind]()


@pytest.fixture(scope="module")
def text_tokens_of(tokenizer: Tokenizer) -> TextTokenizer:
    return TextTokenizer(tokenizer.to_str(), {"<|im_start|>": tokenizer.token_to_id("<|im_start|>")})


@given(text=texts)
def test_words_have_the_ids_of_the_whole_text(text: str, tokenizer: Tokenizer, text_tokens_of: TextTokenizer) -> None:
    whole, inside = text_tokens._plain_tokenizers(tokenizer.to_str(), {"<|im_start|>"})  # pyright: ignore[reportPrivateUsage]
    for at_start, plain in ((True, whole), (False, inside)):
        assert list(text_tokens_of.ids(text, at_start)) == plain.encode(text, add_special_tokens=False).ids


def test_only_tokenizers_that_begin_a_word_in_any_case_are_given_words(
    kind: str, text_tokens_of: TextTokenizer
) -> None:
    cut = text_tokens_of._cut  # pyright: ignore[reportPrivateUsage]
    assert (len(cut.findall("One line.\nAnother.\n\nA third\n\n\n  line.")) > 0) == (kind not in NEVER_CUT)


def test_a_word_is_tokenized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TextTokenizer(KINDS["gpt2"]().to_str(), {})
    asked: list[str] = []
    tokenize = text_tokens._Known._tokenize  # pyright: ignore[reportPrivateUsage]

    def noted(self: Any, pieces: list[str]) -> None:
        asked.extend(pieces)
        tokenize(self, pieces)

    monkeypatch.setattr(text_tokens._Known, "_tokenize", noted)  # pyright: ignore[reportPrivateUsage]
    pair = "Human: Why?\nAssistant: Because.\nHuman: And?\n"
    for question in ("Which is kinder?", "Which is truer?", "Which is kinder?"):
        tokenizer.ids(pair + question, at_start=False)
    assert asked.count(" truer?") == 1
    assert len(asked) == len(set(asked))


def test_what_is_kept_is_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_tokens, "KEPT_CHARACTERS", 50)
    tokenizer = TextTokenizer(KINDS["gpt2"]().to_str(), {})
    for number in range(40):
        tokenizer.ids(f"text number {number}", at_start=False)
    known = tokenizer._inside.texts  # pyright: ignore[reportPrivateUsage]
    assert list(known) == ["text number 37", "text number 38", "text number 39"]


def test_the_words_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_tokens, "KEPT_WORDS", 10)
    tokenizer = KINDS["gpt2"]()
    known = TextTokenizer(tokenizer.to_str(), {})
    for number in range(40):
        text = " ".join(f"word{number}of{place}" for place in range(7))
        assert known.ids(text, at_start=False) == tokenizer.encode(text, add_special_tokens=False).ids
        assert len(known._inside._words) <= 10 + 7  # pyright: ignore[reportPrivateUsage]


def test_a_text_that_becomes_a_control_token_is_refused_each_time() -> None:
    tokenizer = KINDS["gpt2"]()
    plain = TextTokenizer(tokenizer.to_str(), {"word": tokenizer.token_to_id("a")})
    for _ in range(2):
        with pytest.raises(ControlTokenError, match="plain text into the control tokens"):
            plain.ids("b\na\nc", at_start=False)
