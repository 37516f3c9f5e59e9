"""The documents of the project as tests see them: links, anchors, code blocks and code spans, with their lines."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from cai_dagster.project import PROJECT

DOCUMENTS = [
    *(PROJECT / name for name in ("README.md", "AGENTS.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((PROJECT / "docs").glob("*.md")),
]
_MARKDOWN = MarkdownIt("commonmark").enable("table")
_REMARK = re.compile(r"<!--\s*(not run|run)(?::\s*(.*?))?\s*-->\s*$", re.DOTALL)
_HTML_LINK = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)\s*=\s*[\"']([^\"']*)[\"']", re.IGNORECASE)
_HTML_ANCHOR = re.compile(r"<a\b[^>]*?\b(?:id|name)\s*=\s*[\"']([^\"']*)[\"']", re.IGNORECASE)


@dataclass(frozen=True)
class Block:
    """A fenced block. `remark` is what an HTML comment right above it says: `run`, `not run`, or nothing."""

    document: Path
    line: int
    language: str
    code: str
    remark: str = ""
    reason: str = ""

    def __str__(self) -> str:
        return f"{name_of(self.document)}:{self.line}"


@dataclass(frozen=True)
class Document:
    """What a test asks of one document."""

    path: Path
    links: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    linked_code: list[tuple[int, str, str]] = field(default_factory=list[tuple[int, str, str]])
    anchors: set[str] = field(default_factory=set[str])
    blocks: list[Block] = field(default_factory=list[Block])
    spans: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])


def name_of(document: Path) -> str:
    """Its path in the project."""
    return str(document.relative_to(PROJECT))


def read(document: Path) -> Document:
    """Parse one document."""
    found = Document(document)
    before: Token | None = None
    tokens = _MARKDOWN.parse(document.read_text(encoding="utf-8"))
    line = 0
    slugs: dict[str, int] = {}
    for index, token in enumerate(tokens):
        line = token.map[0] + 1 if token.map else line
        if token.type == "fence":
            found.blocks.append(_block(document, line, token, before))
        elif token.type == "html_block":
            _read_html(found, line, token.content)
        elif token.type == "inline":
            _read_inline(found, line, token.children or [])
            if tokens[index - 1].type == "heading_open":
                found.anchors.add(_unique(github_slug(token), slugs))
        before = token
    return found


def github_slug(heading: Token) -> str:
    """The anchor that GitHub gives a heading: lower case, no punctuation, a hyphen for each space."""
    text = "".join(child.content for child in heading.children or [] if child.type in {"text", "code_inline"})
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def _unique(slug: str, slugs: dict[str, int]) -> str:
    count = slugs.get(slug, 0)
    slugs[slug] = count + 1
    return f"{slug}-{count}" if count else slug


def _block(document: Path, line: int, token: Token, before: Token | None) -> Block:
    remark = _REMARK.search(before.content) if before is not None and before.type == "html_block" else None
    said, reason = (remark[1], remark[2] or "") if remark else ("", "")
    return Block(document, line, token.info.strip(), token.content, said, reason)


def _read_inline(found: Document, line: int, children: list[Token]) -> None:
    target = ""
    for child in children:
        if child.type == "link_open":
            target = str(child.attrs["href"])
            found.links.append((line, target))
        elif child.type == "link_close":
            target = ""
        elif child.type == "image":
            found.links.append((line, str(child.attrs["src"])))
        elif child.type == "html_inline":
            _read_html(found, line, child.content)
        elif child.type == "code_inline":
            found.spans.append((line, child.content))
            if target:
                found.linked_code.append((line, child.content, target))
        elif child.type in {"softbreak", "hardbreak"}:
            line += 1


def _read_html(found: Document, line: int, html: str) -> None:
    found.links.extend((line, target) for target in _HTML_LINK.findall(html))
    found.anchors.update(_HTML_ANCHOR.findall(html))


def all_blocks(*languages: str) -> Iterator[Block]:
    """The blocks of all documents in these languages."""
    for document in DOCUMENTS:
        if document.exists():
            yield from (block for block in read(document).blocks if block.language in languages)
