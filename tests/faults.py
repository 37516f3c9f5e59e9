"""Kill a process at a seeded moment, start it again, and say what differs from a run that nobody killed.

Used by `tests/e2e/test_faults.py` (a few kills) and `benchmarks/faults.py` (fifty). What is started stands in
`fault_workloads`; it says in `marks.log` where it is.
"""

import dataclasses
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.models.weights import weights_of
from cai_dagster.project import PROJECT
from cai_dagster.settings import active_settings
from cai_dagster.tables.registry import TABLES
from tests.fault_marks import DONE, WORKING

PATIENCE_SECONDS = 300
POLL_SECONDS = 0.001
QUESTIONS = 100
ANSWER_SECONDS = 0.12
# What two runs of the same work may differ in: times, what was paid when, and numbers of snapshots.
ACCOUNT_OF_RESULT = ["table_name", "constitution_version", "rows", "rejected", "data_version"]
RECORD_OF_RUN = ("seconds", "created_at", "lake_snapshots")


class FaultError(AssertionError):
    """A run did not do what the harness needs in order to judge it."""


@dataclass(frozen=True)
class Workload:
    """A command (arguments of `tests.fault_workloads`) and how what it leaves in its home is described."""

    kind: str
    arguments: Sequence[str]
    describe: Callable[[Home], Any]
    environment: dict[str, str] = field(default_factory=dict)
    within: Sequence[str] = ()  # a command that starts it, such as `unshare`

    def start(self, home: Home) -> "subprocess.Popen[bytes]":
        """Start it in a session of its own; what it prints goes to CAI_HOME/../<home>.log."""
        home.root.mkdir(parents=True, exist_ok=True)
        command = [*self.within, sys.executable, "-m", "tests.fault_workloads", self.kind, *self.arguments]
        environment = {**os.environ, **self.environment, "CAI_HOME": str(home.root), "PYTHONPATH": str(PROJECT)}
        with home.root.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def finish(self, home: Home) -> None:
        """Run it to its end. Raises FaultError when it fails."""
        process = self.start(home)
        try:
            code = process.wait(PATIENCE_SECONDS)
        finally:
            kill(process)
        if code != 0:
            log = home.root.with_suffix(".log").read_text(errors="replace")
            raise FaultError(f"{self.kind} ended with exit status {code}: {log[-3000:]}")


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody killed: what it left, and when it was where."""

    left: Any
    marks: list[tuple[float, str]]

    @property
    def seconds(self) -> float:
        """From the first mark of work to the last of all."""
        return self.marks[-1][0] - self.marks[0][0]

    def moments(self, beginning: str) -> list[tuple[int, str, float]]:
        """The marks that begin so: which of that text it is (from 1), the text, and the seconds until the next."""
        seen: Counter[str] = Counter()
        found: list[tuple[int, str, float]] = []
        for (at, what), (later, _) in zip(self.marks, [*self.marks[1:], self.marks[-1]], strict=True):
            seen[what] += 1
            if what.startswith(beginning):
                found.append((seen[what], what, later - at))
        return found


@dataclass(frozen=True)
class Moment:
    """When to kill: `seconds` after the `occurrence`-th mark `after`."""

    seconds: float
    after: str = WORKING
    occurrence: int = 1


@dataclass(frozen=True)
class Verdict:
    """One kill: where it landed, what the second run repeated, and what was wrong (nothing, if all is well)."""

    kind: str
    seed: int
    seconds: float
    after: str
    landed: str
    committed_calls: int
    repeated_calls: int
    unregistered_files: int
    wrong: list[str]

    @property
    def where(self) -> str:
        """What the process was doing, without the table's name."""
        return " ".join(word for word in self.landed.split() if word not in TABLES)


def undisturbed(workload: Workload, home: Home) -> Undisturbed:
    """Run to the end without a kill."""
    workload.finish(home)
    marks = read_marks(home)
    first = next(number for number, (_, what) in enumerate(marks) if what == WORKING)
    return Undisturbed(workload.describe(home), marks[first:])


def random_moment(reference: Undisturbed, seed: int, aimed_at: str = "") -> Moment:
    """Uniform over the working time; or, aimed, uniform over the time after one of the marks that begin so."""
    generator = random.Random(seed)
    if not aimed_at:
        return Moment(generator.uniform(0, 0.97 * reference.seconds))
    occurrence, what, duration = generator.choice(reference.moments(aimed_at))
    return Moment(generator.uniform(0, duration), what, occurrence)


