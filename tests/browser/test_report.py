"""The report opened from disk in a real browser, with every text of the lake hostile."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.report.page import write_report
from tests.chromium import BrowserThread
from tests.hostile import HOSTILE, LONG_LINE
from tests.hostile_lake import VERSION

MOST_BYTES = 5_000_000
A4_WIDTH = 718  # pixels between margins of 1 cm
CUT_OFF = """() => [...document.querySelectorAll(".scroll")]
    .filter((one) => one.scrollWidth > one.clientWidth || getComputedStyle(one).overflowX !== "visible")
    .map((one) => `${one.getAttribute("aria-label")}: ${one.scrollWidth} > ${one.clientWidth}`)"""
# Whatever else is in the page was made by one of the texts.
ELEMENTS = {
    *("HTML", "HEAD", "META", "TITLE", "STYLE", "BODY", "MAIN", "NAV", "ARTICLE", "FIGURE", "FIGCAPTION", "SCRIPT"),
    *("H1", "H2", "H3", "H4", "P", "A", "UL", "LI", "DL", "DT", "DD", "DIV", "SPAN", "STRONG", "CODE", "INS", "DEL"),
    *("TABLE", "CAPTION", "THEAD", "TBODY", "TR", "TH", "TD", "DETAILS", "SUMMARY"),
    *("FORM", "LABEL", "SELECT", "OPTION", "BUTTON", "OUTPUT"),
    *("svg", "g", "path", "line", "rect", "text", "tspan", "defs", "clipPath", "circle"),
}
COUNT_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
"""
LOOK = """() => ({
    title: document.title,
    owned: typeof window.owned,
    violations: window.violations,
    elements: [...new Set([...document.querySelectorAll("*")].map((one) => one.tagName))],
    scripts: document.scripts.length,
    links: [...document.querySelectorAll("[href], [src], [action], [formaction]")].map((one) => one.outerHTML)
        .filter((one) => !/^<a (class="skip" )?href="#[a-z]+">/.test(one)),
    handlers: [...document.querySelectorAll("*")].flatMap((one) => one.getAttributeNames())
        .filter((name) => name.startsWith("on")),
    text: document.body.textContent,
})"""


