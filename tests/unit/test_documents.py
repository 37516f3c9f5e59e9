"""What the documents point to is there: files, headings, images, modules, settings, commands and make targets."""

import ast
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from cai_dagster.project import PROJECT
from cai_dagster.settings import Settings
from tests.documents import DOCUMENTS, Document, github_slug, name_of, read
from tests.shell_lines import CommandLineError, check_command, commands, make_targets

PARSED = {document: read(document) for document in DOCUMENTS}
CODE_PATH = re.compile(
    r"(?:cai_dagster|assets|resources|tests|benchmarks|docs|constitutions|prompts|requirements)/[\w./-]+"
)
SETTING = re.compile(r"([a-z_]+)\.([a-z_]+)(?: = .*)?")
LANGUAGES = {"python", "sh", "toml", "yaml", "json", "sql", "text"}

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


def problems_of_links(document: Document, parsed: dict[Path, Document]) -> list[str]:
    """A line for each link that leads nowhere."""
    problems = [(line, target, _problem(document, target, parsed)) for line, target in document.links]
    return [f"{document.path.name}:{line}: {target}: {problem}" for line, target, problem in problems if problem]


def _problem(document: Document, target: str, parsed: dict[Path, Document]) -> str:
    parts = urlsplit(target)
    if parts.scheme == "mailto":
        return "" if "@" in parts.path else "no address"
    if parts.scheme or parts.netloc:
        usable = parts.scheme in {"http", "https"} and re.fullmatch(r"[\w.-]+(:\d+)?", parts.netloc)
        return "" if usable and not re.search(r"[\s<>]", target) else "no address on the web"
    file = (document.path.parent / unquote(parts.path)).resolve() if parts.path else document.path
    if not file.exists():
        return "no such file"
    if parts.fragment and file.suffix == ".md":
        other = parsed[file] if file in parsed else read(file)
        return "" if unquote(parts.fragment) in other.anchors else "no such heading"
    return ""


@each_document
def test_every_link_leads_somewhere(document: Path) -> None:
    assert problems_of_links(PARSED[document], PARSED) == []


