"""docs/tutorial.md, done as it says: its commands in a shell, its pictures in a browser, on the real small model.

Each shell block and each picture is a step, in the order of the page. A picture's name is that of the function below
that goes there in the UI, asserts what the page promises and takes it. `make pictures` keeps the pictures.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import ViewportSize, expect

from cai_dagster.models.weights import Weights
from cai_dagster.project import PROJECT
from tests.chromium import BrowserThread
from tests.dagster_ui import DagsterUi
from tests.misbehaving_server import free_port

TUTORIAL = PROJECT / "docs" / "tutorial.md"
KEPT_PICTURES = os.environ.get("CAI_PICTURES")  # a folder; `make pictures` sets it
PARTS = ("assets", "cai_dagster", "constitutions", "prompts", "resources", "requirements", "docs")
FILES = ("pyproject.toml", "settings.toml", "workspace.yaml")


@dataclass(frozen=True)
class Step:
    """A shell block with the output that the page shows below it, or a picture."""

    line: int
    shell: str | None = None
    output: str | None = None
    picture: str | None = None

    def __str__(self) -> str:
        return f"{self.line}: {self.picture or (self.shell or '').splitlines()[0]}"


def _steps() -> list[Step]:
    steps: list[Step] = []
    for token in MarkdownIt().parse(TUTORIAL.read_text(encoding="utf-8")):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "fence" and token.info == "sh":
            steps.append(Step(line, shell=token.content))
        elif token.type == "fence" and token.info == "text" and steps and steps[-1].shell:
            steps[-1] = Step(steps[-1].line, steps[-1].shell, token.content)
        images = [child for child in token.children or [] if child.type == "image"]
        steps.extend(Step(line, picture=Path(str(image.attrs["src"])).stem) for image in images)
    return steps


class Walk:
    """Somebody who follows the tutorial: a copy of the project, a home, a shell, and a browser once the UI runs."""

    def __init__(self, folder: Path, browse: BrowserThread) -> None:
        self.folder = folder / "cai_dagster"
        self.pictures = Path(KEPT_PICTURES) if KEPT_PICTURES else folder
        for part in PARTS:
            shutil.copytree(PROJECT / part, self.folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for name in FILES:
            shutil.copy(PROJECT / name, self.folder)
        (self.folder / ".venv").symlink_to(sys.prefix)
        self.settings: list[str] = []
        self.run = ""
        self._port = free_port()
        self._browse = browse
        self._ui_process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CAI_", "DAGSTER_"))}
        return {**inherited, "PYTHONPATH": str(self.folder), "COLUMNS": "110"}

    def shell(self, block: str) -> str:
        """Run a block; what it prints. Settings of the shell stay for the next one."""
        if block.strip() == "make ui":
            return self._start_ui()
        script = "\n".join(["set -e", *self.settings, block])
        finished = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        self.settings += [line for line in block.splitlines() if line.startswith(("export ", ". "))]
        return finished.stdout

    def _start_ui(self) -> str:
        command = [str(Path(sys.executable).parent / "cai"), "ui", "--port", str(self._port)]
        with (self.folder / "ui.log").open("wb") as log:
            self._ui_process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        url = f"http://127.0.0.1:{self._port}"
        end = time.monotonic() + 300
        while time.monotonic() < end:
            assert self._ui_process.poll() is None, (self.folder / "ui.log").read_text()
            with suppress(OSError), urllib.request.urlopen(f"{url}/server_info", timeout=5):
                self._open_tab(url)
                return ""
            time.sleep(1)
        raise AssertionError("the UI did not start")

    def _open_tab(self, url: str) -> None:
        size = ViewportSize(width=1400, height=900)
        self.ui = self._browse(lambda browser: DagsterUi(browser.new_page(viewport=size), url))

    def look(self, picture: str) -> None:
        """Go where a picture of the page is taken."""
        self._browse(lambda _: PICTURES[picture](self))

    def picture(self, name: str) -> None:
        """Take a picture of the page."""
        self.ui.picture(self.pictures / f"{name}.png", self.folder)

    def end(self) -> None:
        if self._ui_process:
            os.killpg(self._ui_process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._ui_process.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(self._ui_process.pid, signal.SIGKILL)


@dataclass
class State:
    """Whether an earlier step failed: those after it would only say so again."""

    failed: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def state() -> State:
    return State()


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory, browse: BrowserThread, offline_weights: Weights) -> Iterator[Walk]:
    walk = Walk(tmp_path_factory.mktemp("tutorial"), browse)
    models = walk.folder / ".cai" / "models" / "offline"
    models.mkdir(parents=True)
    (models / offline_weights.name).symlink_to(offline_weights.folder)
    yield walk
    walk.end()


def launch(walk: Walk) -> None:
    walk.ui.open("locations/cai_dagster.definitions/jobs/constitutional_ai")
    walk.ui.page.get_by_role("button", name="Materialize").first.click()
    walk.ui.choose_version("v1")
    walk.picture("tutorial-launch")
    walk.run = walk.ui.launch()


def progress(walk: Walk) -> None:
    walk.ui.wait_for_step(walk.run, "revision_rounds")
    walk.ui.open(walk.run)
    walk.ui.page.get_by_placeholder("Filter").last.fill("revision_rounds: ")
    # The time that is left is known once a row is done, which on a fast machine is when all are.
    line = re.compile(r"revision_rounds: \d+ of \d+ rows, \d+ rejected, \d+ calls, .* tokens/s(, .* left)?")
    expect(walk.ui.page.get_by_text(line).first).to_be_visible(timeout=300_000)
    with suppress(AssertionError):  # for the picture
        expect(walk.ui.page.get_by_text(re.compile("tokens/s, .*about .* left")).first).to_be_visible()
    walk.picture("tutorial-progress")
    assert walk.ui.wait_for_end(walk.run) == "SUCCESS"


def reload(walk: Walk) -> None:
    walk.ui.reload_definitions()
    walk.ui.open("locations/cai_dagster.definitions/jobs/constitutional_ai")
    walk.ui.page.get_by_role("button", name="Materialize").first.click()
    walk.ui.choose_version("v3")
    walk.picture("tutorial-reload")
    walk.run = walk.ui.launch()
    assert walk.ui.wait_for_end(walk.run) == "SUCCESS"


def paid(walk: Walk) -> None:
    walk.ui.open("assets/revision_rounds?partition=v3&view=partitions")
    hits, misses = (int(walk.ui.metadata(name).replace(",", "")) for name in ("ledger_hits", "ledger_misses"))
    assert hits > misses > 0
    walk.ui.page.get_by_text("ledger_misses", exact=True).last.scroll_into_view_if_needed()
    walk.picture("tutorial-paid")


def check_failed(walk: Walk) -> None:
    walk.ui.reload_definitions()
    walk.ui.open("assets/revision_rounds")
    walk.ui.page.get_by_role("button", name="Materialize").first.click()
    walk.ui.choose_version("v3")
    walk.run = walk.ui.launch()
    walk.ui.wait_for_end(walk.run)
    walk.ui.open("assets/revision_rounds?view=checks&checkDetail=unfinished_completions")
    expect(walk.ui.page.get_by_text("Failed").first).to_be_visible()
    expect(walk.ui.page.get_by_text("revision_rounds of constitution version v3").first).to_be_visible()
    walk.picture("tutorial-check-failed")


def report(walk: Walk) -> None:
    walk.ui.page.goto((walk.folder / ".cai" / "reports" / "v1.html").as_uri())
    expect(walk.ui.page.get_by_role("heading", name="Labels of the feedback model")).to_be_visible()
    categories = walk.ui.page.locator("select[name=category]")
    categories.select_option(categories.locator("option", has_text="science").get_attribute("value"))
    dialogues = walk.ui.page.get_by_role("heading", name="Dialogues and their revisions")
    dialogues.evaluate("(heading) => heading.scrollIntoView()")
    expect(walk.ui.page.get_by_text("First response").locator("visible=true").first).to_be_in_viewport()
    walk.picture("report")


PICTURES: dict[str, Callable[[Walk], None]] = {
    "tutorial-launch": launch,
    "tutorial-progress": progress,
    "tutorial-reload": reload,
    "tutorial-paid": paid,
    "tutorial-check-failed": check_failed,
    "report": report,
}


@pytest.mark.parametrize("step", _steps(), ids=str)
def test_the_tutorial_happens_as_it_is_told(step: Step, walk: Walk, state: State) -> None:
    if state.failed:
        pytest.skip(f"step {state.failed[0]} failed")
    state.failed.append(str(step))
    if step.picture:
        walk.look(step.picture)
    else:
        printed = walk.shell(step.shell or "")
        (walk.folder.parent / f"line-{step.line}.txt").write_text(printed)
        assert_told(step.output or "", printed)
    state.failed.clear()


def test_every_picture_of_the_tutorial_is_in_it() -> None:
    assert {step.picture for step in _steps() if step.picture} == set(PICTURES)


def assert_told(told: str, printed: str) -> None:
    """Every line of the page but for `…` is printed, in this order; numbers, ids and times may be others."""
    lines = iter([_comparable(line) for line in printed.splitlines()])
    for line in told.splitlines():
        wanted = _comparable(line)
        if wanted not in {"", "…"}:
            assert any(wanted == line for line in lines), f"not printed: {line}\n{printed}"


def _comparable(line: str) -> str:
    line = re.sub(r"[─━┄┈═]+|[│┃|╭╮╰╯┏┓┗┛┡┩├┤┬┴┼╇╋╪]", " ", line)
    line = re.sub(r"\b[0-9a-f]{8,64}\b", "ID", line)
    line = re.sub(r"\d[\d,.:]*", "0", line)
    return " ".join(line.split())
