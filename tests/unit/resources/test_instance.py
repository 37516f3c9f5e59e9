"""A new Dagster instance: one run at a time in the pool, and a daemon that begins without a warning."""

import logging
import shutil
from pathlib import Path

import dagster as dg
import pytest
from dagster._daemon.auto_run_reexecution.event_log_consumer import DAGSTER_EVENT_TYPES, _fetch_persisted_cursors

from cai_dagster.project import EXAMPLE_INSTANCE
from resources.instance import prepare


def test_a_new_instance_has_one_place_for_the_accelerator_and_has_missed_no_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    shutil.copy(EXAMPLE_INSTANCE, tmp_path)
    with dg.DagsterInstance.get() as instance:
        prepare(instance)
        assert instance.event_log_storage.get_concurrency_info("gpu").slot_count == 1
        # By the name that Dagster gives the cursors.
        cursors = _fetch_persisted_cursors(instance, DAGSTER_EVENT_TYPES, logging.getLogger("daemon"))
    assert set(cursors.values()) == {0}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