def test_a_link_that_leads_nowhere_is_named_with_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`: three?\n\n[here](#one-two-three) [again](#one-two-three-1) [file](page.md#one-two-three)\n"
        "![image](missing.png) [gone](gone.md)\n[web](https://example.org/a) [bad](http:///x)\n\n"
        "# One two three\n\n<a id='own'></a> [own](#own) <img src='missing.svg'>\n",
        encoding="utf-8",
    )
    problems = problems_of_links(read(page), {})
    assert problems == [
        "page.md:4: missing.png: no such file",
        "page.md:4: gone.md: no such file",
        "page.md:5: http:///x: no address on the web",
        "page.md:9: missing.svg: no such file",
    ]


@pytest.mark.parametrize(
    ("heading", "slug"),
    [
        ("Two commands", "two-commands"),
        ("`judge_calibration`", "judge_calibration"),
        ("What's new, in 0.1.0?", "whats-new-in-010"),
        ("Soft labels – or hard ones", "soft-labels--or-hard-ones"),
        ("A *word* and [a link](x.md)", "a-word-and-a-link"),
    ],
)
def test_anchors_are_those_of_github(heading: str, slug: str) -> None:
    from markdown_it import MarkdownIt

    assert github_slug(MarkdownIt("commonmark").parse(f"# {heading}")[1]) == slug


@each_document
def test_every_path_that_is_named_is_there(document: Path) -> None:
    named = [(line, path) for line, span in PARSED[document].spans for path in CODE_PATH.findall(span)]
    missing = [
        f"{document.name}:{line}: {path}"
        for line, path in named
        if Path(path).suffix and not (PROJECT / path).exists() and not re.search(r"NAME|FILE|charter|paper", path)
    ]
    assert missing == []


@each_document
def test_every_setting_that_is_named_is_there(document: Path) -> None:
    missing: list[str] = []
    for line, span in PARSED[document].spans:
        match = SETTING.fullmatch(span)
        section = Settings.model_fields.get(match[1]) if match else None
        if match and section and match[2] not in getattr(section.annotation, "model_fields", {}):
            missing.append(f"{document.name}:{line}: {span}")
    assert missing == []


@each_document
def test_every_command_in_a_sentence_is_there(document: Path) -> None:
    problems: list[str] = []
    for line, span in PARSED[document].spans:
        words = span.split()
        try:
            if words[:1] == ["cai"] and words[1:]:
                check_command(words, whole=False)
            elif words[:1] == ["make"] and words[1:]:
                assert words[1] in make_targets()
        except (CommandLineError, AssertionError) as error:
            problems.append(f"{document.name}:{line}: {span}: {error}")
    assert problems == []


@each_document
def test_every_test_that_is_named_is_there(document: Path) -> None:
    written = "\n".join(file.read_text(encoding="utf-8") for file in (PROJECT / "tests").rglob("test_*.py"))
    named = [(line, span) for line, span in PARSED[document].spans if re.fullmatch(r"test_\w+", span)]
    assert [f"{document.name}:{line}: {name}" for line, name in named if f"def {name}(" not in written] == []


@each_document
def test_every_block_says_its_language(document: Path) -> None:
    assert [str(block) for block in PARSED[document].blocks if block.language not in LANGUAGES] == []


def symbols(module: Path) -> set[str]:
    """The names that a module defines: functions, classes, their methods and fields, and values."""
    found: set[str] = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        found |= _names(node)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for child in node.body for name in _names(child)}
    return found


def _names(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {node.name}
        case ast.Assign():
            return {target.id for target in node.targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case _:
            return set()


@each_document
def test_code_that_is_linked_to_a_module_is_defined_there(document: Path) -> None:
    missing: list[str] = []
    for line, span, target in PARSED[document].linked_code:
        module = (document.parent / target).resolve()
        name = span.removesuffix("()")
        if module.suffix == ".py" and "/" not in name and not name.endswith(".py") and name not in symbols(module):
            missing.append(f"{document.name}:{line}: {name} is not in {target}")
    assert missing == []


@each_document
def test_no_document_names_a_machine_or_a_task_left_open(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert not re.search(r"TODO|FIXME|XXX|/home/(?!me\b)\w+|/root/|/tmp/(?!ray|cai_dagster)", text)


def test_the_readme_stays_short() -> None:
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


@pytest.mark.parametrize(
    "line",
    [
        "cai plan --versions v1",
        "cai plans",
        "cai import constitution",
        ".venv/bin/cai score < texts.jsonl",
        "CAI_PROFILE=demo cai retry --table revision_rounds",
        "cai plan --json yes",
        "make everything",
        "python -m benchmarks.nothing",
        "pip install -e .[tpu]",
        "dagster asset materialise --select '*'",
    ],
)
def test_a_command_that_would_be_refused_is_found(line: str) -> None:
    refused = commands(line)[0]
    with pytest.raises(CommandLineError):
        check_command(refused)


def test_a_script_is_split_into_its_commands() -> None:
    script = (
        "# a comment\nCAI_PROFILE=demo cai plan --version v2   # another\n"
        "vllm serve <folder> --x \\\n    --y 1 > log.txt 2>&1 &\n"
        "cai score --model 3f9a < a.jsonl | head -3 && make ui\n"
    )
    assert commands(script) == [
        ["cai", "plan", "--version", "v2"],
        ["vllm", "serve", "PLACEHOLDER", "--x", "--y", "1"],
        ["cai", "score", "--model", "3f9a"],
        ["head", "-3"],
        ["make", "ui"],
    ]


def test_every_concept_says_where_it_is() -> None:
    page = (PROJECT / "docs/concepts.md").read_text(encoding="utf-8").split("<!-- end of tables -->", 1)[1]
    rows = [row.split(" | ") for row in page.splitlines() if row.startswith("| ") and not row.startswith("| term")]
    assert {"constitution", "slot", "asset", "reward model", "data version", "clamping"} <= {row[0][2:] for row in rows}
    assert [row[0] for row in rows if "](" not in "".join(row[2:])] == []
