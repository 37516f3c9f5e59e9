"""What hosts share needs packages that one home's files do not: where they are missing, the message installs them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.lake.connection import started_duckdb
from cai_dagster.lake.postgresql import connections

NEEDED: dict[str, tuple[str, Callable[[Home], object]]] = {
    "duckdb_extension_postgres_scanner": ("postgres", started_duckdb),
    "duckdb_extension_httpfs": ("s3", started_duckdb),
    "duckdb_extension_aws": ("s3", started_duckdb),
    "s3fs": ("s3", lambda home: home.tables),
    "psycopg2": ("postgres", lambda home: connections(str(home.shared_ledger))),
}


@pytest.mark.parametrize("package", NEEDED)
def test_a_package_that_is_missing_is_said_with_how_to_install_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, place in {
        "CATALOG": "postgresql://missing/cai",
        "LEDGER": "postgresql://missing/cai",
        "DATA": "s3://ours/cai",
    }.items():
        monkeypatch.setenv(f"CAI_{name}", place)
    monkeypatch.setitem(sys.modules, package, None)
    requirements, use = NEEDED[package]
    with pytest.raises(MendableError, match=rf"pip install --no-deps -r requirements/{requirements}\.txt"):
        use(Home(tmp_path / "home"))
