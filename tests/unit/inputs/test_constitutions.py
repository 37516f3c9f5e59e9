import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cai_dagster.constitution.constitution import Constitution, load_constitution
from cai_dagster.inputs.constitutions import ConstitutionImportError, read_constitution, write_constitution

TURNS = ["Hello?", "Go away.", "Was that kind?", "It was not.", "Be kind.", "Hello! How can I help?"]
DIALOGUE = [{"role": ("user", "assistant")[number % 2], "content": turn} for number, turn in enumerate(TURNS)]
SWARM = {
    "constitutions": [
        {"critic": "Was it rude?", "revision": "Rewrite it without rudeness."},
        {"critic": "Was it false?", "revision": "Rewrite it truthfully."},
    ],
    "system_chat": [DIALOGUE],
}
CRITIQUES = {
    "harmful0": {
        "prompt": ["\n\nCritiqueRequest: Name what is unkind.\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Take out what is unkind.\n\nRevision:",
    },
    "harmful1": {
        "prompt": ["\n\nCritiqueRequest: Name what is unlawful.\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Take out what is unlawful.\n\nRevision:",
    },
}
COMPARISONS = ["Choose the kinder response.\nOptions:", "Which is less like a sermon?\n\nOptions:"]


@pytest.fixture
def imported(tmp_path: Path) -> Any:
    """Import a text or a JSON value as a file of a name; the constitution as the graph reads it."""

    def run(name: str, content: Any) -> Constitution:
        source = tmp_path / name
        source.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        written = tmp_path / "made.yaml"
        assert write_constitution(read_constitution([source]), written, None, "CC0-1.0") == load_constitution(written)
        return load_constitution(written)

    return run


def test_llm_swarms_principles_keep_their_texts_and_dialogues(imported: Any) -> None:
    made = imported("swarm.json", SWARM)
    assert [(one.critique_request, one.revision_request) for one in made.principles] == [
        ("Was it rude?", "Rewrite it without rudeness."),
        ("Was it false?", "Rewrite it truthfully."),
    ]
    assert "Rewrite it truthfully." in made.principles[1].comparison_request
    assert [list(asdict(dialogue).values()) for dialogue in made.dialogues] == [TURNS]


def test_a_dialogue_of_another_shape_is_left_out_and_named(imported: Any, tmp_path: Path) -> None:
    made = imported("swarm.json", {**SWARM, "system_chat": [DIALOGUE, DIALOGUE[:4]]})
    assert len(made.dialogues) == 1
    (note,) = read_constitution([tmp_path / "swarm.json"]).left_out
    assert note.startswith("swarm.json: system_chat[1]: turns of user, assistant, user, assistant;")
    assert f"# Left out: {note}" in (tmp_path / "made.yaml").read_text(encoding="utf-8")


def test_critique_and_revision_requests_lose_their_frame_and_keep_their_names(imported: Any) -> None:
    made = imported("CritiqueRevisionInstructions.json", CRITIQUES)
    assert [(one.slug, one.critique_request, one.revision_request) for one in made.principles] == [
        ("harmful0", "Name what is unkind.", "Take out what is unkind."),
        ("harmful1", "Name what is unlawful.", "Take out what is unlawful."),
    ]


def test_comparison_principles_lose_the_word_options(imported: Any) -> None:
    made = imported("RLMadisonInstructions.json", COMPARISONS)
    assert [one.comparison_request for one in made.principles] == [
        "Choose the kinder response.",
        "Which is less like a sermon?",
    ]
    assert all(one.comparison_request in one.critique_request for one in made.principles)


def test_several_files_become_one_constitution_and_are_not_paired_by_index(tmp_path: Path) -> None:
    files = [tmp_path / "critiques.json", tmp_path / "comparisons.json"]
    for file, value in zip(files, (CRITIQUES, COMPARISONS), strict=True):
        file.write_text(json.dumps(value), encoding="utf-8")
    assert len(read_constitution(files).principles) == 4


def test_a_list_has_a_principle_a_line(imported: Any) -> None:
    made = imported("list.txt", "# ours\n\n- Be kind.\r\n2. Tell the truth.\nDo not boast. {text} %s\n")
    said = ["Be kind.", "Tell the truth.", "Do not boast. {text} %s"]
    assert [one.critique_request.split("principle: ")[1] for one in made.principles] == said
    assert [one.slug for one in made.principles] == ["kind", "tell-truth", "do-not-boast-text-s"]


def test_markdown_lists_are_principles_and_headings_their_tags(imported: Any, tmp_path: Path) -> None:
    text = (
        "# A charter\n\nWhat we *want*.\n\n## Kindness\n\n- Be **kind**\n  always.\n- Be patient.\n  - Even at night.\n"
        "\n## Truth\n\n### In numbers\n\n1. Do not `round`.\n\n## Care\n\n* Take care.\n"
    )
    made = imported("charter.md", text)
    assert [one.tags for one in made.principles] == [("Kindness",), ("Kindness",), ("Truth", "In numbers"), ("Care",)]
    said = ["Be kind always.", "Be patient.\nEven at night.", "Do not round.", "Take care."]
    assert [one.revision_request.split("principle: ")[1] for one in made.principles] == said
    found = read_constitution([tmp_path / "charter.md"])
    assert found.title == "A charter"
    assert found.left_out == ("charter.md:3: not in a list, so not a principle: What we want.",)


def test_a_slug_depends_on_the_text_and_not_on_the_order(imported: Any, tmp_path: Path) -> None:
    texts = ["Be kind to all of them.", "Be kind to them, and then to others as well.", "公平であること。"]
    forth = {one.id: one.slug for one in imported("forth.txt", "\n".join(texts)).principles}
    (tmp_path / "made.yaml").unlink()
    back = {one.id: one.slug for one in imported("back.txt", "\n".join(reversed(texts))).principles}
    assert forth == back
    assert len(set(forth.values())) == 3


def test_different_principles_with_the_same_first_words_have_slugs_of_their_own(imported: Any) -> None:
    same = "Be fair and kind and honest and brave and calm"
    made = imported("list.txt", f"{same} at home.\n{same} at work.")
    slugs = [one.slug for one in made.principles]
    assert len(set(slugs)) == 2
    assert all(slug.startswith("fair-kind-honest-brave-calm-") for slug in slugs)


def test_a_principle_that_stands_twice_has_twice_the_weight(imported: Any) -> None:
    made = imported("list.txt", "Be kind.\nBe true.\nBe kind.")
    assert [(one.slug, one.weight) for one in made.principles] == [("kind", 2.0), ("true", 1.0)]


@pytest.mark.parametrize(
    "text",
    ["null", "2020-01-01", "a: b # c", "'\"\\", "\x1b[31m", "a\u2028b", "<b>&amp;", "- *x", "👩🏽‍🚀", "1e5", "\u202ex"],
)
def test_hostile_texts_come_back_as_they_were(imported: Any, text: str) -> None:
    made = imported("swarm.json", {"constitutions": [{"critic": text, "revision": text}]})
    assert (made.principles[0].critique_request, made.principles[0].revision_request) == (text, text)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", '{"constitutions": [\n{"critic": }]}', "a.json: not JSON: Expecting value (line 2, column 12)"),
        ("a.json", {"constitutions": []}, "a.json: constitutions: List should have at least 1 item"),
        ("a.json", {"constitutions": [{"critic": "x"}]}, "a.json: constitutions[0].revision: Field required"),
        ("a.json", {"constitutions": [{"critic": 3, "revision": "x"}]}, "constitutions[0].critic: Input should be"),
        ("a.json", {"constitutions": [{"critic": "\ud800", "revision": "x"}]}, "constitutions[0].critic: "),
        ("a.json", {"harmful0": {"prompt": [], "edit_request": "x"}}, "a.json: harmful0.prompt: List should have"),
        (
            "a.json",
            {"x": {"prompt": ["\n\nCritiqueRequest:\n\nCritique:"], "edit_request": "x"}},
            "a.json: x.prompt[0]: nothing is left of",
        ),
        ("a.json", ["Options:"], "a.json: [0]: nothing is left of 'Options:'"),
        ("a.json", ["fine", ""], "a.json: [1]: String should have at least 1 character"),
        ("a.json", [], "a.json: the file: List should have at least 1 item"),
        ("a.json", "3", "a.json: int at the top; expected llm-swarm's object"),
        ("a.json", '{"a": 1, "a": 2}', "the key 'a' stands 2 times"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.txt", "\n# nothing\n", "a.txt:1: no principle in it"),
        ("a.md", "# Title\n\nText only.", "a.md:1: no list in it"),
        ("a.csv", "x", "a.csv: cannot tell what it is; the name must end in .json, .md, .markdown, .txt"),
    ],
)
def test_a_broken_file_is_named_with_place_and_reason(tmp_path: Path, name: str, content: Any, said: str) -> None:
    file = tmp_path / name
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(ConstitutionImportError) as raised:
        read_constitution([file])
    assert said in str(raised.value)


def test_a_missing_file_and_one_of_other_bytes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConstitutionImportError, match=r"none\.txt: cannot be read: No such file"):
        read_constitution([tmp_path / "none.txt"])
    (tmp_path / "latin.txt").write_bytes("fine\nna\xefve".encode("latin-1"))
    with pytest.raises(ConstitutionImportError, match=r"latin\.txt:2: byte 0xef is not UTF-8"):
        read_constitution([tmp_path / "latin.txt"])


def test_a_file_that_is_there_is_replaced_only_when_told(tmp_path: Path) -> None:
    source, written = tmp_path / "list.txt", tmp_path / "made.yaml"
    source.write_text("Be kind.", encoding="utf-8")
    written.write_text("mine", encoding="utf-8")
    found = read_constitution([source])
    with pytest.raises(ConstitutionImportError, match="exists; name another --output, or replace it with --overwrite"):
        write_constitution(found, written, None, "unknown")
    assert written.read_text(encoding="utf-8") == "mine"
    assert write_constitution(found, written, "Ours", "unknown", overwrite=True).version == "made"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["list.txt", "made.yaml"]


@pytest.mark.parametrize("name", ["Made.yaml", "made.yml", "a b.yaml"])
def test_a_name_that_is_no_version_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "list.txt").write_text("Be kind.", encoding="utf-8")
    with pytest.raises(ConstitutionImportError, match=r"the name must be VERSION\.yaml"):
        write_constitution(read_constitution([tmp_path / "list.txt"]), tmp_path / name, None, "unknown")


def test_a_constitution_that_would_be_refused_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(f"Principle {number}: {'x' * 400}" for number in range(1000)))
    with pytest.raises(ConstitutionImportError, match="a constitution has at most"):
        write_constitution(read_constitution([tmp_path / "list.txt"]), tmp_path / "made.yaml", None, "unknown")
    assert not (tmp_path / "made.yaml").exists()


