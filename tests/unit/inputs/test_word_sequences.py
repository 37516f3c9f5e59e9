"""Word sequences against what counting them one by one gives."""

import random
from itertools import combinations

import numpy as np
import polars as pl
import pytest

from cai_dagster.inputs.word_sequences import (
    HASHES,
    Words,
    near_duplicates,
    repeated_shares,
    shared_phrases,
    signatures,
)
from tests.hostile import HOSTILE


def sets(text: str, length: int) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[begin : begin + length]) for begin in range(len(words))}


def jaccard(one: str, other: str) -> float:
    first, second = sets(one, 3), sets(other, 3)
    return len(first & second) / len(first | second)


def edited(text: list[str], edits: int, chance: random.Random) -> str:
    words = list(text)
    for _ in range(edits):
        words[chance.randrange(len(words))] = f"edit{chance.randrange(10**6)}"
    return " ".join(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't STOP, e.g. now_1!", ["don't", "stop", "e", "g", "now_1"]),
        ("漢字 and ไทย", ["漢", "字", "and", *"ไทย"]),
        ("Straße für Ångström", ["straße", "für", "ångström"]),
        ("?! 🙂", []),
        ("", []),
    ],
)
def test_words_are_runs_of_letters_and_where_none_are_spaced_each_character(text: str, words: list[str]) -> None:
    assert Words.of(pl.Series([text], dtype=pl.String)).word.to_list() == words


@pytest.mark.parametrize("length", [1, 2, 4])
def test_repeated_shares_are_those_of_counting(length: int) -> None:
    chance = random.Random(length)
    texts = [" ".join(chance.choices("abcd", k=chance.randrange(12))) for _ in range(200)]
    counted: list[float] = []
    for text in texts:
        words = text.split()
        sequences = [tuple(words[begin : begin + length]) for begin in range(len(words) - length + 1)]
        counted.append(1 - len(set(sequences)) / len(sequences) if sequences else 0.0)
    assert repeated_shares(pl.Series(texts), length).to_list() == pytest.approx(counted)


def test_shared_phrases_come_in_the_order_of_their_owners_and_overlapping_ones_as_one() -> None:
    texts = [f"{n} you are valid valued and cared for {n}" for n in range(9)]
    texts += [f"{n} please ask a doctor about that {n}" for n in range(9, 14)]
    texts += ["you are valid valued and cared for"] * 3
    owners = pl.Series([*range(14), 0, 0, 1])
    found = shared_phrases(pl.Series(texts), owners, 6, 5)
    assert [(one.words, one.owners) for one in found] == [
        ("you are valid valued and cared for", 9),
        ("please ask a doctor about that", 5),
    ]
    assert shared_phrases(pl.Series(texts), owners, 6, 1) == found[:1]
    assert shared_phrases(pl.Series([], dtype=pl.String), pl.Series([], dtype=pl.Int64), 6, 5) == []


def test_signatures_estimate_the_jaccard_similarity_without_bias() -> None:
    chance = random.Random(0)
    errors: list[float] = []
    for edits in (0, 2, 5, 10, 20, 40):
        for _ in range(40):
            words = [f"w{chance.randrange(5_000)}" for _ in range(120)]
            one, other = " ".join(words), edited(words, edits, chance)
            rows = signatures([pl.Series([one]), pl.Series([other])], 3)
            errors.append(float((rows[0] == rows[1]).mean()) - jaccard(one, other))
    assert abs(np.mean(errors)) < 3 * 0.5 / np.sqrt(HASHES * len(errors))
    assert np.max(np.abs(errors)) < 4.5 * 0.5 / np.sqrt(HASHES)


def test_near_duplicates_are_those_that_comparing_all_pairs_finds() -> None:
    chance = random.Random(1)
    texts = [" ".join(f"w{chance.randrange(5_000)}" for _ in range(100)) for _ in range(150)]
    texts += [edited(text.split(), edits, chance) for text in texts[:60] for edits in (0, 1, 12)]
    texts += ["short", "short", "two words", "", ""]
    owners = np.arange(len(texts))
    rows = signatures([pl.Series(texts)], 3)
    found = near_duplicates(rows, owners, 0.8)
    estimated: set[int] = set()
    for one, other in combinations(range(len(texts)), 2):
        if (rows[one] == rows[other]).mean() >= 0.8:
            estimated |= {one, other}
    assert set(np.flatnonzero(found.other >= 0)) == estimated
    assert 100 < len(estimated) < len(texts)
    flagged = [(place, int(found.other[place])) for place in sorted(estimated)]
    assert all((rows[one] == rows[other]).mean() == found.similarity[one] for one, other in flagged)


def test_texts_without_words_are_like_none_but_the_same() -> None:
    rows = signatures([pl.Series(["👍", "…", "👍", "", "a word"])], 3)
    assert near_duplicates(rows, np.arange(5), 0.8).other.tolist() == [2, -1, 0, -1, -1]


def test_texts_of_one_owner_are_no_duplicates_of_each_other() -> None:
    rows = signatures([pl.Series(["the same few words"] * 4)], 3)
    assert (near_duplicates(rows, np.array([7, 7, 7, 7]), 0.8).other == -1).all()
    found = near_duplicates(rows, np.array([7, 7, 7, 8]), 0.8)
    assert found.other[3] in (0, 1, 2)


def test_hostile_and_empty_texts_are_texts() -> None:
    texts = pl.Series([*HOSTILE, "", " "])
    assert len(repeated_shares(texts, 4)) == len(texts)
    assert signatures([texts], 3).shape == (len(texts), HASHES)
    assert signatures([], 3).shape == (0, HASHES)


UNSPACED = {
    "Chinese": (
        "中华人民共和国的首都是北京，它位于华北平原的北部，是全国的政治和文化中心。",
        "今天天气很好，我们去公园散步，然后在湖边喝茶聊天。",
    ),
    "Japanese": (
        "日本の首都は東京であり、関東地方に位置し、多くの人々が暮らしています。",
        "今日は天気が良いので、公園を散歩してからお茶を飲みます。",
    ),
    "Thai": (
        "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทยและมีประชากรมากที่สุด",
        "วันนี้อากาศดีมากเราไปเดินเล่นที่สวนสาธารณะกัน",
    ),
}


@pytest.mark.parametrize("language", list(UNSPACED))
def test_repetition_and_near_duplicates_are_seen_in_languages_without_spaces(language: str) -> None:
    text, other = UNSPACED[language]
    once, thrice = repeated_shares(pl.Series([text, text * 3]), 4)
    assert once < 0.2
    assert thrice > 0.5
    rows = signatures([pl.Series([text, text[:-3] + "。", other])], 3)
    found = near_duplicates(rows, np.arange(3), 0.6)
    assert found.other.tolist() == [1, 0, -1]
