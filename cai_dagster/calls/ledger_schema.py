"""The tables of the ledger's database."""

import sqlalchemy as sa

SCHEMA_VERSION = 4

metadata = sa.MetaData()
calls = sa.Table(
    "calls",
    metadata,
    sa.Column("request_id", sa.String(64), primary_key=True),
    sa.Column("model_id", sa.Text, nullable=False),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("prompt_id", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("escaped", sa.Boolean, nullable=False),
    sa.Column("finish_reason", sa.Text, nullable=False),
    sa.Column("logprobs", sa.Text),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("checksum", sa.BigInteger, nullable=False),  # of the columns of `answer_checksum`
    sa.Column("created_at", sa.DateTime, nullable=False, server_default=sa.func.current_timestamp()),
)
retries = sa.Table(
    "retries",
    metadata,
    sa.Column("request_id", sa.String(64), primary_key=True),
    sa.Column("max_tokens", sa.Integer),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False, server_default=sa.func.current_timestamp()),
)
claims = sa.Table(
    "claims",
    metadata,
    sa.Column("request_id", sa.String(64), primary_key=True),
    sa.Column("claimant", sa.String(32), nullable=False),
)
claimants = sa.Table(
    "claimants",
    metadata,
    sa.Column("claimant", sa.String(32), primary_key=True),
    sa.Column("beats", sa.BigInteger, nullable=False),
)
schema_version = sa.Table("ledger_schema", metadata, sa.Column("version", sa.Integer, primary_key=True))


def refusal_of(version: int | None) -> str | None:
    """Why a ledger of this schema version cannot be used, and what to do; None where it can."""
    if version in {None, SCHEMA_VERSION}:
        return None
    return (
        f"the ledger has schema version {version}, this program writes {SCHEMA_VERSION}; "
        "use the version of cai_dagster that wrote it, or set CAI_HOME to a new folder"
    )
