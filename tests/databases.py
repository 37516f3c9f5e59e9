"""The databases of a home, behind the program's back."""

import sqlalchemy as sa

from cai_dagster.home import Home
from cai_dagster.lake.postgresql import connections


def execute(home: Home, database: str, *statements: str) -> None:
    """Change the database of the catalog or of the ledger behind the program's back, wherever it is."""
    shared = getattr(home, f"shared_{database}")
    engine = connections(shared) if shared else sa.create_engine(f"sqlite:///{getattr(home, database)}")
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