@dataclass
class Seen:
    """What a page did while it was open."""

    requests: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # of these, the ones that the page's policy did not let out
    dialogs: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def opened(browser: Browser, file: Path, **context: Any) -> tuple[Page, Seen]:
    seen = Seen()
    page = browser.new_context(**context).new_page()
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("requestfailed", lambda request: request.failure == "csp" and seen.refused.append(request.url))
    page.on("dialog", lambda dialog: (seen.dialogs.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.add_init_script(COUNT_VIOLATIONS)
    page.goto(file.as_uri())
    return page, seen


@pytest.fixture(scope="module")
def report(hostile_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(Lake(hostile_home), VERSION, tmp_path_factory.mktemp("report") / "v1.html").path


def test_hostile_texts_stay_texts(browse: BrowserThread, report: Path) -> None:
    def look(browser: Browser) -> tuple[dict[str, Any], Seen]:
        page, seen = opened(browser, report)
        return page.evaluate(LOOK), seen

    found, seen = browse(look)
    assert found["title"] == f"Constitution {VERSION}: report"
    assert found["owned"] == "undefined"
    assert found["violations"] == []
    assert set(found["elements"]) <= ELEMENTS
    assert found["scripts"] == 1
    assert found["links"] == []
    assert found["handlers"] == []
    assert seen == Seen(requests=[report.as_uri()])
    assert all(text in found["text"] for text in HOSTILE if text != LONG_LINE and text.isprintable())
    assert LONG_LINE[:2_000] in found["text"]
    assert report.stat().st_size < MOST_BYTES


def test_what_slipped_through_could_still_not_run(browse: BrowserThread, report: Path, tmp_path: Path) -> None:
    """The page's own policy, seen at work: this test is what the one above would look like if escaping failed."""
    broken = tmp_path / "broken.html"
    markup = "".join(text for text in HOSTILE if text != LONG_LINE)
    broken.write_text(report.read_text().replace("<main", f"{markup}<main", 1))

    def look(browser: Browser) -> tuple[dict[str, Any], Seen]:
        page, seen = opened(browser, broken)
        return page.evaluate(LOOK), seen

    found, seen = browse(look)
    assert found["title"] == f"Constitution {VERSION}: report"
    assert found["violations"]
    assert not set(found["elements"]) <= ELEMENTS
    assert seen.dialogs == []
    assert set(seen.requests) == {broken.as_uri(), *seen.refused}
    assert any(url.startswith("http") for url in seen.refused)


def test_the_filters_work_by_keyboard(browse: BrowserThread, report: Path) -> None:
    def use(browser: Browser) -> dict[str, Any]:
        page, seen = opened(browser, report)
        examples = page.locator("article[data-principles]")
        shown = page.locator("article[data-principles]:visible")
        before = {"all": examples.count(), "shown": shown.count()}
        page.locator("a[href='#dialogues']").focus()
        page.keyboard.press("Enter")
        for _ in range(200):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.name") == "principle":
                break
        page.keyboard.press("ArrowDown")
        chosen = page.locator("select[name=principle]").input_value()
        fitting = [one for one in examples.all() if chosen in (one.get_attribute("data-principles") or "").split()]
        filtered = {"shown": shown.count(), "fitting": len(fitting), "said": page.locator("#shown").text_content()}
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.name")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_function("document.querySelectorAll('article[hidden]').length === 0")
        return {**before, "filtered": filtered, "focused": focused, "errors": seen.errors, "again": shown.count()}

    used = browse(use)
    assert used["all"] == used["shown"] == used["again"] > 1
    assert 0 < used["filtered"]["shown"] == used["filtered"]["fitting"] < used["all"]
    assert used["filtered"]["said"] == f"{used['filtered']['shown']} of {used['all']} shown"
    assert used["focused"] == "category"
    assert used["errors"] == []


def test_without_scripts_everything_is_there_but_the_filters(browse: BrowserThread, report: Path) -> None:
    def look(browser: Browser) -> tuple[int, int, bool]:
        page, _ = opened(browser, report, java_script_enabled=False)
        every, visible = (page.locator(f"article[data-principles]{which}").count() for which in ("", ":visible"))
        return every, visible, page.locator("#filters").is_visible()

    every, visible, filters = browse(look)
    assert every == visible > 1
    assert not filters


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_text_stands_out_from_the_page(browse: BrowserThread, report: Path, scheme: Any) -> None:
    colours = """() => ["main", ".quiet", "a", "figure text", "figcaption"].map((selector) => {
        const style = getComputedStyle(document.querySelector(selector));
        return selector === "figure text" ? style.fill : style.color;
    }).concat([getComputedStyle(document.body).backgroundColor])"""

    def look(browser: Browser) -> tuple[int, list[str]]:
        page, _ = opened(browser, report, viewport={"width": 360, "height": 800}, color_scheme=scheme)
        return page.evaluate("document.documentElement.scrollWidth"), page.evaluate(colours)

    width, (*text, background) = browse(look)
    assert width == 360
    assert all(contrast(colour, background) >= 4.5 for colour in text), (text, background)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours written as rgb(r, g, b)."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_every_chart_says_in_words_what_it_shows(browse: BrowserThread, report: Path) -> None:
    script = """() => [...document.querySelectorAll("figure")].map((figure) => ({
        described: figure.querySelector("[role=img]").getAttribute("aria-label"),
        drawn: figure.querySelectorAll("svg path, svg line").length,
        numbers: figure.querySelectorAll("table tbody tr").length,
    }))"""
    figures = browse(lambda browser: opened(browser, report)[0].evaluate(script))
    assert len(figures) > 8
    assert all(one["described"] and one["drawn"] and one["numbers"] for one in figures), figures


def test_it_prints(browse: BrowserThread, report: Path) -> None:
    def look(browser: Browser) -> tuple[bytes, list[bool], list[str]]:
        page, _ = opened(browser, report)
        page.emulate_media(media="print")
        visible = [page.locator(one).first.is_visible() for one in ("#filters", "details.principle dl", "figure svg")]
        page.set_viewport_size({"width": A4_WIDTH, "height": 1_000})
        return page.pdf(), visible, page.evaluate(CUT_OFF)

    pdf, visible, cut_off = browse(look)
    assert pdf.startswith(b"%PDF")
    assert visible == [False, True, True]
    assert cut_off == []


def test_what_is_read_aloud_has_a_name(browse: BrowserThread, report: Path) -> None:
    script = """() => ({
        tables: [...document.querySelectorAll("table")].map((table) => table.caption?.textContent.trim() ?? ""),
        heads: [...document.querySelectorAll("th")].map((head) => [head.scope, head.textContent.trim()]),
        rows: [...document.querySelectorAll("tbody tr")].map((row) => row.cells[0].tagName),
        numbers: [...document.querySelectorAll("details.numbers summary")].map((one) => one.textContent),
        captions: [...document.querySelectorAll("figcaption")].map((one) => `The numbers: ${one.textContent}`),
        form: document.querySelector("form").getAttribute("aria-label"),
    })"""
    found = browse(lambda browser: opened(browser, report)[0].evaluate(script))
    assert len(found["tables"]) > 10
    assert all(found["tables"])
    assert all(scope in {"row", "col"} and text for scope, text in found["heads"])
    assert set(found["rows"]) == {"TH"}
    assert found["numbers"] == found["captions"]
    assert found["form"]


@pytest.mark.parametrize("width", [360, 1280])
def test_the_keyboard_stops_where_something_scrolls(browse: BrowserThread, report: Path, width: int) -> None:
    """Without scripts it stops at all of them: what scrolls must be reached without a mouse (WCAG 2.1.1)."""
    script = """() => [...document.querySelectorAll(".scroll")].filter((one) => one.checkVisibility(
        {contentVisibilityAuto: true})).map((one) => [one.scrollWidth > one.clientWidth, one.tabIndex === 0])"""

    def look(browser: Browser) -> tuple[list[list[bool]], int, int]:
        page, _ = opened(browser, report, viewport={"width": width, "height": 800})
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        plain, _ = opened(browser, report, viewport={"width": width, "height": 800}, java_script_enabled=False)
        return page.evaluate(script), plain.locator(".scroll[tabindex='0']").count(), plain.locator(".scroll").count()

    regions, stops, every = browse(look)
    assert len(regions) > 10
    assert all(scrolls == stop for scrolls, stop in regions)
    assert {stop for _, stop in regions} == {True, False}
    assert stops == every


def test_a_charts_text_can_be_read_on_a_phone(browse: BrowserThread, report: Path) -> None:
    script = """() => [...document.querySelectorAll("figure svg")].map((svg) => Math.min(
        ...[...svg.querySelectorAll("text")].filter((one) => one.textContent)
            .map((one) => parseFloat(getComputedStyle(one).fontSize) * svg.getScreenCTM().a)))"""
    phone = {"width": 360, "height": 800}
    sizes = browse(lambda browser: opened(browser, report, viewport=phone)[0].evaluate(script))
    assert len(sizes) > 8
    assert min(sizes) >= 10


def test_no_choice_of_the_filters_leads_nowhere(browse: BrowserThread, report: Path) -> None:
    options = """(name) => [...document.querySelector(`select[name=${name}]`).options]
        .map((one) => [one.value, one.textContent, one.disabled])"""

    def use(browser: Browser) -> list[tuple[str, bool, int]]:
        page, _ = opened(browser, report)
        shown = page.locator("article[data-principles]:visible")
        seen: list[tuple[str, bool, int]] = []
        page.locator("select[name=principle]").select_option(index=1)
        for value, text, disabled in page.evaluate(options, "category"):
            page.evaluate(
                "(value) => { const s = document.querySelector('select[name=category]'); s.value = value; "
                "s.dispatchEvent(new Event('input', {bubbles: true})); }",
                value,
            )
            seen.append((text, disabled, shown.count()))
        return seen

    seen = browse(use)
    assert len(seen) > 2
    assert all(text.endswith(f" ({count})") and disabled == (count == 0) for text, disabled, count in seen)
    assert {disabled for _, disabled, _ in seen} == {True, False}
