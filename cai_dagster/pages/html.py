"""HTML pages that open from disk: one file, no network, every text escaped.

A page is a Jinja template in `templates/` that extends `page.html`. It knows nothing of what a page shows.
"""

import base64
import hashlib
import uuid
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from cai_dagster.disk import full_disk_named
from cai_dagster.errors import MendableError
from cai_dagster.pages.word_diff import Piece, word_diff
from cai_dagster.text import cut, readable

LONGEST_TEXT = 4_000  # characters of one text on a page
_ELEMENTS = {"same": "{}", "removed": "<del>{}</del>", "added": "<ins>{}</ins>"}


class PageError(MendableError):
    """A page cannot be written where it was wanted; the message says why."""


def write_page(file: Path, page: str) -> None:
    """Write a page and the folders that it is to lie in; the file is there whole, or as it was before.

    What is a link or a device, such as /dev/stdout, is written through: it is not ours to replace. Raises
    DiskFullError, and PageError where the system does not let it be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with full_disk_named(file.parent):
            if file.is_symlink() or (file.exists() and not file.is_file()):
                file.write_text(page, encoding="utf-8")
            else:
                _write_whole(file, page)
    except OSError as error:
        raise PageError(f"{file} cannot be written: {error.strerror or error}; name another file") from error


def render(template: str, title: str, script: str = "", **values: Any) -> str:
    """The page. Values are text wherever the template puts them; `script` is our own code, and the only one allowed.

    In a template, `| shown` makes control characters visible and cuts a long text (`| shown(80)`: after so many
    characters); `difference(before, after)` is a word diff with <del> and <ins>.
    """
    page = _environment().get_template(template)
    style = Markup(_source("page.css"))  # noqa: S704 - our own file
    security = _content_security_policy(script)
    return page.render(
        title=title,
        style=style,
        script=Markup(script),  # noqa: S704 - our own code
        content_security_policy=security,
        **values,
    )


def _write_whole(file: Path, page: str) -> None:
    scratch = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        scratch.write_text(page, encoding="utf-8")
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)


def render_part(template: str, **values: Any) -> Markup:
    """A piece of a page that is made by itself, such as one of many examples: its size is then known before."""
    return Markup(_environment().get_template(template).render(**values))  # noqa: S704 - values were escaped


@cache
def _environment() -> jinja2.Environment:
    environment: Any = jinja2.Environment(
        loader=jinja2.PackageLoader("cai_dagster.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = _shown
    environment.globals["difference"] = _difference
    return environment


def _shown(value: object, most: int = LONGEST_TEXT) -> str:
    return readable(str(value), most)


def _difference(before: str, after: str) -> Markup:
    return _pieces(word_diff(cut(before, LONGEST_TEXT), cut(after, LONGEST_TEXT)))


def _pieces(pieces: Iterable[Piece]) -> Markup:
    return Markup("").join(Markup(_ELEMENTS[piece.kind]).format(escape(readable(piece.text))) for piece in pieces)  # noqa: S704


def _content_security_policy(script: str) -> str:
    """Nothing is loaded from anywhere, and no script runs but the one whose hash is named."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scripts = f"'sha256-{digest}'" if script else "'none'"
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {scripts}; "
        "base-uri 'none'; form-action 'none'"
    )


def _source(name: str) -> str:
    loader = jinja2.PackageLoader("cai_dagster.pages")
    return loader.get_source(jinja2.Environment(autoescape=True), name)[0]