def kill_and_go_on(workload: Workload, home: Home, reference: Undisturbed, seed: int, moment: Moment) -> Verdict:
    """Start, kill at the moment, start again to the end, compare with the run that nobody killed."""
    moment = start_and_kill(workload, home, moment)
    landed = read_marks(home)[-1][1]
    committed, asked = ledger_ids(home), len(read_calls(home))
    workload.finish(home)
    calls = read_calls(home)
    wrong = wrong_calls(calls, asked, committed)
    left = workload.describe(home)
    names = sorted({*reference.left, *left})
    wrong += [
        f"{name}: differs from the undisturbed run" for name in names if left.get(name) != reference.left.get(name)
    ]
    wrong += [f"left behind: {path.relative_to(home.root)}" for path in abandoned(home)]
    orphans = 0
    if home.catalog.exists():
        registered, present = files_of_the_lake(home)
        wrong += [f"registered but absent: {file}" for file in sorted(registered - present)]
        orphans = len(present - registered)
        wrong += wrong_ledger(home)
    repeated = len(repeated_answers(calls))
    return Verdict(
        workload.kind, seed, round(moment.seconds, 4), moment.after, landed, len(committed), repeated, orphans, wrong
    )


def start_and_kill(workload: Workload, home: Home, moment: Moment) -> Moment:
    """Start and kill. Where the process was done by then (the undisturbed run was slower), again at half the time."""
    while True:
        process = workload.start(home)
        wait_for_mark(process, home, moment)
        time.sleep(moment.seconds)
        kill(process)
        if process.returncode == -signal.SIGKILL and read_marks(home)[-1][1] != DONE:
            return moment
        if process.returncode not in {-signal.SIGKILL, 0}:
            raise FaultError(f"{workload.kind} failed by itself; see {home.root.with_suffix('.log')}")
        shutil.rmtree(home.root)
        moment = dataclasses.replace(moment, seconds=moment.seconds / 2)


def wait_for_mark(process: "subprocess.Popen[bytes]", home: Home, moment: Moment) -> None:
    """Return as soon as the mark is there, or the process has ended. Raises FaultError when neither happens."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if [what for _, what in read_marks(home)].count(
            moment.after
        ) >= moment.occurrence or process.poll() is not None:
            return
        time.sleep(POLL_SECONDS)
    kill(process)
    raise FaultError(f"no mark {moment.after!r} within {PATIENCE_SECONDS} s")


def kill(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL to the process and all it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_marks(home: Home) -> list[tuple[float, str]]:
    """When the process was where, in order."""
    file = home.root / "marks.log"
    if not file.exists():
        return []
    lines = [line.split(" ", 1) for line in file.read_text().splitlines()]
    return [(float(at), what) for at, what in lines]


def read_calls(home: Home) -> list[tuple[str, str]]:
    """`asked` or `answered` and the request's id, in order."""
    file = home.root / "calls.log"
    return [(what, call) for what, call in map(str.split, file.read_text().splitlines())] if file.exists() else []


def ledger_ids(home: Home) -> set[str]:
    """The calls in the ledger, read from a copy: looking must not mend what the dead process left."""
    if not home.ledger.exists():
        return set()
    copy = home.root.with_suffix(".ledger")
    copy.mkdir()
    for file in home.root.glob(f"{home.ledger.name}*"):
        shutil.copy(file, copy)
    with sqlite3.connect(copy / home.ledger.name) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        ids = {call for (call,) in connection.execute("SELECT request_id FROM calls")} if "calls" in tables else set()
    connection.close()
    shutil.rmtree(copy)
    return ids


def repeated_answers(calls: Sequence[tuple[str, str]]) -> set[str]:
    """The calls that were answered, and so paid for, more than once."""
    times = Counter(call for what, call in calls if what == "answered")
    return {call for call, count in times.items() if count > 1}


def wrong_calls(calls: Sequence[tuple[str, str]], before: int, committed: set[str]) -> list[str]:
    """A committed call asked again; more calls paid twice than are in flight. `before` lines are of the first run."""
    again = {call for what, call in calls[before:] if what == "asked"} & committed
    wrong = [f"in the ledger and asked again: {call}" for call in sorted(again)]
    in_flight = active_settings().policy.rows_in_flight
    if len(repeated_answers(calls)) > in_flight:
        wrong.append(f"{len(repeated_answers(calls))} calls were paid twice; {in_flight} are in flight")
    return wrong


def wrong_ledger(home: Home) -> list[str]:
    """A damaged ledger; rows whose call is not in it, or says something else there."""
    with sqlite3.connect(home.ledger) as connection:
        (state,) = connection.execute("PRAGMA integrity_check").fetchone()
        texts = dict(connection.execute("SELECT request_id, text FROM calls").fetchall())
    connection.close()
    wrong = [] if state == "ok" else [f"ledger: {state}"]
    lake = Lake(home)
    for table, text, request_id in CALLS_OF_ROWS:
        rows = lake.select(f"SELECT {text or 'NULL'} AS text, {request_id} AS request_id FROM lake.{table}", {})
        absent = [row for row in rows.iter_rows(named=True) if row["request_id"] not in texts]
        other = [
            row["request_id"]
            for row in rows.iter_rows(named=True)
            if text and texts.get(row["request_id"], row["text"]) != row["text"]
        ]
        wrong += [f"{table}.{request_id}: {len(absent)} calls are not in the ledger"] if absent else []
        wrong += [f"{table}.{text}: {len(other)} texts differ from the ledger's, e.g. {other[0]}"] if other else []
    return wrong


