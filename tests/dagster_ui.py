"""The Dagster UI as a person uses it, in a headless Chromium: buttons, menus and what stands on a page."""

import json
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

LOCATION = "cai_dagster.definitions"
WAIT = 60_000  # milliseconds, for a page that loads on a busy machine
RUN_SECONDS = 1_500


_RENAME_FOLDER = """(folder) => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const shown = texts.currentNode.nodeValue;
        if (shown.includes(folder)) texts.currentNode.nodeValue = shown.replaceAll(folder, "~/cai_dagster");
    }
}"""


class DagsterUi:
    """One browser tab on a running Dagster UI."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        page.set_default_timeout(WAIT)
        expect.set_options(timeout=WAIT)

    def open(self, path: str) -> None:
        """Go to a page of the UI."""
        self.page.goto(f"{self.url}/{path}")

    def reload_definitions(self) -> None:
        """Press the button, and wait until the location is there again."""
        self.open("deployment/locations")
        self.page.get_by_role("button", name="Reload", exact=False).first.click()
        expect(
            self.page.get_by_text("Definitions reloaded").or_(self.page.get_by_text("reloaded!")).first
        ).to_be_visible()

    def choose_version(self, version: str) -> None:
        """In an open launch dialog, choose one partition."""
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_text("Select a partition").click()
        named = self.page.get_by_text(version, exact=True)
        self.page.get_by_role("menuitem").filter(has=named).first.click()
        self.page.keyboard.press("Escape")
        expect(self.launch_button).to_be_enabled()

    @property
    def launch_button(self) -> Locator:
        """Of an open launch dialog."""
        return self.page.get_by_role("button", name=re.compile(r"^Launch"))

    def launch(self) -> str:
        """Press the button of an open launch dialog; the path of the run."""
        self.launch_button.last.click()
        link = self.page.get_by_role("link", name="View", exact=True)
        link.wait_for()
        path = link.get_attribute("href")
        assert path
        return path.lstrip("/")

    def wait_for_step(self, run: str, step: str) -> None:
        """Wait until a run works on a step. Nothing is shown meanwhile: a run's page that moves takes a core."""
        self._wait(run, lambda state: state["steps"].get(step) == "IN_PROGRESS")

    def wait_for_end(self, run: str) -> str:
        """Wait until a run has ended: SUCCESS, FAILURE or CANCELED."""
        return self._wait(run, lambda state: state["status"] in {"SUCCESS", "FAILURE", "CANCELED"})["status"]

    def _wait(self, run: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        self.page.goto("about:blank")
        end = time.monotonic() + RUN_SECONDS
        while not reached(state := self._state(run)):
            assert state["status"] not in {"SUCCESS", "FAILURE", "CANCELED"}, state
            assert time.monotonic() < end
            time.sleep(1)
        return state

    def last_run(self) -> str:
        """The id of the run that was launched last."""
        found = self._asked("query { runsOrError(limit: 1) { ... on Runs { results { runId } } } }", {})
        return found["runsOrError"]["results"][0]["runId"]

    def _state(self, run: str) -> dict[str, Any]:
        """A run's status and those of its steps, as the UI asks for them."""
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status stepStats { stepKey status } } } }"
        found = self._asked(query, {"id": run.rsplit("/", 1)[-1]})["runOrError"]
        return {"status": found["status"], "steps": {one["stepKey"]: one["status"] for one in found["stepStats"]}}

    def _asked(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["data"]

    def metadata(self, name: str) -> str:
        """The value of a metadata entry that is shown on the page."""
        row = self.page.locator("tr").filter(has=self.page.get_by_text(name, exact=True)).last
        row.wait_for()
        return row.locator("td").nth(1).inner_text()

    def picture(self, file: Path, folder: Path) -> None:
        """Save what is shown, when it has come to rest; with `~/cai_dagster` in place of a test's folder."""
        self.page.wait_for_timeout(1_500)
        self.page.evaluate(_RENAME_FOLDER, str(folder))
        self.page.screenshot(path=file)
