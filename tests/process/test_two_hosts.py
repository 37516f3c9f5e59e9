"""Two hosts on one store: they leave the tables that one undisturbed host leaves, though one of them is killed.

A host is a home, a folder for temporary files and a process; catalog and ledger are in a real PostgreSQL server, data
and checkpoints on a real S3 server. Where the kernel allows it, the host that is killed has process ids of its own, the
same in each life (`unshare`), and the clock of the other is an hour ahead (`tests/clock_ahead.c`, with a C compiler).
`CAI_TEST_KILLS` has it killed more often than `make test` does.
"""

import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import cai_dagster.upkeep.leftovers
from cai_dagster.calls.ledger import open_ledger
from cai_dagster.home import Home
from cai_dagster.lake.catalog_database import rows_of_catalog
from cai_dagster.lake.lake import Lake
from cai_dagster.models.weights import weights_of
from cai_dagster.project import CONSTITUTIONS
from cai_dagster.settings import active_settings
from cai_dagster.training.checkpoint_folders import brought, records
from cai_dagster.upkeep.findings import Level
from cai_dagster.upkeep.integrity import examine_integrity
from cai_dagster.upkeep.leftovers import remove_leftovers
from cai_dagster.upkeep.status import read_status
from tests.fault_marks import WORKING
from tests.faults import Moment, Workload, kill, read_calls, tables_left, wait_for_mark, write_questions
from tests.object_storage import ObjectStorage, share
from tests.postgresql import PostgreSqlServer
from tests.small_disk import graph_on_a_small_disk

KILLS = int(os.environ.get("CAI_TEST_KILLS", "3"))
QUESTIONS = 100
SMALL_DISK = 100  # KiB
LONGEST_LIFE = 12.0  # seconds of work before a kill
OWN_PROCESS_IDS = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
CLOCK_AHEAD = Path(__file__).parents[1] / "clock_ahead.c"
CHECKPOINTS = ("sl_cai_model", "reward_model")


