"""Plan, status, export, trace and forget where hosts share catalog, ledger and data: the tests of one home's files.

The servers are real: PostgreSQL and an S3 server. The home that is looked at has made nothing itself.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from tests import run_again
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

# All that take a place where rows are: `home` is empty, `lake` has a version, `mine` has two. (A list of the forgotten
# that hosts share is read by SQLAlchemy, which a look at a home of its own does not import.)
LIGHT = {"test_a_look_imports_neither_dagster_nor_polars"}
globals().update(run_again.using({"home", "lake"}, test_cost_plan, test_status, test_datasets, but=LIGHT))
FILES = {
    "test_its_text_is_on_the_disk_until_the_snapshots_expire_and_then_nowhere",  # test_shared_lake looks for it
    "test_the_list_of_the_forgotten_is_of_hashes",
}
globals().update(run_again.using({"mine", "expired"}, test_forget, but=FILES))

test_a_pair_leads_back = test_trace.test_a_pair_leads_back_to_judgements_responses_requests_and_the_line_of_a_file
test_a_prompt_is_counted = test_trace.test_a_prompts_rows_are_counted_in_every_table_and_version
test_a_prompt_leads_forward = test_trace.test_a_prompt_leads_forward_to_the_checkpoints_that_were_trained_on_it
test_training_rows_are_of_the_snapshot = test_trace.test_training_rows_are_those_of_the_snapshot_and_not_those_of_today
test_a_request_leads_to_rows = test_trace.test_a_request_leads_to_the_rows_that_hold_its_answer
test_a_sampled_pair_leads_to_its_checkpoint = test_trace.test_a_sampled_pair_leads_back_to_the_checkpoint_that_wrote_it
test_every_call_is_found = test_trace.test_every_row_that_names_a_call_is_in_a_table_that_is_searched_for_its_stage
