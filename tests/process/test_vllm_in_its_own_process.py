"""The process that vLLM has for itself: what is said between the two, how each ends, and that nothing stays behind.

vLLM is scripted (tests/scripted_vllm.py); the real one is in tests/e2e/test_engines.py.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cai_dagster.lake.leases import hold, is_held
from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.models.weights import Weights
from cai_dagster.settings import active_settings
from resources.engines.vllm.calls import TokenAnswer, TokenCall, VllmError
from resources.engines.vllm.own_process import OwnProcess
from tests.scripted_vllm import ANSWERED, DEADLY, KILLING, REFUSED, SILENT

HOST = "tests.scripted_vllm"
PATIENCE = 30.0
PARENT = """
import os, sys, time
from pathlib import Path
from cai_dagster.lake.leases import hold
from cai_dagster.models.weights import Weights
from cai_dagster.settings import active_settings
from resources.engines.vllm.own_process import OwnProcess

name, how, lock = sys.argv[1:]
held = hold(Path(lock))
engine = OwnProcess(Weights(name, Path(), ""), active_settings().policy, print, [held], "tests.scripted_vllm")
print(engine._process.pid, flush=True)
if how == "exception":
    raise SystemExit("an exception")
time.sleep(600)
"""


def weights(name: str = "scripted") -> Weights:
    return Weights(name, Path(), "")


@pytest.fixture(scope="module")
def settings() -> LanguageModelSettings:
    return active_settings().policy


@pytest.fixture
def vllm(settings: LanguageModelSettings) -> Iterator[OwnProcess]:
    started = OwnProcess(weights(), settings, host=HOST)
    yield started
    started.close()


def session_of(pid: int) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def session_and_lock_are_free(pid: int, lock: Path) -> None:
    """Wait until no process of the session is left; the lock is held as long as one is.

    A killed process whose first thread has ended counts as a zombie while its other threads still end, and the lock
    is theirs as well: it may be free a moment later.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        held = is_held(lock)
        if not session_of(pid):
            break
        assert held
        time.sleep(0.02)
    assert not session_of(pid)
    while is_held(lock) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_held(lock)


def ask(vllm: OwnProcess, *first: int, labels: tuple[int, ...] = ()) -> list[TokenAnswer | BaseException]:
    async def run() -> list[TokenAnswer | BaseException]:
        calls = [vllm.ask(TokenCall([token, 7, 8], labels=labels)) for token in first]
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), PATIENCE)

    return asyncio.run(run())


def test_each_call_gets_its_own_answer_whatever_is_in_it(vllm: OwnProcess) -> None:
    answers = ask(vllm, *[ANSWERED] * 300, labels=(5, 6))
    assert [answer.text for answer in answers if isinstance(answer, TokenAnswer)] == [
        f"answer {number} to \ud83d" for number in range(1, 301)
    ]
    first = answers[0]
    assert isinstance(first, TokenAnswer)
    assert (first.finish_reason, first.completion_tokens, first.cached_tokens) == ("stop", 3, 2)
    assert first.logprobs == (-2.5, -3.0)


def test_one_engine_serves_the_event_loops_of_all_stages(vllm: OwnProcess) -> None:
    async def give_up() -> None:
        waiting = asyncio.create_task(vllm.ask(TokenCall([SILENT])))
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(give_up())
    assert isinstance(ask(vllm, ANSWERED)[0], TokenAnswer)


def test_a_call_that_is_refused_harms_no_other(vllm: OwnProcess) -> None:
    refused, answered = ask(vllm, REFUSED, ANSWERED)
    assert isinstance(refused, VllmError)
    assert "ValueError: this prompt is refused" in str(refused)
    assert isinstance(answered, TokenAnswer)
    assert not vllm.has_failed


@pytest.mark.parametrize(
    ("call", "said"),
    [(DEADLY, r"has stopped .*: RuntimeError: EngineCore"), (KILLING, r"has stopped \(killed by SIGKILL\)")],
)
def test_where_vllm_dies_all_calls_fail_with_the_reason(vllm: OwnProcess, call: int, said: str) -> None:
    pid = vllm._process.pid  # pyright: ignore[reportPrivateUsage]
    first = ask(vllm, SILENT, call)
    later = ask(vllm, ANSWERED)
    for error in (*first, *later):
        assert isinstance(error, VllmError)
    with pytest.raises(VllmError, match=said):
        asyncio.run(vllm.ask(TokenCall([ANSWERED])))
    assert vllm.has_failed
    assert not session_of(pid)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("too large", r"OutOfMemoryError: CUDA out of memory\.$"),
        ("unknown", r"ValueError: Model architectures \['Odd'\] are not supported\.\nThere are others\.$"),
    ],
)
def test_a_start_that_fails_says_why_in_the_words_of_vllm(
    name: str, said: str, settings: LanguageModelSettings
) -> None:
    with pytest.raises(VllmError, match=said):
        OwnProcess(weights(name), settings, host=HOST)


def test_the_phases_of_the_start_are_told(settings: LanguageModelSettings) -> None:
    told: list[str] = []
    OwnProcess(weights(), settings, told.append, host=HOST).close()
    assert told == ["vLLM: Loading weights took 1.00 seconds"]


def test_closing_ends_all_processes_and_gives_the_lock_back(settings: LanguageModelSettings, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    held = hold(lock)
    vllm = OwnProcess(weights(), settings, locks=[held], host=HOST)
    os.close(held)
    assert is_held(lock)
    pid = vllm._process.pid  # pyright: ignore[reportPrivateUsage]
    assert len(session_of(pid)) == 2
    vllm.close()
    assert not session_of(pid)
    assert not is_held(lock)


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT", "exception"])
def test_vllm_ends_when_the_process_that_started_it_does(how: str, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    command = [sys.executable, "-c", PARENT, "scripted", how, str(lock)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    pid = _last_number(parent)
    if how != "exception":
        parent.send_signal(getattr(signal, how))
    session_and_lock_are_free(pid, lock)
    parent.wait()


def _last_number(parent: "subprocess.Popen[str]") -> int:
    assert parent.stdout is not None
    for line in parent.stdout:
        if line.strip().isdigit():
            return int(line)
    raise AssertionError("it did not start")


def test_vllm_that_is_still_starting_ends_too(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    command = [sys.executable, "-c", PARENT, "slow", "SIGKILL", str(lock)]
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    hosts: list[psutil.Process] = []
    while len(hosts) < 2 and time.monotonic() < deadline:
        hosts = psutil.Process(parent.pid).children(recursive=True)
        time.sleep(0.05)
    parent.kill()
    session_and_lock_are_free(hosts[0].pid, lock)
    parent.wait()
