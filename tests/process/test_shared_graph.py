"""Plan, status, export, trace and forget where hosts share catalog, ledger and data: the tests of one home's files.

The servers are real: PostgreSQL and an S3 server. The home that is looked at has made nothing itself.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from tests.explained_home import make
from tests.graph import test_cost_plan, test_forget, test_status, test_trace
from tests.object_storage import ObjectStorage, share
from tests.postgresql import PostgreSqlServer
from tests.unit.exports import test_datasets


@pytest.fixture(scope="module")
def place(server: PostgreSqlServer, storage: ObjectStorage) -> tuple[str, str]:
    """The database and the bucket of `explained`."""
    return server.new_database(), storage.new_bucket()


@pytest.fixture(scope="module")
def explained(
    place: tuple[str, str], storage: ObjectStorage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Home]:
    """Another home than the one that made what is in the store."""
    with pytest.MonkeyPatch.context() as patch:
        share(patch, *place, storage)
        make(tmp_path_factory.mktemp("explained"))
        home = Home(tmp_path_factory.mktemp("another").resolve())
        patch.setenv("CAI_HOME", str(home.root))
        yield home


@pytest.fixture
def home(host: Home) -> Home:
    """In place of the home of the tests that are run again."""
    return host


@pytest.fixture
def mine(
    explained: Home,
    place: tuple[str, str],
    server: PostgreSqlServer,
    storage: ObjectStorage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    """A copy of database and bucket to remove things from."""
    database, bucket = place
    monkeypatch.setenv("CAI_HOME", str(tmp_path / "mine"))
    share(monkeypatch, server.restored(database), storage.copied(bucket), storage)
    return Home((tmp_path / "mine").resolve())


@pytest.fixture(scope="module")
def lake(server: PostgreSqlServer, storage: ObjectStorage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """In place of the lake of the tests of exports."""
    with pytest.MonkeyPatch.context() as patch:
        share(patch, server.new_database(), storage.new_bucket(), storage)
        yield test_datasets.filled(Lake(Home(tmp_path_factory.mktemp("lake"))))


config = test_cost_plan.config
expired = test_forget.expired

test_a_plan_counts_what_the_run_pays = (
    test_cost_plan.test_new_calls_of_a_changed_version_are_the_ledger_misses_of_its_run
)
test_a_plan_counts_calls_to_be_made_again = test_cost_plan.test_a_call_to_be_made_again_is_planned_as_new

test_a_status_tells_an_edited_file = test_status.test_a_real_lake_tells_an_edited_file_from_a_touched_one
test_a_status_sees_deleted_rows = test_status.test_rows_that_somebody_deleted_make_the_table_and_what_follows_stale
test_a_status_is_json = test_status.test_the_command_prints_json_and_refuses_a_version_that_is_nowhere

test_an_export_is_lossless = test_datasets.test_an_export_is_read_back_losslessly
test_an_export_of_an_older_snapshot = test_datasets.test_an_older_snapshot_is_exported_as_it_was

test_a_pair_leads_back = test_trace.test_a_pair_leads_back_to_judgements_responses_requests_and_the_line_of_a_file
test_a_prompt_is_counted = test_trace.test_a_prompts_rows_are_counted_in_every_table_and_version
test_a_prompt_leads_forward = test_trace.test_a_prompt_leads_forward_to_the_checkpoints_that_were_trained_on_it
test_training_rows_are_of_the_snapshot = test_trace.test_training_rows_are_those_of_the_snapshot_and_not_those_of_today
test_a_request_leads_to_rows = test_trace.test_a_request_leads_to_the_rows_that_hold_its_answer
test_a_sampled_pair_leads_to_its_checkpoint = test_trace.test_a_sampled_pair_leads_back_to_the_checkpoint_that_wrote_it
test_every_call_is_found = test_trace.test_every_row_that_names_a_call_is_in_a_table_that_is_searched_for_its_stage

test_nothing_of_a_forgotten_prompt_is_left = (
    test_forget.test_nothing_of_it_is_left_in_any_table_version_or_in_the_ledger
)
test_forgetting_leaves_other_prompts = test_forget.test_the_rows_of_other_prompts_stay_as_they_were
test_forgetting_names_checkpoints = test_forget.test_checkpoints_that_saw_it_are_named_before
test_a_run_that_began_before_forgets_too = test_forget.test_a_run_that_began_before_does_not_bring_it_back
test_a_forgotten_prompt_that_is_there_again = test_forget.test_doctor_finds_a_forgotten_prompt_that_is_there_again
test_snapshots_that_hold_it = test_forget.test_the_snapshots_that_hold_it_are_those_in_which_it_can_be_read
test_versions_keep_their_rows = (
    test_forget.test_every_version_keeps_its_rows_when_another_is_committed_after_the_snapshots_expired
)
test_checkpoints_are_stale = test_forget.test_checkpoints_that_saw_it_are_stale_until_they_are_made_again
