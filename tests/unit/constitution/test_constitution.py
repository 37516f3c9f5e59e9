"""Constitution files: what is refused and where, what identifies a principle, and how principles are drawn."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from cai_dagster import hashing
from cai_dagster.constitution.constitution import Comparison, Constitution, Dialogue, Principle, load_constitution
from cai_dagster.constitution.versions import ConstitutionError, constitution_versions
from cai_dagster.project import PROJECT
from cai_dagster.tables.registry import TABLES
from cai_dagster.tables.validation import pandera_schema

GOOD = """\
title: Two principles
description: For tests.
licence: CC0-1.0
principles:
  - slug: harm
    critique_request: Name the harm.
    revision_request: Remove the harm.
    comparison_request: Which one is less harmful?
    weight: 2
    tags: [safety]
  - slug: honesty
    critique_request: Name what is untrue.
    revision_request: Make it true.
    comparison_request: Which one is more honest?
dialogues:
  - prompt: Hello
    response: Go away.
    critique_request: Name the rudeness.
    critique: It is rude.
    revision_request: Be kind.
    revision: Welcome!
"""
COMPARISONS = """\
comparisons:
  - prompt: Hello
    response_a: Hello!
    response_b: Go away.
    comparison_request: Which one is more polite?
    better: A
    rationale: Only (A) greets back.
    score_a: 9
    score_b: 1
  - prompt: Is it late?
    response_a: No idea.
    response_b: It is nine.
    comparison_request: Which one is more useful?
    better: B
"""
DRAWS = 20_000


def written(folder: Path, text: str | bytes, version: str = "v7") -> Path:
    file = folder / f"{version}.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def refusal(file: Path) -> str:
    with pytest.raises(ConstitutionError) as caught:
        load_constitution(file)
    return str(caught.value)


def principle(slug: str, weight: float = 1.0) -> Principle:
    return Principle(slug, f"Criticise {slug}.", f"Revise {slug}.", f"Which one is better in {slug}?", weight)


def draws(constitution: Constitution, count: int = 3_000) -> list[str]:
    return [constitution.draw(f"{number:032x}", "revision_rounds", 1)[0].slug for number in range(count)]


def test_a_file_becomes_a_constitution_that_is_named_after_it(tmp_path: Path) -> None:
    constitution = load_constitution(written(tmp_path, GOOD))
    assert constitution == Constitution(
        version="v7",
        principles=(
            Principle(
                "harm", "Name the harm.", "Remove the harm.", "Which one is less harmful?", weight=2.0, tags=("safety",)
            ),
            Principle("honesty", "Name what is untrue.", "Make it true.", "Which one is more honest?"),
        ),
        dialogues=(Dialogue("Hello", "Go away.", "Name the rudeness.", "It is rude.", "Be kind.", "Welcome!"),),
    )


def test_few_shot_comparisons_are_read_and_come_back_from_the_table(tmp_path: Path) -> None:
    constitution = load_constitution(written(tmp_path, GOOD + COMPARISONS))
    assert constitution.comparisons == (
        Comparison(
            "Hello",
            "Hello!",
            "Go away.",
            "Which one is more polite?",
            "A",
            "Only (A) greets back.",
            score_a=9,
            score_b=1,
        ),
        Comparison("Is it late?", "No idea.", "It is nine.", "Which one is more useful?", "B"),
    )
    frame = pl.DataFrame(constitution.to_rows(), schema=TABLES["constitution"].schema)
    assert pandera_schema(TABLES["constitution"]).validate(frame).equals(frame)
    assert Constitution.from_rows(frame.to_dicts()) == constitution


def test_rows_from_before_there_were_comparisons_have_none(tmp_path: Path) -> None:
    constitution = load_constitution(written(tmp_path, GOOD))
    older = [{**row, "comparisons": None} for row in constitution.to_rows()]
    assert Constitution.from_rows(older) == constitution


def test_comparisons_change_no_principle_and_no_draw(tmp_path: Path) -> None:
    plain, taught = (load_constitution(written(tmp_path, text)) for text in (GOOD, GOOD + COMPARISONS))
    assert taught.principles == plain.principles
    assert draws(taught, 100) == draws(plain, 100)


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "problem"),
    [
        ("    better: A\n", "", 23, "comparisons[0].better", "required"),
        ("better: A", "better: C", 27, "comparisons[0].better", "'A' or 'B'"),
        ("score_a: 9", "score_a: 11", 29, "comparisons[0].score_a", "less than or equal to 10"),
        ("score_a: 9", "score_a: 9.5", 29, "comparisons[0].score_a", "valid integer"),
        ("    score_b: 1\n", "", 23, "comparisons[0]", "give both or neither"),
        ("better: A", "better: B", 23, "comparisons[0]", "do not say that B is better"),
        ("score_b: 1", "score_b: 9", 23, "comparisons[0]", "do not say that A is better"),
        ("response_b: It is nine.", "response_b: ''", 33, "comparisons[1].response_b", "at least 1 character"),
    ],
)
def test_a_wrong_comparison_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, *, line: int, field: str, problem: str
) -> None:
    assert old in COMPARISONS
    file = written(tmp_path, GOOD + COMPARISONS.replace(old, new, 1))
    message = refusal(file)
    assert message.startswith(f"{file}:{line}: {field}: ")
    assert problem in message


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert load_constitution(written(tmp_path, b"\xef\xbb\xbf" + GOOD.encode())).version == "v7"


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "problem"),
    [
        ("title: Two principles", "title: ''", 1, "title", "at least 1 character"),
        ("description: For tests.", "description: '  '", 2, "description", "at least 1 character"),
        ("title: Two principles", "title: A\nauthor: B", 2, "author", "not permitted"),
        ("    tags: [safety]", "    tag: safety", 10, "principles[0].tag", "not permitted"),
        ("    tags: [safety]", "    tags: safety", 10, "principles[0].tags", "valid list"),
        ("    tags: [safety]", "    tags:\n      - safety\n      - 5", 12, "principles[0].tags[1]", "valid string"),
        ("    weight: 2", "    weight: 0", 9, "principles[0].weight", "greater than 0"),
        ("    weight: 2", "    weight: -0.5", 9, "principles[0].weight", "greater than 0"),
        ("    weight: 2", "    weight: .nan", 9, "principles[0].weight", "finite"),
        ("    weight: 2", "    weight: .inf", 9, "principles[0].weight", "finite"),
        ("    weight: 2", "    weight: '2'", 9, "principles[0].weight", "valid number"),
        ("    weight: 2", "    weight: yes", 9, "principles[0].weight", "valid number"),
        ("    weight: 2", "    weight: 2\n    weight: 3", 10, "principles[0].weight", "already on line 9"),
        ("slug: honesty", "slug: harm", 11, "principles[1].slug", "already the slug on line 5"),
        ("slug: honesty", "slug: no", 11, "principles[1].slug", "valid string"),
        ("slug: honesty", "slug: 5", 11, "principles[1].slug", "valid string"),
        ("slug: honesty", "slug: 2024-01-01", 11, "principles[1].slug", "valid string"),
        ("slug: honesty", "slug: 2024-13-45", 11, "principles[1].slug", "cannot be read"),
        ("slug: honesty", "slug: Honesty", 11, "principles[1].slug", "match pattern"),
        ("slug: honesty", 'slug: "honesty\\n"', 11, "principles[1].slug", "match pattern"),
        ("slug: honesty", "slug: " + "a" * 81, 11, "principles[1].slug", "at most 80"),
        ("  - slug: honesty\n", "  - weight: 1\n", 11, "principles[1].slug", "required"),
        ("    revision_request: Make it true.\n", "", 11, "principles[1].revision_request", "required"),
        ("Make it true.", "''", 13, "principles[1].revision_request", "at least 1 character"),
        ("Make it true.", "", 13, "principles[1].revision_request", "valid string"),
        ("Make it true.", "\n      ''", 13, "principles[1].revision_request", "at least 1 character"),
        ("Make it true.", "[Make, it, true]", 13, "principles[1].revision_request", "valid string"),
        ("Make it true.", "!!python/object:os.system x", 13, "principles[1].revision_request", "cannot be read"),
        ("    revision: Welcome!", "    revision: ''", 21, "dialogues[0].revision", "at least 1 character"),
        ("    revision: Welcome!\n", "", 16, "dialogues[0].revision", "required"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, *, line: int, field: str, problem: str
) -> None:
    assert old in GOOD
    file = written(tmp_path, GOOD.replace(old, new, 1))
    message = refusal(file)
    assert message.startswith(f"{file}:{line}: {field}: ")
    assert problem in message
    assert "\n" not in message


def test_every_wrong_field_is_named_at_once(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD.replace("weight: 2", "weight: 0").replace("Make it true.", "''"))
    first, second = refusal(file).splitlines()
    assert first.startswith(f"{file}:9: principles[0].weight: ")
    assert second.startswith(f"{file}:13: principles[1].revision_request: ")


@pytest.mark.parametrize("principles", ["principles: []", "principles:", "principles: {}"])
def test_a_constitution_without_principles_is_refused(tmp_path: Path, principles: str) -> None:
    file = written(tmp_path, f"title: None\ndescription: None.\nlicence: CC0-1.0\n{principles}\n")
    assert refusal(file).startswith(f"{file}:4: principles: ")


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("", 1, "empty"),
        ("# A comment alone.\n", 1, "empty"),
        ("title: A\n\tdescription: B\n", 2, "not valid YAML"),
        ("title: A\ndescription: 'B\n", 3, "not valid YAML"),
        ("title: A\nlicence: [B\ntags: C\n", 3, "not valid YAML"),
        ("title: A\n--- \ntitle: B\n", 2, "not valid YAML"),
        ('title: A\nslug: "\\ud800"\n', 2, "not valid YAML: found invalid Unicode character"),
        ("title: &t A\ndescription: *t\n", 2, "aliases"),
        ("title: A\ndescription: *t\n", 2, "aliases"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", 2, "aliases"),
        ("title: A\nprinciples:\n  - " + "[" * 20 + "]" * 20, 3, "nested deeper"),
        ("title: A\nprinciples: " + "{a: " * 5_000 + "1" + "}" * 5_000, 2, "nested deeper"),
        ("- title\n", 1, "constitution: "),
        ("just words\n", 1, "constitution: "),
        (b"title: A\ndescription: caf\xe9\n", 2, "not UTF-8"),
        (GOOD.encode("utf-16"), 1, "not UTF-8"),
        ("title: A\ndescription: a\x00b\n", 2, "not valid YAML"),
        ("title: A\ndescription: a\x1b[31mb\n", 2, "not valid YAML"),
    ],
)
def test_a_file_that_is_no_constitution_is_refused_with_the_line(
    tmp_path: Path, text: str | bytes, line: int, problem: str
) -> None:
    file = written(tmp_path, text)
    message = refusal(file)
    assert message.startswith(f"{file}:{line}: ")
    assert problem in message


@pytest.mark.parametrize("value", ['!!int ""', '!!float ""', "!!bool maybe", "!!timestamp soon"])
def test_a_value_that_its_own_tag_contradicts_is_named_with_its_line(tmp_path: Path, value: str) -> None:
    file = written(tmp_path, GOOD.replace("weight: 2", f"weight: {value}"))
    assert refusal(file).startswith(f"{file}:9: principles[0].weight: ")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("title:", "? " + "k" * 900_000 + "\n: 1\ntitle:"),
        ("title:", "? " + "k" * 400_000 + "\n: 1\n? " + "k" * 400_000 + "\n: 1\ntitle:"),
        ("weight: 2", "weight: !!int " + "k" * 900_000),
        ("weight: 2", "weight: !" + "k" * 900 + "!x 1"),
        ("title:", "".join(f"k{number}: 1\n" for number in range(20_000)) + "title:"),
    ],
    ids=["field", "field twice", "value", "tag", "many"],
)
def test_a_message_is_short_however_long_the_file_is(tmp_path: Path, old: str, new: str) -> None:
    message = refusal(written(tmp_path, GOOD.replace(old, new, 1)))
    assert "k" in message or "undefined tag handle" in message
    assert all(len(line.removeprefix(str(tmp_path))) < 300 for line in message.splitlines())
    assert len(message.splitlines()) <= 101
    if new.startswith("k0:"):
        assert message.endswith(f"and {20_000 - 100:,} more problems")


def test_a_file_that_is_missing_or_too_large_is_refused_by_name(tmp_path: Path) -> None:
    assert refusal(tmp_path / "v8.yaml").startswith(f"{tmp_path / 'v8.yaml'}: cannot be read")
    large = written(tmp_path, GOOD + "#" * 1_000_000)
    assert refusal(large).startswith(f"{large}: 1,0")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_shipped_version_has_sixteen_principles_in_the_public_domain(version: str) -> None:
    file = PROJECT / "constitutions" / f"{version}.yaml"
    assert len(load_constitution(file).principles) == 16
    assert "\nlicence: CC0-1.0\n" in file.read_text(encoding="utf-8")


def test_the_shipped_versions_differ_in_one_principle_of_the_same_slug() -> None:
    first, second = (load_constitution(PROJECT / "constitutions" / f"{version}.yaml") for version in ("v1", "v2"))
    assert len({each.id for each in first.principles} - {each.id for each in second.principles}) == 1
    assert len({each.id for each in second.principles} - {each.id for each in first.principles}) == 1
    assert {each.slug for each in first.principles} == {each.slug for each in second.principles}


def test_a_principle_is_identified_by_its_slug_and_texts_alone() -> None:
    harm = principle("harm")
    assert replace(harm, weight=7.0, tags=("safety",)).id == harm.id
    for field in ("slug", "critique_request", "revision_request", "comparison_request"):
        assert replace(harm, **{field: "another"}).id != harm.id


def test_a_principle_keeps_its_id_wherever_it_stands_in_the_file(tmp_path: Path) -> None:
    head, first, second = GOOD[: GOOD.index("dialogues:")].replace("  - slug", "\f  - slug").split("\f")
    ids = [each.id for each in load_constitution(written(tmp_path, head + first + second)).principles]
    assert [each.id for each in load_constitution(written(tmp_path, head + second + first)).principles] == ids[::-1]


@pytest.mark.parametrize("name", ["good", "v1", "v2"])
def test_rows_give_the_constitution_back(tmp_path: Path, name: str) -> None:
    file = written(tmp_path, GOOD) if name == "good" else PROJECT / "constitutions" / f"{name}.yaml"
    constitution = load_constitution(file)
    rows = constitution.to_rows()
    assert [row["principle_id"] for row in rows] == [each.id for each in constitution.principles]
    assert Constitution.from_rows(rows) == constitution


def test_draws_follow_the_weights() -> None:
    weights = {"a": 0.5, "b": 1.0, "c": 2.0, "d": 4.0}
    constitution = Constitution("v", tuple(principle(slug, weight) for slug, weight in weights.items()))
    counts = Counter(draws(constitution, DRAWS))
    for slug, weight in weights.items():
        share = weight / sum(weights.values())
        assert abs(counts[slug] / DRAWS - share) < 4 * math.sqrt(share * (1 - share) / DRAWS)


def test_the_second_of_several_draws_follows_the_weights_of_the_rest() -> None:
    constitution = Constitution("v", (principle("a", 1.0), principle("b", 2.0), principle("c", 1.0)))
    pairs = [tuple(each.slug for each in constitution.draw(f"{n}", "judgements", 0, 2)) for n in range(DRAWS // 2)]
    seconds = Counter(second for first, second in pairs if first == "a")
    total = seconds.total()
    assert abs(seconds["b"] / total - 2 / 3) < 4 * math.sqrt(2 / 9 / total)


def test_an_edited_text_keeps_every_draw() -> None:
    before = Constitution("v", tuple(principle(slug) for slug in "abcdef"))
    edited = replace(before.principles[2], critique_request="Another text.", revision_request="Yet another.")
    after = Constitution("w", (*before.principles[:2], edited, *before.principles[3:]))
    assert draws(after) == draws(before)


def test_the_order_of_the_principles_decides_no_draw() -> None:
    principles = tuple(principle(slug, 1.0 + index) for index, slug in enumerate("abcdef"))
    assert draws(Constitution("v", principles[::-1])) == draws(Constitution("v", principles))


def test_a_removed_principle_hands_its_draws_to_the_others() -> None:
    principles = tuple(principle(slug) for slug in "abcdef")
    before, after = draws(Constitution("v", principles)), draws(Constitution("v", principles[:-1]))
    assert {old for old, new in zip(before, after, strict=True) if old != new} == {"f"}
    assert {new for old, new in zip(before, after, strict=True) if old == "f"} == set("abcde")


def test_an_added_principle_takes_its_share_and_moves_nothing_else() -> None:
    principles = tuple(principle(slug) for slug in "abcde")
    count = DRAWS // 4
    before = draws(Constitution("v", principles), count)
    after = draws(Constitution("v", (*principles, principle("new"))), count)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"new"}
    assert abs(len(moved) / count - 1 / 6) < 4 * math.sqrt(5 / 36 / count)


def test_several_draws_are_different_principles_and_begin_with_the_single_one() -> None:
    constitution = Constitution("v", tuple(principle(slug) for slug in "abcd"))
    for number in range(200):
        drawn = constitution.draw(f"{number}", "judgements", 0, count=3)
        assert len({each.slug for each in drawn}) == 3
        assert drawn[:1] == constitution.draw(f"{number}", "judgements", 0)


def test_no_more_principles_are_drawn_than_there_are() -> None:
    constitution = Constitution("v", tuple(principle(slug) for slug in "abc"))
    assert sorted(each.slug for each in constitution.draw("x", "judgements", 0, count=9)) == ["a", "b", "c"]


@pytest.mark.parametrize("place", [("q", "s", 1, 0), ("p", "t", 1, 0), ("p", "s", 2, 0), ("p", "s", 1, 1)])
def test_prompt_stage_round_and_seed_each_draw_anew(place: tuple[str, str, int, int]) -> None:
    constitution = Constitution("v", tuple(principle(f"p{number}") for number in range(1_000)))
    *slot, seed = place
    assert constitution.draw(*slot, seed=seed) != constitution.draw("p", "s", 1)
    assert constitution.draw(*slot, seed=seed) == constitution.draw(*slot, seed=seed)


@pytest.mark.parametrize("digit", ["0", "f"])
def test_the_most_extreme_hashes_still_draw(monkeypatch: pytest.MonkeyPatch, digit: str) -> None:
    monkeypatch.setattr(hashing, "content_hash", lambda value, digits=64: digit * digits)
    assert 0 < hashing.unit_interval("x") < 1
    assert len(Constitution("v", (principle("a"), principle("b"))).draw("p", "s", 0)) == 1


def test_versions_are_the_lower_case_stems_of_yaml_files(tmp_path: Path) -> None:
    bad = [
        "....yaml",
        "a...b.yaml",
        "V3.yaml",
        "vX.yaml",
        ".hidden.yaml",
        "-v.yaml",
        "v 5.yaml",
        "v\n6.yaml",
        "é.yaml",
        "v7.yml",
        "v8.YAML",
        "v9.yaml.bak",
        "notes.txt",
    ]
    for name in ["v2.yaml", "v10.yaml", "v1.yaml", "2024-01_a.b.yaml", *bad]:
        (tmp_path / name).write_text("neither: opened", encoding="utf-8")
    assert constitution_versions(tmp_path) == ["2024-01_a.b", "v1", "v2", "v10"]


CHANGED = """principles:
  - slug: numbers  # a comment behind a slug
    critique_request: Say where the response forgets rule # 3 of the house.
    revision_request: "Rewrite it so that rule # 3 is kept." # a comment behind a quoted text
    # a comment on a line of its own
    comparison_request: Which response
      keeps rule # 3?
    weight: {weight}
"""


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        ("010", "weight: YAML reads 010 as 8; write 10"),
        ("1:30", "weight: YAML reads 1:30 as 90; write a plain number"),
        ("1_5", "weight: YAML reads 1_5 as 15; write a plain number"),
        ("0x10", "weight: YAML reads 0x10 as 16; write a plain number"),
    ],
)
def test_what_yaml_reads_otherwise_than_it_is_written_is_refused_with_its_line(
    tmp_path: Path, weight: str, said: str
) -> None:
    file = tmp_path / "v1.yaml"
    file.write_text(CHANGED.format(weight=weight))
    with pytest.raises(ConstitutionError) as caught:
        load_constitution(file)
    comment = "a text ends at ` #`, where YAML sees a comment: quote the text"
    assert str(caught.value).splitlines() == [
        f"{file}:3: principles[0].critique_request: {comment}",
        f"{file}:6: principles[0].comparison_request: {comment}",
        f"{file}:8: principles[0].{said}",
    ]


@pytest.mark.parametrize("weight", ["10", "0.5", "2.", "1.0e-3", "10 # ten"])
def test_quoted_texts_and_plain_numbers_are_read_as_they_are_written(tmp_path: Path, weight: str) -> None:
    file = tmp_path / "v1.yaml"
    text = CHANGED.replace("Say where the response forgets rule # 3 of the house.", '"Say it of rule # 3."')
    file.write_text(
        text.replace("Which response\n      keeps rule # 3?", "'Which keeps rule # 3?'").format(weight=weight)
    )
    (principle,) = load_constitution(file).principles
    assert (principle.critique_request, principle.comparison_request) == (
        "Say it of rule # 3.",
        "Which keeps rule # 3?",
    )
    assert principle.weight == float(weight.split("#", maxsplit=1)[0])
