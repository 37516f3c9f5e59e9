"""A full disk is one clear error, whatever the writer calls it; any other error stays what it is."""

import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cai_dagster import disk
from cai_dagster.disk import DiskFullError, full_disk_named, moved
from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from tests.lake_rows import commit, completions, responses


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("(sqlite3.OperationalError) database or disk is full"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named_with_what_is_safe_and_what_to_do(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(DiskFullError, match="run the same command again") as raised, full_disk_named(tmp_path):
        raise error
    assert str(tmp_path) in str(raised.value)
    assert raised.value.__cause__ is error


def test_an_error_that_does_not_say_so_is_recognised_by_the_full_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_has_room", lambda folder: False)
    with pytest.raises(DiskFullError), full_disk_named(tmp_path):
        raise RuntimeError("cannot rollback - no transaction is active")


def test_of_several_folders_the_one_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    monkeypatch.setattr(disk, "_has_room", lambda folder: folder != temporary)
    with pytest.raises(DiskFullError) as raised, full_disk_named(home, temporary):
        raise RuntimeError("No space left on device")
    assert str(temporary) in str(raised.value)
    assert str(home) not in str(raised.value)


def test_another_error_stays_what_it_is_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"), full_disk_named(tmp_path):
        raise ValueError("broken")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than `tmp_path`."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_a_file_moves_to_another_file_system_and_leaves_nothing_behind(tmp_path: Path, elsewhere: Path) -> None:
    source = elsewhere / "rows.parquet"
    source.write_bytes(b"rows")
    assert moved(source, tmp_path / "table.parquet") == tmp_path / "table.parquet"
    assert (tmp_path / "table.parquet").read_bytes() == b"rows"
    assert not source.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["table.parquet"]


def test_a_folder_moves_to_another_file_system_whole_also_after_a_move_that_was_killed(
    tmp_path: Path, elsewhere: Path
) -> None:
    source = elsewhere / "model"
    (source / "nested").mkdir(parents=True)
    (source / "nested" / "weights").write_bytes(b"1")
    killed = tmp_path / ".key.moving"
    killed.mkdir()
    (killed / "half").touch()
    moved(source, tmp_path / "key")
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")) == [
        *("key", "key/nested", "key/nested/weights")
    ]
    assert not source.exists()


def test_tables_may_lie_on_another_file_system_than_what_is_staged(home: Home, elsewhere: Path) -> None:
    home.root.mkdir(parents=True)
    (home.root / "tables").symlink_to(elsewhere, target_is_directory=True)
    lake = Lake(home)
    commit(lake, "initial_responses", responses("one", "two"), rejected=["three"])
    assert completions(lake) == ["one", "two"]
    assert not list(home.staging.iterdir())
