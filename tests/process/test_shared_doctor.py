"""The doctor where hosts share catalog, ledger, data and checkpoints: the tests of one home's files, same assertions.

The servers are real: PostgreSQL and an S3 server. The home has the checkpoint that it trained here too.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.training.checkpoint_folders import share as upload
from cai_dagster.upkeep import leftovers as leftover_files
from cai_dagster.upkeep.findings import Level
from cai_dagster.upkeep.integrity import examine_integrity
from cai_dagster.upkeep.leftovers import remove_leftovers
from tests.databases import execute
from tests.graph import test_doctor
from tests.graph.test_doctor import KEY, bad, make_sound, only, pretend_trained
from tests.object_storage import ObjectStorage, share
from tests.postgresql import PostgreSqlServer


@dataclass(frozen=True)
class Place:
    """The database and the bucket of what is sound, and the home that made it."""

    database: str
    bucket: str
    home: Home


@pytest.fixture(scope="module")
def place(server: PostgreSqlServer, storage: ObjectStorage, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Tables and ledger of a graph, and a checkpoint."""
    database, bucket = server.new_database(), storage.new_bucket()
    with pytest.MonkeyPatch.context() as patch:
        share(patch, database, bucket, storage)
        home = make_sound(tmp_path_factory.mktemp("sound") / "home")
        upload(home, "sl_cai_model", KEY)
    return Place(database, bucket, home)


@pytest.fixture
def home(host: Home) -> Home:
    """In place of the empty home of the tests that are run again."""
    return host


@pytest.fixture
def broken(
    place: Place, server: PostgreSqlServer, storage: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Home:
    """A copy of database, bucket and home, to be broken."""
    home = Home((tmp_path / "home").resolve())
    shutil.copytree(place.home.root, home.root)
    monkeypatch.setenv("CAI_HOME", str(home.root))
    share(monkeypatch, server.restored(place.database), storage.copied(place.bucket), storage)
    return home


@pytest.fixture
def emptied(
    broken: Home, server: PostgreSqlServer, storage: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Home:
    """A home with nothing but the ledger of `broken`."""
    ledger = str(broken.shared_ledger)
    share(monkeypatch, server.new_database(), storage.new_bucket(), storage)
    monkeypatch.setenv("CAI_LEDGER", ledger)
    monkeypatch.setenv("CAI_HOME", str(tmp_path / "emptied"))
    return Home((tmp_path / "emptied").resolve())


test_a_sound_home = test_doctor.test_a_sound_home_has_no_problem
test_looking_changes_nothing = test_doctor.test_looking_changes_nothing_that_was_committed
test_an_empty_home = test_doctor.test_an_empty_home_lacks_an_instance_and_the_model
test_a_file_that_is_gone = test_doctor.test_a_file_of_a_table_that_is_gone
test_tables_of_the_ledger_alone = test_doctor.test_tables_are_made_again_of_the_ledger_alone
test_a_file_that_was_cut = test_doctor.test_a_file_of_a_table_that_was_cut
test_a_file_that_was_damaged = test_doctor.test_a_file_of_a_table_that_was_damaged_at_the_same_size
test_a_file_of_an_earlier_snapshot = test_doctor.test_a_file_of_an_earlier_snapshot_that_is_gone_is_a_warning
test_a_file_that_no_snapshot_names = test_doctor.test_a_file_that_no_snapshot_names_is_removed_when_it_is_an_hour_old
test_what_an_ended_process_left = (
    test_doctor.test_what_an_ended_process_left_is_removed_and_what_a_living_one_writes_is_not
)
test_a_look_that_fails = test_doctor.test_a_look_that_fails_does_not_hide_the_others
test_another_ducklake = test_doctor.test_a_catalog_of_another_version_of_ducklake
test_a_later_ledger = test_doctor.test_a_ledger_of_a_later_program
test_lost_calls = test_doctor.test_rows_whose_calls_the_ledger_does_not_have
test_altered_calls = test_doctor.test_calls_that_are_not_as_they_were_written
test_a_checkpoint_without_its_record = test_doctor.test_a_checkpoint_without_its_record
test_a_checkpoint_without_weights = test_doctor.test_a_checkpoint_without_weights
test_damaged_weights = test_doctor.test_weights_of_a_checkpoint_that_were_damaged_at_the_same_size
test_an_expired_snapshot = test_doctor.test_a_checkpoint_trained_on_a_snapshot_that_was_expired
test_the_command = test_doctor.test_the_command_says_it_in_words_and_in_json_and_by_its_exit_status


def test_nothing_is_removed_where_the_catalog_is_not_that_of_the_tables(
    broken: Home, server: PostgreSqlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = server.new_database()
    with monkeypatch.context() as patch:
        patch.setenv("CAI_CATALOG", other)
        patch.setenv("CAI_DATA", str(tmp_path / "other"))
        Lake(Home(tmp_path / "other-home")).select("SELECT 1", {})
    monkeypatch.setenv("CAI_CATALOG", other)
    monkeypatch.setattr(leftover_files, "ORPHAN_SECONDS", -60)
    before = sorted(broken.tables.rglob("*.parquet"))
    assert remove_leftovers(broken).orphans == ()
    assert sorted(broken.tables.rglob("*.parquet")) == before
    assert any(finding.topic == "lake" and finding.level == Level.problem for finding in examine_integrity(broken))


def test_a_catalog_that_is_gone(broken: Home) -> None:
    execute(broken, "catalog", "DROP TABLE ducklake_snapshot, ducklake_metadata")
    only(examine_integrity(broken), Level.problem, "gone or empty")


def test_a_checkpoint_that_is_only_where_hosts_share_it_is_not_brought_to_be_looked_at(broken: Home) -> None:
    shutil.rmtree(broken.models / "sl_cai_model")
    assert bad(examine_integrity(broken, full=True)) == []
    assert not (broken.models / "sl_cai_model").exists()


def test_a_shared_checkpoint_that_is_gone(broken: Home, tmp_path: Path) -> None:
    pretend_trained(broken, tmp_path / "gone", key="cd" * 16)
    finding = only(examine_integrity(broken), Level.problem, "sl_cai_model of v1")
    assert "--select 'key:sl_cai_model' --partition v1" in str(finding.remedy)