CALLS_OF_ROWS = (
    ("initial_responses", "completion", "request_id"),
    ("revision_rounds", "critique", "critique_request_id"),
    ("revision_rounds", "revision", "revision_request_id"),
    ("response_pairs", "completion_0", "request_id_0"),
    ("response_pairs", "completion_1", "request_id_1"),
    ("judgements", "", "request_id"),
)


def abandoned(home: Home) -> list[Path]:
    """What lies in staging although nobody works: after a run that ended well, nothing may."""
    return sorted(home.staging.iterdir()) if home.staging.exists() else []


def files_of_the_lake(home: Home) -> tuple[set[str], set[str]]:
    """The names of the Parquet files that some snapshot consists of, and of those in the folder of the tables."""
    lake = Lake(home)
    lake.materialized("prompts")
    files = lake.select("SELECT path FROM __ducklake_metadata_lake.ducklake_data_file", {})
    return {Path(file).name for file in files["path"]}, {file.name for file in home.tables.rglob("*.parquet")}


def tables_left(home: Home) -> dict[str, Any]:
    """Every table as it is now, without what depends on when and where it was made."""
    lake = Lake(home)
    tables: dict[str, Any] = {}
    for name, table in TABLES.items():
        key = ", ".join(f'"{column}"' for column in table.key)
        frame = lake.select(f"FROM lake.{name} ORDER BY {key}", {})
        if name == "materializations":
            latest = frame.sort("materialized_at").unique(["table_name", "constitution_version"], keep="last")
            frame = latest.select(ACCOUNT_OF_RESULT).sort("table_name", "constitution_version")
            frame = frame.filter(~pl.col("table_name").is_in(["sl_cai_model", "reward_model"]))  # path and times
        if name == "check_results":
            # A line for each run: the last of each check says what it says in an undisturbed run. But for drift, which
            # compares with the versions that were measured before.
            frame = frame.filter(pl.col("check_name") != "drift")
            check = ("table_name", "constitution_version", "check_name")
            frame = frame.sort("checked_at").unique(check, keep="last").sort(check).drop("run_id", "checked_at")
        if "record" in frame.columns:
            frame = frame.with_columns(
                pl.col("path").str.replace(str(home.root), "HOME", literal=True),
                pl.col("record").map_elements(lasting_record, pl.String),
            )
        tables[name] = frame.to_dicts()
    return tables | checkpoints_left(home)


def checkpoints_left(home: Home) -> dict[str, Any]:
    """The files of every checkpoint by content; of its record, what does not depend on the run."""
    left: dict[str, Any] = {}
    for record in sorted(home.models.glob("*/*/record.json")):
        folder, name = record.parent, str(record.parent.relative_to(home.root))
        left[name] = [lasting_record(record.read_text()), weights_of(folder.name, folder, home).digest]
    return left


def lasting_record(record: str) -> str:
    """A checkpoint's record without the times, and without the numbers of snapshots."""
    return json.dumps({name: value for name, value in json.loads(record).items() if name not in RECORD_OF_RUN})


def model_left(home: Home) -> dict[str, Any]:
    """The offline model by content."""
    return {folder.name: weights_of(folder.name, folder, home).digest for folder in home.models.glob("offline/*")}


def workloads(folder: Path, kinds: Sequence[str]) -> dict[str, Workload]:
    """What is killed, by kind; the inputs are written into `folder`."""
    prompts = write_questions(folder / "prompts.jsonl", QUESTIONS)
    tiny = folder / "tiny_model"
    if "training" in kinds:
        Workload("tiny", [str(tiny)], checkpoints_left).finish(Home(folder / "tiny_home"))
    every = {
        "graph": Workload("graph", [str(prompts), "v1", str(ANSWER_SECONDS)], tables_left),
        "training": Workload("training", [str(tiny)], checkpoints_left),
        "conversion": Workload("conversion", [], model_left),
    }
    return {kind: every[kind] for kind in kinds}


def write_questions(file: Path, count: int) -> Path:
    """Prompts for the graph; two of them get no answer and are set aside."""
    texts = [*(f"question {number}" for number in range(count)), "question: say nothing", "please say nothing"]
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return file


def to_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as a line of the report."""
    return {**dataclasses.asdict(verdict), "where": verdict.where}
