"""Text for people shows what it is made of and steers nothing."""

import unicodedata
from collections.abc import Callable

import pytest

from cai_dagster.text import printable, readable


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
        ("10\u00a0000\u202fkm\u3000日本", "10\u00a0000\u202fkm\u3000日本"),
        ("نمی\u200cخواهم", r"نمی\u200cخواهم"),
    ],
)
def test_control_characters_are_shown_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("def f():\n\treturn 1", "def f():\n\treturn 1"),
        ("10\u00a0000 km\u3000日本語", "10\u00a0000 km\u3000日本語"),
        ("نمی\u200cخواهم", "نمی\u200cخواهم"),
        ("क्\u200dष", "क्\u200dष"),
        ("👩\u200d❤️\u200d👨 👩🏽\u200d🚀", "👩\u200d❤️\u200d👨 👩🏽\u200d🚀"),
        ("a\u200d\u200cb \u200dc\u200d", r"a\u200d\u200cb \u200dc\u200d"),
        ("\u200c", r"\u200c"),
        ("1\u200d2", r"1\u200d2"),
        ("\x1b[31m\tred\x9b \u202egpj\u2066 \ufeff\u00ad\u200b\u2028\u2029", None),
        ("over\rwritten", r"over\rwritten"),
    ],
)
def test_a_page_shows_what_is_ordinary_in_writing_as_it_is(text: str, shown: str | None) -> None:
    expected = printable(text).replace(r"\t", "\t") if shown is None else shown
    assert readable(text) == expected


@pytest.mark.parametrize("show", [printable, readable])
def test_no_control_or_format_character_is_left(show: Callable[[str], str]) -> None:
    codes = (*range(0x2100), *range(0xD7F0, 0xE010), *range(0xFE00, 0x10000), *range(0xE0000, 0xE0100))
    everything = "".join(map(chr, codes))
    kept = "\n" if show is printable else "\n\t"
    left = {unicodedata.category(character) for character in show(everything) if character not in kept}
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
