"""The lake in PostgreSQL and object storage keeps every promise that it keeps in a folder: the same tests.

Beside them what only shared storage can do: be away for a while, and be used by hosts that begin at the same moment.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import polars as pl
import pytest
from upath import UPath

import cai_dagster.home
import cai_dagster.lake.lake
import cai_dagster.upkeep.leftovers
from cai_dagster.errors import MendableError
from cai_dagster.home import STORAGE, Home, HomeError
from cai_dagster.lake.catalog_database import catalog_named
from cai_dagster.lake.connection import LakeError
from cai_dagster.lake.forgotten_prompts import add_forgotten_prompt, forgotten_prompts
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.reader import LakeReader
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.training.checkpoint_folders import brought, folder_of_row, records, shared_folder
from cai_dagster.training.checkpoints import Ingredients, TrainingOutcome, train_once
from cai_dagster.upkeep.findings import Level, good
from cai_dagster.upkeep.integrity import examine_integrity
from cai_dagster.upkeep.leftovers import leftovers, remove_leftovers
from tests.object_storage import ObjectStorage, Trouble, share
from tests.postgresql import PostgreSqlServer
from tests.unit.lake.test_lake import *

AWAY_SECONDS = float(os.environ.get("CAI_TEST_AWAY", "2"))
INGREDIENTS = Ingredients("reward_model", "v1", "base", "00", {"epochs": 1}, {})
SECRET = "a text that somebody wants to be forgotten"


@pytest.fixture(scope="module")
def shared_home(
    server: PostgreSqlServer, storage: ObjectStorage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Home]:
    """In place of the home of the tests of `test_lake`."""
    with pytest.MonkeyPatch.context() as patch:
        share(patch, server.new_database(), storage.new_bucket(), storage)
        yield Home(tmp_path_factory.mktemp("lake"))


@pytest.fixture
def home(host: Home) -> Home:
    """In place of the home of the tests that are run again."""
    return host


# About the files of one home.
del test_a_catalog_that_cannot_be_read_is_named_with_what_to_do  # noqa: F821
del test_a_catalog_whose_making_was_cut_short_is_made_again  # noqa: F821
del test_plain_duckdb_reads_the_rows  # noqa: F821
del test_a_home_may_have_any_name  # noqa: F821


@contextmanager
def away(stop: Callable[[], None], start: Callable[[], None]) -> Iterator[None]:
    """Something that is not there when the work begins, and is started again while it waits."""
    stop()
    timer = threading.Timer(AWAY_SECONDS, start)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def train(folder: Path) -> TrainingOutcome:
    """A training in name only."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    return TrainingOutcome({"rows": 1}, {"loss": 0.5})


def test_a_commit_waits_for_a_server_that_is_started_again(home: Home, server: PostgreSqlServer) -> None:
    lake = Lake(home)
    commit(lake, "judgements", judgements(2), "v1")
    with away(server.stop, server.start):
        commit(lake, "judgements", judgements(3), "v1")
    assert len(logps(lake, "v1")) == 3
    with away(server.stop, server.start):
        assert len(logps(lake, "v1")) == 3


def test_a_commit_waits_for_object_storage_that_is_started_again(home: Home, storage: ObjectStorage) -> None:
    lake = Lake(home)
    commit(lake, "judgements", judgements(2), "v1")
    with away(storage.pause, storage.go_on):
        commit(lake, "judgements", judgements(3), "v1")
    assert len(logps(Lake(home), "v1")) == 3


@pytest.mark.parametrize("trouble", ["503", "silent"])
def test_commits_and_reads_wait_for_object_storage_that_is_in_trouble(
    home: Home, storage: ObjectStorage, trouble: Trouble
) -> None:
    lake = Lake(home)
    commit(lake, "judgements", judgements(2), "v1")
    with away(lambda: storage.begin_trouble(trouble), storage.end_trouble):
        commit(lake, "judgements", judgements(3), "v1")
        assert storage.requests_in_trouble
    with away(lambda: storage.begin_trouble(trouble), storage.end_trouble):
        assert len(logps(Lake(home), "v1")) == 3
        assert storage.requests_in_trouble