@pytest.mark.timeout(1800)
def test_two_hosts_leave_what_one_leaves_though_one_is_killed(
    server: PostgreSqlServer, storage: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = str(write_questions(tmp_path / "prompts.jsonl", QUESTIONS))
    works = {version: Workload("graph", [prompts, version, "0.05"], tables_left) for version in ("v1", "v2")}
    alone = Home((tmp_path / "alone").resolve())
    for work in works.values():
        work.finish(alone)
    expected = comparable(tables_left(alone), str(alone.models))
    problems_alone = problems(alone)
    assert {topic for topic, _ in problems_alone} <= {"checkpoints"}

    bucket = storage.new_bucket()
    share(monkeypatch, server.new_database(), bucket, storage)
    first, second = Home((tmp_path / "first").resolve()), Home((tmp_path / "second").resolve())
    killed = replace(works["v1"], environment=own_folder(tmp_path / "of_first"), within=own_process_ids())
    ahead = replace(works["v2"], environment={**own_folder(tmp_path / "of_second"), **an_hour_ahead(tmp_path)})
    undisturbed = ahead.start(second)
    generator = random.Random(7)
    for number in range(KILLS):
        process = killed.start(first)
        wait_for_mark(process, first, Moment(0, WORKING, number + 1))
        time.sleep(generator.uniform(0, LONGEST_LIFE))
        kill(process)
    killed.finish(first)
    assert undisturbed.wait(300) == 0, second.root.with_suffix(".log").read_text()[-3000:]

    third = Home((tmp_path / "third").resolve())  # has made nothing itself
    noted = "SELECT max(materialized_at) FROM lake.materializations WHERE constitution_version = 'v2'"
    apart = Lake(third).select(noted, {}).item() - datetime.now(UTC).replace(tzinfo=None)
    assert (apart > timedelta(minutes=30)) == ("LD_PRELOAD" in ahead.environment)
    left = comparable(tables_left(third), f"s3://{bucket}/checkpoints")
    assert [name for name in expected if left.get(name) != expected[name]] == []
    for asset in CHECKPOINTS:
        keys = {record.parent.name for record in records(third, asset)}
        assert keys == {record.parent.name for record in records(alone, asset)}
        digests = {weights_of(asset, folder, third).digest for key in keys if (folder := brought(third, asset, key))}
        assert digests == {weights_of(asset, alone.models / asset / key, alone).digest for key in keys}

    answered = Counter(call for host in (first, second) for what, call in read_calls(host) if what == "answered")
    assert sum(answered.values()) - len(answered) <= KILLS * active_settings().policy.rows_in_flight
    assert set(answered) == {call for what, call in read_calls(alone) if what == "answered"}
    assert sum(open_ledger(third).totals().values()) == len(answered)

    monkeypatch.setattr(cai_dagster.upkeep.leftovers, "ORPHAN_SECONDS", -60.0)
    remove_leftovers(third)
    named = {path for (path,) in rows_of_catalog(third, "SELECT path FROM ducklake_data_file")}
    present = {file.name for file in third.tables.rglob("*.parquet")}
    assert present == {Path(path).name for path in named}
    assert problems(third) == problems_alone  # of checkpoints: scripted trainers write weights alone
    status = read_status(third, CONSTITUTIONS, ["v1", "v2"])
    made = [one for version in status.versions for one in version.assets if one.asset == "reward_model_evaluation"]
    assert len(made) == 2
    assert all(one.rows for one in made)


def test_a_host_whose_disk_is_full_says_so_and_goes_on_when_there_is_room(
    server: PostgreSqlServer, storage: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = write_questions(tmp_path / "prompts.jsonl", QUESTIONS)
    work = Workload("graph", [str(prompts), "v1", "0.01"], tables_left)
    alone = Home((tmp_path / "alone").resolve())
    work.finish(alone)
    expected = comparable(tables_left(alone), str(alone.models))

    bucket = storage.new_bucket()
    share(monkeypatch, server.new_database(), bucket, storage)
    graph_on_a_small_disk(tmp_path, SMALL_DISK, prompts)
    left = comparable(tables_left(Home((tmp_path / "another").resolve())), f"s3://{bucket}/checkpoints")
    assert len(left.pop("failed_materializations")) == 1  # the store has room to note it
    assert not expected.pop("failed_materializations", [])
    assert [name for name in expected if left.get(name) != expected[name]] == []


def own_folder(folder: Path) -> dict[str, str]:
    """The environment that leads to a folder for temporary files."""
    folder.mkdir()
    return {"TMPDIR": str(folder)}


def own_process_ids() -> Sequence[str]:
    """The command that gives a process ids of its own; none where the kernel does not allow it."""
    if shutil.which(OWN_PROCESS_IDS[0]) is None:
        return ()
    return OWN_PROCESS_IDS if subprocess.run([*OWN_PROCESS_IDS, "true"], check=False).returncode == 0 else ()


def an_hour_ahead(folder: Path) -> dict[str, str]:
    """The environment in which the clock is an hour ahead; none where there is no C compiler."""
    if shutil.which("cc") is None:
        return {}
    library = folder / "clock_ahead.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, CLOCK_AHEAD], check=True)
    return {"LD_PRELOAD": str(library)}


def problems(home: Home) -> set[tuple[str, str]]:
    """What the doctor says against a home: topic and text."""
    found = (one for one in examine_integrity(home, full=True) if one.level == Level.problem)
    return {(one.topic, one.text.replace(str(home.root), "HOME")) for one in found}


def comparable(tables: dict[str, Any], checkpoints: str) -> dict[str, Any]:
    """Tables without the place of checkpoints, which are compared by themselves."""
    rows = {name: value for name, value in tables.items() if not name.startswith("models/")}
    for asset in CHECKPOINTS:
        for row in rows[asset]:
            row["path"] = row["path"].replace("HOME/models", "PLACE").replace(checkpoints, "PLACE")
    return rows
