"""A real S3 server for a test session (moto's, on this machine), and the environment that leads to it."""

import uuid
from typing import Any

import pytest


class ObjectStorage:
    """One server with buckets in memory."""

    def __init__(self) -> None:
        self._port = 0
        self.go_on()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": "cai",
            "AWS_SECRET_ACCESS_KEY": "cai",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def new_bucket(self) -> str:
        """The name of an empty bucket."""
        name = f"cai-{uuid.uuid4().hex}"
        self._client().create_bucket(Bucket=name)
        return name

    def copied(self, bucket: str) -> str:
        """The name of a new bucket with the same in it."""
        new, client = self.new_bucket(), self._client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for found in page.get("Contents", []):
                client.copy_object(Bucket=new, Key=found["Key"], CopySource={"Bucket": bucket, "Key": found["Key"]})
        return new

    def _client(self) -> Any:
        import botocore.session

        return botocore.session.get_session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="cai",
            aws_secret_access_key="cai",
        )

    def go_on(self) -> None:
        """Answer, with what it held before."""
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", self._port, verbose=False)
        self._server.start()
        _, self._port = self._server.get_host_and_port()

    def pause(self) -> None:
        """Refuse every connection until `go_on`."""
        self._server.stop()


def share(monkeypatch: pytest.MonkeyPatch, database: str, bucket: str, storage: ObjectStorage) -> None:
    """Have catalog, ledger, data and checkpoints of whatever home comes next be where hosts share them."""
    for name, value in storage.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CAI_CATALOG", database)
    monkeypatch.setenv("CAI_LEDGER", database)
    monkeypatch.setenv("CAI_DATA", f"s3://{bucket}/tables")
    monkeypatch.setenv("CAI_CHECKPOINTS", f"s3://{bucket}/checkpoints")
