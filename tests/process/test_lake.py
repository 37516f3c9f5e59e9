"""The lake when several processes use it, and when one of them is killed or holds the catalog."""

import signal
import subprocess
import sys
import time

import pytest

from cai_dagster.home import Home
from cai_dagster.lake.connection import LakeError
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.reader import LakeReader
from tests.lake_rows import accounts, commit, completions, folders, rejected_ids, responses

# Replaces one version of `judgements` a few times over: argv is version, rows, replacements.
REPLACE = """
import sys
from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.snapshots import Account

version, rows, replacements = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
lake = Lake(Home.from_environment())
for replacement in range(replacements):
    staged = lake.stage("judgements", version)
    staged.add(
        {"pair_id": f"{number:x}", "principle_id": "ab", "order": "01", "logp_a": -1.0 - replacement, "logp_b": -1.0,
         "rationale": None, "feedback_model": version, "request_id": "ff", "method": "one_principle",
         "principle_ids": ["ab"], "principle_weight": 1.0}
        for number in range(rows)
    )
    staged.reject(f"rejected {replacement}", "code: why", {})
    staged.close()
    lake.commit(staged, Account(f"{version} {replacement}", "scripted"))
"""

# Writes into the catalog, and commits when a line comes.
WRITE = """
import sqlite3, sys

connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("PRAGMA user_version = 7")
print("writing", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
"""

# Replaces the table, but is killed when it comes to the method of Lake that argv names.
KILLED = """
import os, signal, sys
from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.snapshots import Account

setattr(Lake, sys.argv[1], lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
lake = Lake(Home.from_environment())
staged = lake.stage("initial_responses")
staged.add([{"prompt_id": "b", "sample": 0, "completion": "new", "finish_reason": "stop", "request_id": "ff",
             "policy_model": "m"}])
staged.reject("c", "code: new", {})
staged.close()
lake.commit(staged, Account("killed", "scripted"))
"""


def run_python(script: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stderr=subprocess.PIPE, text=True)


def test_two_processes_replace_their_versions_at_once(home: Home) -> None:
    """Both start on an empty home, so they also make the catalog at once; readers only ever see whole versions."""
    rows, replacements, versions = 40, 3, ("v1", "v2")
    processes = [run_python(REPLACE, version, str(rows), str(replacements)) for version in versions]
    lake = Lake(home)
    try:
        while any(process.poll() is None for process in processes):
            time.sleep(0.05)
            for version in versions:
                if lake.materialized("judgements", version):
                    frame = lake.snapshot("judgements", version).frame()
                    assert (frame.height, frame["logp_a"].n_unique()) == (rows, 1)
        errors = [process.communicate()[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    for version in versions:
        frame = lake.snapshot("judgements", version).frame()
        assert frame["pair_id"].to_list() == sorted(f"{number:x}" for number in range(rows))
        assert frame["feedback_model"].unique().to_list() == [version]
        assert frame["logp_a"].unique().to_list() == [float(-replacements)]
        assert rejected_ids(lake, "judgements", version) == [f"rejected {replacements - 1}"]
        assert [row["run_id"] for row in accounts(lake, version)] == [f"{version} {n}" for n in range(replacements)]
    assert not folders(home)


def test_a_commit_that_meets_a_locked_catalog_lets_the_other_finish_and_goes_on(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(home)
    commit(lake, "initial_responses", responses("old"))
    write = [sys.executable, "-c", WRITE, str(home.catalog)]
    with subprocess.Popen(write, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        reconnect = lake._reconnect

        def let_the_other_commit() -> None:
            reconnect()
            other.communicate("now\n")

        monkeypatch.setattr(lake, "_reconnect", let_the_other_commit)
        commit(lake, "initial_responses", responses("new"))
        assert other.returncode == 0
    assert completions(lake) == ["new"]


@pytest.mark.parametrize("use", ["write", "read"])
def test_a_catalog_that_stays_locked_is_an_error_that_says_what_to_do(
    home: Home, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    commit(Lake(home), "initial_responses", responses("old"))

    def at_once() -> None:
        if use == "write":
            commit(Lake(home), "initial_responses", responses("new"))
        else:
            LakeReader(home).rows("SELECT completion FROM lake.initial_responses")

    monkeypatch.setattr("cai_dagster.lake.connection.RETRY_SECONDS", 0.5)
    lock = [sys.executable, "-c", WRITE.replace("IMMEDIATE", "EXCLUSIVE"), str(home.catalog)]
    with subprocess.Popen(lock, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        with pytest.raises(LakeError, match=r"in use by another process for 0\.5 seconds .* the same command again"):
            at_once()
        other.communicate("now\n")
    at_once()


@pytest.mark.parametrize("moment", ["_refuse_duplicate_keys", "_append_account"])
def test_a_killed_commit_leaves_the_old_rows_visible(home: Home, moment: str) -> None:
    """Killed between staging and the transaction, and inside it, just before its COMMIT."""
    commit(Lake(home), "initial_responses", responses("old"), rejected=["old"])
    process = run_python(KILLED, moment)
    errors = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, errors
    assert len(folders(home)) == 1
    lake = Lake(home)
    assert completions(lake) == ["old"]
    assert rejected_ids(lake, "initial_responses") == ["old"]
    assert lake.select("FROM lake.materializations", {}).height == 1
    assert not folders(home)
    commit(lake, "initial_responses", responses("newer"))
    assert completions(lake) == ["newer"]
