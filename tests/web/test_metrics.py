"""The figures that Prometheus reads, and the dashboard that shows them."""

from __future__ import annotations

import json
import re
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from spoolq.models import STATES
from tests.web.conftest import ROOT, Api

DASHBOARD = ROOT / "docs" / "grafana.json"


def _families(api: Api) -> dict[str, Any]:
    text = api.http.get("/metrics").text
    return {family.name: family for family in text_string_to_metric_families(text)}


def _values(family: Any, **labels: str) -> list[float]:
    return [each.value for each in family.samples if labels.items() <= each.labels.items()]


def test_the_figures_are_those_of_the_queues(api: Api):
    api.http.post("/queues", json={"name": "emails"})
    for number in range(3):
        api.enqueue(b"x" * number, queue="emails")
    got = api.dequeue(queue="emails")
    api.http.post(f"/queues/emails/claims/{got['receipt']}/acknowledge")
    found = _families(api)
    for state in STATES:
        stats = api.stats("emails")
        assert _values(found["spoolq_messages"], queue="emails", state=state) == [stats[state]]
        assert _values(found["spoolq_bytes"], queue="emails", state=state) == [stats[f"{state}_bytes"]]
        assert _values(found["spoolq_messages"], queue="default", state=state) == [0]
    assert _values(found["spoolq_enqueued"], queue="emails") == [3]
    assert _values(found["spoolq_acknowledged"], queue="emails") == [1]
    waits = [each for each in found["spoolq_wait_seconds"].samples if each.labels["queue"] == "emails"]
    assert [each.value for each in waits if each.labels.get("le") == "+Inf"] == [1]
    assert [each.value for each in waits if each.name.endswith("_count")] == [1]
    assert 0 < _values(found["spoolq_oldest_ready_age_seconds"], queue="emails")[0] < 60
    assert _values(found["spoolq_has_room"], queue="default") == [1]


def test_the_dashboard_shows_figures_that_are_there(api: Api):
    api.enqueue()
    known = {sample.name for family in _families(api).values() for sample in family.samples}
    dashboard = json.loads(DASHBOARD.read_text())
    shown = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            shown |= set(re.findall(r"\bspoolq_\w+", target["expr"]))
    assert shown <= known
    left_out = {"spoolq_disk_bytes", "spoolq_http_requests_created", "spoolq_http_request_seconds_created"}
    kinds = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in known - left_out}
    assert kinds <= {re.sub(r"_bucket$", "", name) for name in shown}
