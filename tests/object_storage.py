"""A real S3 server for a test session (moto's, on this machine), and the environment that leads to it."""

import logging
import threading
import uuid
from typing import Any, Literal

import pytest

Trouble = Literal["503", "silent"]


class ObjectStorage:
    """One server with buckets in memory."""

    def __init__(self) -> None:
        self._port = 0
        self._over = threading.Event()
        self.trouble: Trouble | None = None
        self.requests_in_trouble = 0
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
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it tells of every request
        application = DomainDispatcherApplication(create_backend_app)

        def answer(environ: Any, start_response: Any) -> Any:
            self.requests_in_trouble += self.trouble is not None
            if self.trouble == "silent":
                self._over.wait()
            if self.trouble == "503":
                start_response("503 Slow Down", [("Content-Type", "application/xml")])
                return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
            return application(environ, start_response)

        self._server = make_server("127.0.0.1", self._port, answer, threaded=True, request_handler=MotoRequestHandler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def pause(self) -> None:
        """Refuse every connection until `go_on`."""
        self._server.shutdown()
        self._server.server_close()

    def begin_trouble(self, kind: Trouble) -> None:
        """Answer every request with 503, or with nothing, until `end_trouble`."""
        self.requests_in_trouble = 0
        self._over.clear()
        self.trouble = kind

    def end_trouble(self) -> None:
        """Answer again."""
        self.trouble = None
        self._over.set()


def share(monkeypatch: pytest.MonkeyPatch, database: str, bucket: str, storage: ObjectStorage) -> None:
    """Have catalog, ledger, data and checkpoints of whatever home comes next be where hosts share them."""
    for name, value in storage.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CAI_CATALOG", database)
    monkeypatch.setenv("CAI_LEDGER", database)
    monkeypatch.setenv("CAI_DATA", f"s3://{bucket}/tables")
    monkeypatch.setenv("CAI_CHECKPOINTS", f"s3://{bucket}/checkpoints")