EXAMPLES = {
    "a.json": ('["Q: How do I open a jar?\\nA: Turn the lid.", "Q: Is it late?\\nA: I cannot see a clock."]', "[0]"),
    "b.json": ('[{"prompt": "Is tea warm?", "response": "Mostly."}]', "[0]"),
    "a.md": ("# Examples\n\n- User: Is tea warm?\n\n  Bot: Mostly.\n- User: Is ice cold?\n\n  Bot: Yes.\n", "line 3"),
    "a.txt": ("User: Is tea warm?\nBot: Mostly.\n\nUser: Is ice cold?\nBot: Yes.\n", "line 1"),
}


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_few_shot_examples_are_no_principles(tmp_path: Path, name: str) -> None:
    text, place = EXAMPLES[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(ConstitutionImportError) as caught:
        read_constitution([tmp_path / name])
    assert str(tmp_path / name) in str(caught.value)
    assert f": {place}: this is a dialogue, not a principle" in str(caught.value)
    assert "`dialogues:`" in str(caught.value)


def test_a_list_of_questions_is_a_list_of_principles(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["Which response is kinder?", "Which response says: I do not know?"]')
    (tmp_path / "a.txt").write_text("Question: which response is kinder?\nQuestion: which one is shorter?\n")
    assert len(read_constitution([tmp_path / "a.json"]).principles) == 2
    assert len(read_constitution([tmp_path / "a.txt"]).principles) == 2


def test_every_word_of_a_line_is_kept_and_empty_bullets_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "principles.txt").write_text(
        "Refuse to help anyone under 18. Offer them a person to talk to.\n"
        "Say when you are 90 % sure or less. 2) is not a bullet here.\n- \n*\n3.\n- Be brief.\n"
    )
    found = read_constitution([tmp_path / "principles.txt"])
    assert [one.revision_request.partition(": ")[2] for one in found.principles] == [
        "Refuse to help anyone under 18. Offer them a person to talk to.",
        "Say when you are 90 % sure or less. 2) is not a bullet here.",
        "Be brief.",
    ]
    assert [note.split(": ")[0] for note in found.left_out] == [f"principles.txt:{line}" for line in (3, 4, 5)]


def test_an_empty_item_of_a_markdown_list_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("- Be kind.\n-\n- Be brief.\n")
    found = read_constitution([tmp_path / "a.md"])
    assert len(found.principles) == 2
    assert found.left_out == ("a.md:2: a bullet without a text",)