@pytest.mark.parametrize("trouble", ["503", "silent"])
def test_an_upload_waits_for_object_storage_that_is_in_trouble(
    home: Home, storage: ObjectStorage, tmp_path: Path, trouble: Trouble
) -> None:
    with away(lambda: storage.begin_trouble(trouble), storage.end_trouble):
        train_once(home, INGREDIENTS, train)
        assert storage.requests_in_trouble
    folder = brought(Home(tmp_path / "other"), "reward_model", INGREDIENTS.key)
    assert folder is not None
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_a_commit_whose_answer_was_lost_is_made_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(home)
    commit(lake, "judgements", judgements(1), "v1")
    real, committed = cai_dagster.lake.lake.in_transaction, []

    def loses_the_answer(connection: Any, work: Callable[[], None]) -> None:
        real(connection, work)
        if not committed:
            committed.append(1)
            raise duckdb.TransactionException('Failed to commit: Failed to execute query "ROLLBACK": ')

    monkeypatch.setattr(cai_dagster.lake.lake, "in_transaction", loses_the_answer)
    snapshot = commit(lake, "judgements", judgements(3), "v1")
    assert committed
    assert snapshot == lake.current_snapshot()
    assert lake.select("SELECT rows FROM lake.materializations ORDER BY read_at", {})["rows"].to_list() == [1, 3]
    lake.expire_snapshots()  # removes files that were replaced: a file that was named twice would be one of them
    assert len(logps(Lake(home), "v1")) == 3


def test_hosts_that_begin_with_an_empty_catalog_at_once_all_succeed(home: Home, tmp_path: Path) -> None:
    hosts = [Home(tmp_path / f"host{number}") for number in range(4)]
    barrier = threading.Barrier(len(hosts))

    def begin(host: Home) -> int:
        lake = Lake(host)
        barrier.wait()
        return commit(lake, "judgements", judgements(2), host.root.name)

    with ThreadPoolExecutor(len(hosts)) as threads:
        snapshots = list(threads.map(begin, hosts))
    assert len(set(snapshots)) == len(hosts)
    assert len(list(Lake(home).stream("FROM j", j=Lake(home).snapshot("judgements")))) == 2 * len(hosts)


def test_nothing_of_the_lake_is_written_to_the_home(home: Home) -> None:
    commit(Lake(home), "judgements", judgements(2), "v1", rejected=["a"])
    assert [file.name for file in home.root.rglob("*") if file.is_file()] == []
    assert {file.suffix for file in home.tables.rglob("*") if file.is_file()} == {".parquet"}


def test_an_empty_catalog_over_a_bucket_with_tables_is_refused(
    home: Home, server: PostgreSqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(Lake(home), "judgements", judgements(2), "v1")
    before = sorted(map(str, home.tables.rglob("*")))
    monkeypatch.setenv("CAI_CATALOG", server.new_database())
    for opened in (lambda: Lake(home).current_snapshot(), lambda: LakeReader(home)):
        with pytest.raises(LakeError, match="is gone, but the tables"):
            opened()
    assert sorted(map(str, home.tables.rglob("*"))) == before


def test_a_password_is_used_and_shown_nowhere(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    url = urlsplit(str(home.shared_catalog))
    monkeypatch.setenv("CAI_CATALOG", url._replace(netloc=f"cai:s3cret@127.0.0.1:{url.port}").geturl())
    commit(Lake(home), "judgements", judgements(2), "v1")
    assert "s3cret" not in catalog_named(home)
    assert len(LakeReader(home).rows("FROM lake.judgements")) == 2
    monkeypatch.setenv("CAI_CATALOG", url._replace(netloc=f"cai:s3cret@127.0.0.1:{url.port}", path="/none").geturl())
    with pytest.raises(MendableError) as refusal:  # at once: that server will say the same again
        Lake(home).current_snapshot()
    assert "none" in str(refusal.value)
    assert "s3cret" not in str(refusal.value) + str(refusal.value.__cause__)


def test_a_forgotten_text_is_nowhere_after_the_snapshots_are_expired(home: Home, server: PostgreSqlServer) -> None:
    lake = Lake(home)
    commit(lake, "prompts", [prompt("a", SECRET), prompt("b", "Hi.")])
    assert SECRET.encode() in everything(home, server)
    lake.delete({"prompts": "prompt_id = 'a'"})
    lake.expire_snapshots()
    assert SECRET.encode() not in everything(home, server)
    assert lake.snapshot("prompts").frame()["prompt_id"].to_list() == ["b"]


def test_a_prompt_that_one_host_forgets_is_forgotten_by_all(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    assert forgotten_prompts(other) == frozenset()
    add_forgotten_prompt(home, "a", ["pair"])
    assert forgotten_prompts(other) == {"a"}
    commit(Lake(other), "prompts", [prompt("a", "Hello."), prompt("b", "Hi.")])
    assert Lake(home).snapshot("prompts").frame()["prompt_id"].to_list() == ["b"]


def test_files_that_no_snapshot_names_are_found_and_removed_on_object_storage(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(Lake(home), "judgements", judgements(2), "v1")
    orphan = home.tables / "main" / "judgements" / "of-a-killed-commit.parquet"
    orphan.write_bytes(b"rows")
    assert leftovers(home).orphans == ()  # a commit of another host may be under way
    monkeypatch.setattr(cai_dagster.upkeep.leftovers, "ORPHAN_SECONDS", -60.0)
    assert remove_leftovers(home).orphans == (orphan,)
    assert not orphan.exists()
    assert good("staging", "nothing left over") in examine_integrity(home)
    assert len(logps(Lake(home), "v1")) == 2


def test_the_doctor_finds_what_is_lost_on_object_storage(home: Home) -> None:
    commit(Lake(home), "judgements", judgements(2), "v1")
    (file,) = [file for file in home.tables.rglob("*.parquet") if not file.name.startswith("ducklake-")]
    file.unlink()
    found = [finding for finding in examine_integrity(home) if finding.level == Level.problem]
    assert [finding.topic for finding in found] == ["lake"]
    assert file.name in found[0].text


def test_the_doctor_says_that_the_server_is_away(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_CATALOG", "postgresql://cai:s3cret@127.0.0.1:1/none")
    monkeypatch.setattr("tenacity.stop_after_delay.__call__", lambda *_: True)
    found = [finding for finding in examine_integrity(home) if finding.level == Level.problem]
    assert "start the server" in found[0].remedy
    assert "s3cret" not in str(found)


def test_a_checkpoint_that_one_host_trained_is_found_and_used_by_all(home: Home, tmp_path: Path) -> None:
    def train_more(folder: Path) -> TrainingOutcome:
        (folder / "tokenizer").mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights" * 2_000_000)
        (folder / "tokenizer" / "vocab.json").write_text("{}")
        return TrainingOutcome({"rows": 1}, {"loss": 0.5})

    record, trained = train_once(home, INGREDIENTS, train_more)
    assert trained
    other = Home(tmp_path / "other")
    assert [file.parent.name for file in records(other, "reward_model")] == [INGREDIENTS.key]
    row = {"checkpoint_key": INGREDIENTS.key, "path": "/of/another/host"}
    folder = folder_of_row(other, "reward_model", row)
    assert folder == other.models / "reward_model" / INGREDIENTS.key
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()) == [
        *("model.safetensors", "record.json", "tokenizer/vocab.json"),
    ]
    assert (folder / "model.safetensors").read_bytes() == b"weights" * 2_000_000
    assert train_once(Home(tmp_path / "third"), INGREDIENTS, train_more) == (record, False)


def test_an_upload_that_was_cut_short_is_no_checkpoint_and_is_made_whole(home: Home, tmp_path: Path) -> None:
    train_once(home, INGREDIENTS, train)
    (shared_folder(home, "reward_model", INGREDIENTS.key) / "record.json").unlink()  # it comes last
    assert brought(Home(tmp_path / "other"), "reward_model", INGREDIENTS.key) is None
    assert train_once(home, INGREDIENTS, train)[1] is False
    assert brought(Home(tmp_path / "other"), "reward_model", INGREDIENTS.key)


def test_a_dump_of_the_catalog_and_a_copy_of_the_bucket_bring_everything_back(
    home: Home, server: PostgreSqlServer, storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lake = Lake(home)
    before = commit(lake, "judgements", judgements(2), "v1")
    commit(lake, "judgements", judgements(3), "v1")
    add_forgotten_prompt(home, "a", [])
    restored = server.restored(str(home.shared_catalog))
    commit(lake, "judgements", judgements(4), "v1")  # of a run that goes on meanwhile
    bucket = storage.new_bucket()
    copy = UPath(f"s3://{bucket}/tables", use_listings_cache=False)
    for file in (file for file in home.tables.rglob("*") if file.is_file()):
        (copy / str(file)[len(f"{home.tables}/") :]).write_bytes(file.read_bytes())
    remove(home.tables)
    share(monkeypatch, restored, bucket, storage)
    after = Lake(Home(tmp_path / "new"))
    assert len(logps(after, "v1")) == 3
    assert len(after.read(TableSnapshot(after, "judgements", "v1", before))) == 2
    assert forgotten_prompts(home) == {"a"}
    assert not [one for one in examine_integrity(home) if one.level == Level.problem and one.topic == "lake"]
    commit(after, "judgements", judgements(5), "v1")
    assert len(logps(Lake(home), "v1")) == 5


def test_the_settings_name_shared_places_and_no_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.toml"
    monkeypatch.setattr(cai_dagster.home, "SETTINGS_FILE", file)
    home = Home(tmp_path)
    for variable in STORAGE.values():
        monkeypatch.delenv(variable, raising=False)

    def storage_is(text: str) -> None:
        file.write_text(text)
        cai_dagster.home._storage_section.cache_clear()

    storage_is(f"[storage]\ndata = '{tmp_path}/shared'\nledger = 'postgresql://cai@db/ledger'\n")
    assert home.tables == tmp_path / "shared"
    assert home.shared_ledger == "postgresql://cai@db/ledger"
    assert home.shared_catalog is None
    monkeypatch.setenv("CAI_LEDGER", "postgresql://cai@other/ledger")
    assert home.shared_ledger == "postgresql://cai@other/ledger"
    for wrong, said in {
        "catalog = 'postgresql://cai:s3cret@db/cai'": "holds a password",
        "catalog = 'mysql://db/cai'": "one that hosts share is one of PostgreSQL",
        "data = 'relative/folder'": "absolute path",
        "datas = '/folder'": "there are catalog, ledger, data, checkpoints",
        "data = 3": "each a text",
    }.items():
        storage_is(f"[storage]\n{wrong}\n")
        with pytest.raises(HomeError, match=said) as refusal:
            Home.from_environment()
        assert "s3cret" not in str(refusal.value)
    cai_dagster.home._storage_section.cache_clear()


def remove(folder: Path) -> None:
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        file.unlink()


def prompt(prompt_id: str, text: str) -> dict[str, Any]:
    return {
        "prompt_id": prompt_id,
        "messages": [{"role": "user", "content": text}],
        "source": "tests",
        "sources": ["tests"],
        "category": None,
        "split": "sft",
    }


def everything(home: Home, server: PostgreSqlServer) -> bytes:
    """What the bucket and the files of the database server hold, compressed or not."""
    files = [file for file in home.tables.rglob("*") if file.is_file()]
    texts = [str(pl.read_parquet(file.read_bytes()).to_dicts()).encode() for file in files]
    return b"".join(texts) + server.bytes_on_disk()
