"""A real browser for tests: Debian's Chromium, headless, driven by Playwright."""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

Result = TypeVar("Result")
Walk = Callable[[Browser], Result]


class BrowserThread:
    """Chromium in a thread of its own: Playwright leaves an event loop running in the thread that it is used from."""

    def __init__(self, executable: str) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._playwright: Playwright = self._thread.submit(lambda: sync_playwright().start()).result()
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        launch = self._playwright.chromium.launch
        self._browser: Browser = self._thread.submit(
            lambda: launch(executable_path=executable, args=arguments)
        ).result()

    def __call__(self, walk: Walk[Result]) -> Result:
        """What `walk` returns of the browser; it runs in the browser's thread."""
        return self._thread.submit(walk, self._browser).result()

    def close(self) -> None:
        self._thread.submit(self._browser.close).result()
        self._thread.submit(self._playwright.stop).result()
        self._thread.shutdown()


@pytest.fixture(scope="session")
def browse() -> Iterator[BrowserThread]:
    """`browse(walk)` calls `walk` with a browser and returns what it returns."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    browser = BrowserThread(executable)
    yield browser
    browser.close()
