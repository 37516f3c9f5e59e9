"""Pages show every text as text."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import pytest

from cai_dagster.pages import html as pages
from tests.hostile import HOSTILE

TEMPLATE = """
{% extends "page.html" %}
{% block content %}<p title="{{ text | shown }}">{{ text | shown }}</p><p>{{ difference("old " + text, text) }}</p>
{% endblock %}
"""


class Elements(HTMLParser):
    """The tags and the names of the attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch) -> str:
    ours = jinja2.ChoiceLoader([jinja2.DictLoader({"test.html": TEMPLATE}), jinja2.PackageLoader("cai_dagster.pages")])
    monkeypatch.setattr(pages._environment(), "loader", ours)
    return "test.html"


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_markup(template: str, text: str) -> None:
    page = pages.render(template, title=text, text=text)
    body = page.split("<body>", 1)[1]
    harmless = Elements(pages.render(template, title="harmless", text="harmless").split("<body>", 1)[1])
    assert Elements(body).tags <= harmless.tags | {"ins", "del"}
    assert Elements(body).attributes == harmless.attributes
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    assert len(page) < 60_000


def test_only_the_pages_own_script_may_run(template: str) -> None:
    assert "script-src 'none';" in unescape(pages.render(template, title="t", text="x"))
    page = pages.render(template, title="t", text="x", script="1 < 2")
    assert "<script>1 < 2</script>" in page
    assert "script-src 'sha256-" in unescape(page)


def test_a_forgotten_value_is_an_error(template: str) -> None:
    with pytest.raises(jinja2.UndefinedError):
        pages.render(template, title="t")


def test_a_page_is_written_whole_with_its_folders_and_never_in_place_of_a_device(tmp_path: Path) -> None:
    file = tmp_path / "not" / "there" / "page.html"
    for text in ("one", "another"):
        pages.write_page(file, text)
        assert file.read_text() == text
    assert list(file.parent.iterdir()) == [file]
    link = tmp_path / "link.html"
    link.symlink_to(file)
    pages.write_page(link, "through the link")
    assert link.is_symlink()
    assert file.read_text() == "through the link"
    with pytest.raises(pages.PageError, match=r"cannot be written: .*; name another file"):
        pages.write_page(file / "below a file" / "page.html", "nowhere")


def test_ordinary_writing_is_shown_as_it_is(template: str) -> None:
    text = "def f():\n\treturn 1 \u3000 10\u00a0000 km نمی\u200cخواهم 👩\u200d🚀"
    body = unescape(pages.render(template, title="t", text=text)).split("<main", 1)[1]
    assert body.count(text) == 3  # as an attribute, as a text, and in the diff
