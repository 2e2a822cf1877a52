"""What a task tells of its artifact when the artifact's store does not answer."""

import logging
from http.server import BaseHTTPRequestHandler

import fsspec
import pytest

from tests.servers import Site, send, serve


class Busy(Site):
    def reply(self, handler: BaseHTTPRequestHandler) -> None:
        send(handler, b"", 503)


def test_a_store_that_does_not_answer_fails_no_finished_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from captionflow.airflow.assets import announce

    with serve(Busy()) as store, caplog.at_level(logging.WARNING, "captionflow.airflow.assets"):
        for name, value in {
            "AWS_ENDPOINT_URL": store.url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_MAX_ATTEMPTS": "1", "AWS_DEFAULT_REGION": "us-east-1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        announce({}, "s3://bucket/model")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
    (record,) = (record for record in caplog.records if record.name == "captionflow.airflow.assets")
    assert record.message.startswith("s3://bucket/model: ")
    assert "Service Unavailable" in record.message
    assert record.message.endswith("; so the asset's event and OpenLineage lack this artifact")
