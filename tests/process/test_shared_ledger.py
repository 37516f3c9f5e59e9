"""The ledger in PostgreSQL keeps every promise that it keeps in a file: the same tests, on a real server.

Beside them what only a server can do: be started again, and be shared by hosts that begin at the same moment.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cai_dagster.calls.ledger import Ledger, LedgerError, open_ledger
from cai_dagster.calls.ledger_reader import LedgerReader
from cai_dagster.calls.requests import Answer, PaidCall, Slot
from cai_dagster.home import Home, HomeError
from tests.graph.test_salvage import of_the_ledger
from tests.postgresql import PostgreSqlServer
from tests.process.test_claims import *
from tests.unit.calls.test_ledgered_model import *


@pytest.fixture
def home(server: PostgreSqlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("CAI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CAI_LEDGER", server.new_database())
    return Home((tmp_path / "home").resolve())


@pytest.fixture
def ledger(home: Home) -> Iterator[Ledger]:
    opened = open_ledger(home)
    yield opened
    opened.close()


@pytest.fixture
def log(ledger: Ledger, tmp_path: Path) -> Path:
    (tmp_path / "calls").touch()
    return tmp_path / "calls"


def call(number: int, text: str = "Hi.", prompt_id: str = "p") -> PaidCall:
    return PaidCall(f"{number:064x}", "m", Slot("initial_responses", prompt_id), Answer(text, "stop", 3, 1, 0.5))


def test_nothing_of_it_is_written_to_the_home(home: Home, ledger: Ledger) -> None:
    ledger.put([call(1)])
    assert not home.ledger.exists()
    assert not (home.root / "claims").exists()


@pytest.mark.parametrize("text", ["a null \x00 byte", "a lone \ud83d surrogate", "plain", ""])
def test_every_text_is_kept_as_it_was_said(ledger: Ledger, text: str) -> None:
    ledger.put([call(1, text), call(2)])
    assert {one: answer.text for one, answer in ledger.get([f"{1:064x}", f"{2:064x}"]).items()} == {
        f"{1:064x}": text,
        f"{2:064x}": "Hi.",
    }


def test_hosts_that_begin_at_the_same_moment_all_get_the_ledger(server: PostgreSqlServer) -> None:
    url, together = server.new_database(), threading.Barrier(6)

    def begin(number: int) -> int:
        together.wait()
        opened = Ledger(url)
        opened.put([call(number)])
        opened.close()
        return number

    with ThreadPoolExecutor(6) as hosts:
        assert sorted(hosts.map(begin, range(6))) == list(range(6))
    assert Ledger(url).totals() == {"initial_responses": 6}


def test_a_server_that_is_started_again_is_waited_for(server: PostgreSqlServer, ledger: Ledger) -> None:
    ledger.put([call(1)])
    server.stop()
    restarting = threading.Thread(target=lambda: (time.sleep(1.0), server.start()))
    restarting.start()
    ledger.put([call(2)])
    restarting.join()
    claims = ledger.claims()
    assert claims.claim([f"{3:064x}"]).ours == {f"{3:064x}"}
    claims.close()
    assert ledger.totals() == {"initial_responses": 2}


def test_what_is_forgotten_while_it_is_committed_does_not_stay(server: PostgreSqlServer) -> None:
    url, forgotten = server.new_database(), set[str]()

    def asked() -> set[str]:
        known = set(forgotten)
        time.sleep(0.3)  # forgotten after this look
        return known

    committing, forgetting = Ledger(url, asked), Ledger(url)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(committing.put, [call(1)])
        time.sleep(0.1)
        forgotten.add("p")
        assert forgetting.forget("p") == 1
        done.result()
    assert forgetting.totals() == {}


def test_its_calls_are_found_by_who_explains_rows_and_counted_by_the_doctor(home: Home, ledger: Ledger) -> None:
    ledger.put([call(1), call(2)])
    reader = LedgerReader(home)
    assert reader.calls([f"{1:064x}"])[f"{1:064x}"].text == "Hi."
    assert set(reader.beginning_with("0" * 60, 5)) == {f"{1:064x}", f"{2:064x}"}
    (finding,) = of_the_ledger(home)
    assert finding.text == "2 calls in the database that CAI_LEDGER names"


def test_what_is_no_such_database_is_refused_without_its_password(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for url, said, kind in (
        ("postgresql://cai:s3cret@127.0.0.1:1/nowhere", "cannot be used", LedgerError),
        ("mysql://cai:s3cret@h/d", "one of PostgreSQL", HomeError),
        ("no url", "no URL", HomeError),
    ):
        monkeypatch.setenv("CAI_LEDGER", url)
        with pytest.raises(kind, match=said) as refused:
            open_ledger(home)
        assert "s3cret" not in str(refused.value)


def test_the_command_line_says_in_a_line_that_the_server_does_not_answer(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAI_LEDGER", "postgresql://cai:s3cret@127.0.0.1:1/nowhere")
    command = [str(Path(sys.executable).with_name("cai")), "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "start the server, or set CAI_LEDGER" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr
