"""Sequences of words in many texts at once, as numbers: by them one tells repetition, boilerplate and near duplicates.

A word is a run of letters and digits in lower case; where a script writes no spaces, each character is one. Hashes are
those of this process and stored nowhere. It knows no table.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

LONGEST_TEXT = 20_000  # characters; what comes after is not looked at
HASHES = 64
BAND = 4  # hashes that must all agree for two texts to be compared at all
COMPARED_AT_ONCE = 65_536
ALMOST_AS_OFTEN = 0.9
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = rf"[{_UNSPACED}]|[\w'’&&[^{_UNSPACED}]]+"

Places: TypeAlias = NDArray[np.int64]
Hashed: TypeAlias = NDArray[np.uint64]
Signatures: TypeAlias = NDArray[np.uint32]


@dataclass(frozen=True)
class Words:
    """The words of several texts, one after the other: the number of its text, the word, and its hash."""

    text: Places
    word: pl.Series
    hashed: Hashed

    @staticmethod
    def of(texts: pl.Series) -> "Words":
        """Those of a column of texts."""
        found = texts.str.slice(0, LONGEST_TEXT).str.to_lowercase().str.extract_all(_WORD)
        counts = found.list.len()
        words = found.filter(counts > 0).explode()
        return Words(np.repeat(np.arange(len(texts)), counts.to_numpy()), words, words.hash(seed=0).to_numpy())

    def sequences(self, length: int, beyond_the_end: bool = False) -> tuple[Places, Hashed]:
        """Where each sequence of so many words of one text begins, and its hash.

        `beyond_the_end`: each word begins one, the last of a text are shorter.
        """
        begins = np.arange(len(self.text))
        hashed = np.zeros(len(begins), dtype=np.uint64)
        whole = np.ones(len(begins), dtype=bool)
        for offset in range(length):
            places = np.minimum(begins + offset, len(begins) - 1)
            inside = (begins + offset < len(begins)) & (self.text[places] == self.text)
            hashed = _mixed(hashed + np.where(inside, self.hashed[places], np.uint64(offset)))
            whole &= inside
        return (begins, hashed) if beyond_the_end else (begins[whole], hashed[whole])


@dataclass(frozen=True)
class Phrase:
    """Words that the texts of several owners have in common, how many owners, and the number of one such text."""

    words: str
    owners: int
    text: int


def repeated_shares(texts: pl.Series, length: int) -> pl.Series:
    """Of each text the share of its sequences that stood in it before; 0 where it is too short to have any."""
    words = Words.of(texts)
    begins, hashed = words.sequences(length)
    sequences = pl.DataFrame({"text": words.text[begins], "hash": hashed})
    shares = sequences.group_by("text").agg((1 - pl.col("hash").n_unique() / pl.len()).alias("share"))
    every = pl.DataFrame({"text": np.arange(len(texts))}).join(shares, on="text", how="left", maintain_order="left")
    return every["share"].fill_null(0.0)


def shared_phrases(texts: pl.Series, owners: pl.Series, length: int, most: int) -> list[Phrase]:
    """The sequences that occur for the most owners, most first.

    Sequences that overlap in one text, and are almost as frequent, are told as one longer phrase.
    """
    words = Words.of(texts)
    begins, hashed = words.sequences(length)
    text = words.text[begins]
    places = pl.DataFrame({"begin": begins, "hash": hashed, "text": text, "owner": owners.gather(text)})
    found = places.group_by("hash").agg(
        pl.col("owner").n_unique().alias("owners"), pl.col("begin").min().alias("first_begin")
    )
    phrases: list[Phrase] = []
    told: set[int] = set()
    candidates = found.filter(pl.col("owners") > 1).sort("owners", "first_begin", descending=[True, False])
    for sequence, count, begin in candidates.iter_rows():
        if sequence in told:
            continue
        if len(phrases) == most:
            break
        one_text = places.filter(pl.col("text") == int(words.text[begin])).join(found, on="hash")
        common = one_text.filter(pl.col("owners") >= ALMOST_AS_OFTEN * count).select("begin", "hash")
        frequent: dict[int, int] = dict(common.iter_rows())
        first, last = begin, begin
        while first - 1 in frequent:
            first -= 1
        while last + 1 in frequent:
            last += 1
        told |= {frequent[place] for place in range(first, last + 1)}
        phrase = words.word[first : last + length]
        phrases.append(Phrase(" ".join(phrase.to_list()), count, int(words.text[begin])))
    return phrases


def signatures(batches: Iterable[pl.Series], length: int) -> Signatures:
    """Of each text a row of MinHashes of its sequences (Broder 1997).

    The share in which two rows agree estimates the Jaccard similarity of the texts, with a standard error of 1/16. A
    text without words is like none but the same.
    """
    generator = np.random.default_rng(0)
    factors = generator.integers(0, 2**63, HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    made = [_signatures(texts, length, factors) for texts in batches]
    return np.concatenate([np.empty((0, HASHES), dtype=np.uint32), *made])


def _signatures(texts: pl.Series, length: int, factors: Hashed) -> Signatures:
    words = Words.of(texts)
    _, hashed = words.sequences(length, beyond_the_end=True)
    rows = np.full((len(texts), HASHES), np.iinfo(np.uint32).max, dtype=np.uint32)
    with_words, first = np.unique(words.text, return_index=True)
    if len(first):
        for number, factor in enumerate(factors):
            rows[with_words, number] = np.minimum.reduceat(hashed * factor >> np.uint64(32), first)
    without = np.setdiff1d(np.arange(len(texts)), with_words)
    rows[without] = texts.gather(without).hash(seed=0).to_numpy()[:, np.newaxis] * factors >> np.uint64(32)
    return rows


@dataclass(frozen=True)
class NearDuplicates:
    """Of each text the number of one that is nearly the same and belongs to another owner, or −1; and how similar."""

    other: Places
    similarity: NDArray[np.float64]


def near_duplicates(rows: Signatures, owners: Places, least: float) -> NearDuplicates:
    """Texts of different owners whose estimated similarity is `least` or more.

    Only those are compared that agree in one of the bands and stand side by side in its order: of texts with a
    similarity of 0.8 all but one in five thousand pairs agree in one of sixteen bands. But for sorting, it is linear.
    """
    best = NearDuplicates(np.full(len(rows), -1), np.zeros(len(rows)))
    whole = _hashed_rows(rows)
    for band in range(0, HASHES, BAND):
        key = _hashed_rows(rows[:, band : band + BAND])
        order = np.lexsort((whole, key))  # equal texts are neighbours
        left, right = order[:-1], order[1:]
        candidates = (key[left] == key[right]) & (owners[left] != owners[right])
        left, right = left[candidates], right[candidates]
        for start in range(0, len(left), COMPARED_AT_ONCE):
            part = slice(start, start + COMPARED_AT_ONCE)
            _keep_best(best, rows, left[part], right[part], least)
    return best


def _keep_best(best: NearDuplicates, rows: Signatures, left: Places, right: Places, least: float) -> None:
    similarity = (rows[left] == rows[right]).mean(axis=1)
    for one, other in ((left, right), (right, left)):
        better = (similarity >= least) & (similarity > best.similarity[one])
        best.other[one[better]] = other[better]
        best.similarity[one[better]] = similarity[better]


def _hashed_rows(rows: Signatures) -> Hashed:
    hashed = np.zeros(len(rows), dtype=np.uint64)
    for number in range(rows.shape[1]):
        hashed = _mixed(hashed + rows[:, number])
    return hashed


def _mixed(values: Hashed) -> Hashed:
    """Each number as another in which every bit depends on every bit of it (SplitMix64's finalizer)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
