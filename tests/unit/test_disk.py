"""A full disk is one clear error, whatever the writer calls it; any other error stays what it is."""

import errno
from pathlib import Path

import pytest

from cai_dagster import disk
from cai_dagster.disk import DiskFullError, full_disk_named


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


def test_another_error_stays_what_it_is_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"), full_disk_named(tmp_path):
        raise ValueError("broken")
    assert not list(tmp_path.iterdir())
