"""schemathesis: whatever the OpenAPI document allows, and what it does not, is answered as the document says."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from spoolq.web.app import create_app
from spoolq.web.service import Limits
from tests.conftest import check_spool
from tests.http_server import AppServer

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


def _document() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        gate: Any = create_app(place)
        document: dict[str, Any] = gate._app._app.openapi()
        return document


@schemathesis.serializer("application/x-ndjson")
def lines(ctx: Any, value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


schema = schemathesis.openapi.from_dict(_document())


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server whose long polls are short, with messages in every state."""
    with tempfile.TemporaryDirectory() as place:
        spool = Path(place) / "spool"
        served = AppServer()
        with served.serving(lambda: create_app(spool, limits=Limits(max_wait_s=0.01))):
            _fill(served.url)
            yield served.url
        served.close()
        check_spool(spool)


def _fill(url: str) -> None:
    with httpx.Client(base_url=url) as client:
        for number in range(8):
            client.post("/enqueue", params={"name": f"file{number}", "delay_s": number % 2 * 600}, content=b"x")
        taken = client.post("/queues/default/claims", json={"count": 3}).json()["messages"]
        base = "/queues/default/claims"
        client.post(f"{base}/{taken[0]['receipt']}/acknowledge")
        client.post(f"{base}/{taken[1]['receipt']}/dead-letter", json={"reason": "bad"})


@schema.parametrize()
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_documented(case: Any, server: str):
    response = case.call(base_url=server)
    case.validate_response(response, checks=CHECKS)
