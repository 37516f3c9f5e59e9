"""Daily work in the browser, in a project with two versions that a scripted model wrote: checks, previews, pages."""

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest
from playwright.sync_api import Browser, ViewportSize, expect

from tests.chromium import BrowserThread
from tests.dagster_ui import DagsterUi
from tests.installed import Installed
from tests.misbehaving_server import free_port


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`cai ui` of the installed package, in a project with two versions; pages are on the next port."""
    made = Installed(tmp_path_factory.mktemp("daily"))
    for command in (["init", str(made.project)], ["backfill", "v1", "v2", "--profile", "demo", "--skip-preflight"]):
        finished = made.cai(*command, cwd=made.project if made.project.exists() else made.project.parent)
        assert finished.returncode == 0, finished.stderr
    port = free_port()
    program = "from cai_dagster.commands.cli import app; app()"
    ui = subprocess.Popen(
        [made.python, "-c", program, "ui", "--port", str(port)],
        cwd=made.project,
        env=made.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 300
    while time.monotonic() < end:
        assert ui.poll() is None
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5):
            break
        time.sleep(1)
    yield f"http://127.0.0.1:{port}"
    os.killpg(ui.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        ui.wait(30)
    with suppress(ProcessLookupError):
        os.killpg(ui.pid, signal.SIGKILL)


def tab(browser: Browser, url: str) -> DagsterUi:
    return DagsterUi(browser.new_page(viewport=ViewportSize(width=1400, height=900)), url)


def test_execute_all_on_the_page_of_checks_looks_at_every_version_and_the_asset_stays_as_it_was(
    url: str, browse: BrowserThread
) -> None:
    def walk(browser: Browser) -> None:
        ui = tab(browser, url)
        ui.open("assets/revision_rounds?view=checks")
        ui.page.get_by_role("button", name="Execute all").click()
        ui.page.get_by_text("Launched run").wait_for()
        assert ui.wait_for_end(ui.last_run()) == "SUCCESS"
        ui.open("assets/revision_rounds?view=checks&checkDetail=unchanged_revisions")
        expect(ui.page.get_by_text("revision_rounds of constitution version v").first).to_be_visible()
        ui.open("assets/revision_rounds?view=partitions&partition=v1")
        expect(ui.page.get_by_text("Materialized", exact=True).first).to_be_visible()

    browse(walk)


def test_a_preview_begins_with_texts_and_a_page_is_one_click_away(url: str, browse: BrowserThread) -> None:
    def walk(browser: Browser) -> None:
        ui = tab(browser, url)
        ui.open("assets/judgements?view=partitions&partition=v2")
        columns = ui.page.locator("table").filter(has_text="P(A)").last.locator("th")
        columns.first.wait_for()
        assert columns.all_inner_texts()[:4] == ["prompt", "completion_0", "completion_1", "order"]
        host, _, port = url.rpartition(":")
        page = browser.new_page()
        page.goto(f"{host}:{int(port) + 1}/comparisons/v1-v2.html#checks")
        expect(page.get_by_role("heading", name="Over versions")).to_be_visible()
        assert page.locator("td.outcome").count() > 20

    browse(walk)
