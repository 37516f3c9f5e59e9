"""Which errors of a catalog's database are worth another try."""

import duckdb
import pytest

from cai_dagster.lake.server_errors import is_away

OF_COMMIT = 'TransactionContext Error: Failed to commit: Failed to execute query "ROLLBACK": '


@pytest.mark.parametrize(
    ("text", "away"),
    [
        (f"{OF_COMMIT}no connection to the server", True),
        (OF_COMMIT, True),  # all that DuckLake says of a COMMIT whose server has gone
        (f"{OF_COMMIT}cannot rollback - no transaction is active", False),  # SQLite, on a full disk
        ("connection to server at 10.0.0.1 failed: FATAL: the database system is starting up", True),
        ('connection to server at 10.0.0.1 failed: FATAL: password authentication failed for user "cai"', False),
        ("Catalog Error: Table with name judgements does not exist", False),
    ],
)
def test_a_server_that_is_away_is_asked_again_and_one_that_refuses_is_not(text: str, away: bool) -> None:
    assert is_away(duckdb.TransactionException(text)) is away
