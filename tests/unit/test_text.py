"""Text for people shows what it is made of and steers nothing."""

import unicodedata

import pytest

from cai_dagster.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, naïve café 東京 🙂", "plain text, naïve café 東京 🙂"),
        ("two\nlines", "two\nlines"),
        ("", ""),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b31m", r"\x9b31m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("file\u202egpj.exe", r"file\u202egpj.exe"),
        ("\u2066isolated\u2069 \u200fright", r"\u2066isolated\u2069 \u200fright"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("null\0byte", r"null\x00byte"),
        ("tab\there", r"tab\there"),
        ("over\rwritten", r"over\rwritten"),
        ("back\x08space", r"back\x08space"),
        ("next\x85line\u2028separator", r"next\x85line\u2028separator"),
        ("lone \ud800 surrogate", r"lone \ud800 surrogate"),
        ("tag \U000e0041", r"tag \U000e0041"),
        ("</script> {{ x }} %s", "</script> {{ x }} %s"),
    ],
)
def test_control_characters_are_shown_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_no_control_or_format_character_is_left() -> None:
    codes = (*range(0x2100), *range(0xD7F0, 0xE010), *range(0xFE00, 0x10000), *range(0xE0000, 0xE0100))
    everything = "".join(map(chr, codes))
    left = {unicodedata.category(character) for character in printable(everything).replace("\n", "")}
    assert not left & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("text", "most", "shown"),
    [
        ("abcdef", 3, "abc…"),
        ("abcdef", 5, "abcde…"),
        ("abcdef", 6, "abcdef"),
        ("abcdef", 7, "abcdef"),
        ("abcdef", None, "abcdef"),
        ("abcdef", 0, "…"),
        ("", 0, ""),
        ("\0\0\0", 2, r"\x00\x00…"),
    ],
)
def test_a_long_text_is_cut_after_as_many_of_its_own_characters(text: str, most: int | None, shown: str) -> None:
    assert printable(text, most) == shown
