"""Figures for Prometheus, right with any number of workers.

What a queue has comes from `stats()` and `health()` when it is asked for: it is the spool's, and the same from every
worker. What a process counts (requests, waiters) is its own, and joined by prometheus_client's multiprocess mode where
PROMETHEUS_MULTIPROC_DIR is set, as `spoolq serve --workers` does.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from spoolq.models import STATES, Health, Stats
from spoolq.relay.figures import backlog, lag_s
from spoolq.relay.reports import Report

_TOTALS = {
    "enqueued": "Messages enqueued",
    "acknowledged": "Messages acknowledged",
    "failed": "Deliveries that failed",
    "dead": "Messages that gave up",
}
_HEALTH = {
    "disk_bytes": "Size of the file system",
    "disk_free_bytes": "Free bytes of the file system",
    "disk_free_inodes": "Free inodes of the file system",
    "reserve_bytes": "Bytes that an enqueue leaves free",
    "reserve_inodes": "Inodes that an enqueue leaves free",
    "index_bytes": "Size of the index",
}
_LIVE = re.compile(r"gauge_live\w*_(\d+)\.db")
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)


class Counters:
    """What this process counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "spoolq_http_requests", "Requests by method and status", ("method", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "spoolq_http_request_seconds", "Time to answer", buckets=_BUCKETS, registry=self.registry
        )
        self.waiters = Gauge(
            "spoolq_http_waiters",
            "Long polls under way",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._children: dict[tuple[str, int], Counter] = {}

    def count(self, method: str, status: int, seconds: float) -> None:
        """One request has ended."""
        key = (method, status)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self.requests.labels(method, str(status))
        child.inc()
        self.seconds.observe(seconds)

    def text(self, queues: Sequence[tuple[Stats, Health | None]], relays: Sequence[Report] = ()) -> bytes:
        """All figures, as Prometheus reads them."""
        registry = self.registry
        directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if directory is not None:
            _forget_dead(directory)
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        own = CollectorRegistry()
        own.register(_Queues(queues))
        own.register(_Relays([stats for stats, _ in queues], relays))
        return generate_latest(own) + generate_latest(registry)


def _forget_dead(directory: str) -> None:
    """What a worker that was killed had under way has ended; what it counted stays."""
    for name in os.listdir(directory):
        found = _LIVE.fullmatch(name)
        if found is not None and not os.path.exists(f"/proc/{found[1]}"):
            mark_process_dead(found[1])  # type: ignore[no-untyped-call]


class _Queues(Collector):
    """The figures of queues that were looked at just now."""

    def __init__(self, queues: Sequence[tuple[Stats, Health | None]]) -> None:
        self._queues = queues

    def collect(self) -> Iterator[Metric]:
        """Each figure of each queue."""
        yield from self._states()
        yield from self._totals()
        yield from self._times()
        yield from self._health()

    def _states(self) -> Iterator[Metric]:
        count = GaugeMetricFamily("spoolq_messages", "Messages by state", labels=("queue", "state"))
        size = GaugeMetricFamily("spoolq_bytes", "Bytes of bodies by state", labels=("queue", "state"))
        age = GaugeMetricFamily("spoolq_oldest_ready_age_seconds", "Age of the oldest ready message", labels=("queue",))
        paused = GaugeMetricFamily("spoolq_paused", "1 while the queue is paused", labels=("queue",))
        for stats, _ in self._queues:
            for state in STATES:
                count.add_metric((stats.queue, state), getattr(stats, state))
                size.add_metric((stats.queue, state), getattr(stats, f"{state}_bytes"))
            oldest = stats.oldest_ready_at_ms
            age.add_metric((stats.queue,), 0 if oldest is None else max(0.0, time.time() - oldest / 1000))
            paused.add_metric((stats.queue,), int(stats.paused))
        yield from (count, size, age, paused)

    def _totals(self) -> Iterator[Metric]:
        for name, said in _TOTALS.items():
            family = CounterMetricFamily(f"spoolq_{name}", f"{said}, since the index was made", labels=("queue",))
            for stats, _ in self._queues:
                family.add_metric((stats.queue,), getattr(stats, f"{name}_total"))
            yield family

    def _times(self) -> Iterator[Metric]:
        for name, said in (("wait", "Time from ready to claimed"), ("process", "Time from claimed to acknowledged")):
            family = HistogramMetricFamily(f"spoolq_{name}_seconds", said, labels=("queue",))
            for stats, _ in self._queues:
                pairs = getattr(stats, f"{name}_histogram")
                buckets = [("+Inf" if bound is None else str(float(bound)), count) for bound, count in pairs]
                if not buckets or buckets[-1][0] != "+Inf":
                    buckets.append(("+Inf", buckets[-1][1] if buckets else 0))
                family.add_metric((stats.queue,), buckets, getattr(stats, f"{name}_sum_s"))
            yield family

    def _health(self) -> Iterator[Metric]:
        for name, said in _HEALTH.items():
            family = GaugeMetricFamily(f"spoolq_{name}", said, labels=("queue",))
            for stats, health in self._queues:
                if health is not None:
                    family.add_metric((stats.queue,), getattr(health, name))
            yield family
        scan = GaugeMetricFamily("spoolq_scan_seconds", "How long the last scan took", labels=("queue",))
        room = GaugeMetricFamily("spoolq_has_room", "1 while an enqueue would not meet the reserve", labels=("queue",))
        for stats, health in self._queues:
            if health is not None:
                scan.add_metric((stats.queue,), health.last_scan_ms / 1000)
                room.add_metric((stats.queue,), int(health.has_room))
        yield from (scan, room)


class _Relays(Collector):
    """The figures of relays that take from these queues; several between the same two are added up."""

    def __init__(self, queues: Sequence[Stats], relays: Sequence[Report]) -> None:
        self._stats = {stats.queue: stats for stats in queues}
        self._pairs: dict[tuple[str, str], list[Report]] = {}
        for report in relays:
            if report.queue in self._stats:
                self._pairs.setdefault((report.queue, report.target), []).append(report)

    def collect(self) -> Iterator[Metric]:
        """Each figure of each two queues; what waits is the queue's own, also while no relay runs."""
        labels = ("queue", "target")
        now_ms = time.time_ns() // 1_000_000
        running = GaugeMetricFamily("spoolq_relay_running", "Relays at work", labels=labels)
        away = GaugeMetricFamily("spoolq_relay_target_away", "1 while the target does not take messages", labels=labels)
        waiting = GaugeMetricFamily("spoolq_relay_backlog", "Messages that have not arrived", labels=labels)
        lag = GaugeMetricFamily("spoolq_relay_lag_seconds", "How long the oldest ready one waits", labels=labels)
        for pair, reports in self._pairs.items():
            at_work = [report for report in reports if report.runs]
            running.add_metric(pair, len(at_work))
            away.add_metric(pair, int(any(report.is_away for report in at_work)))
            waiting.add_metric(pair, backlog(self._stats[pair[0]]))
            since_ms = min((each for report in reports if (each := report.known_since_ms) is not None), default=None)
            lag.add_metric(pair, lag_s(self._stats[pair[0]], now_ms, since_ms))
        yield from (running, away, waiting, lag)
        for name, said in (
            ("sent", "Messages that the target has taken"),
            ("refused", "Messages that the target refused, dead letters since"),
            ("outages", "Outages of the target"),
        ):
            family = CounterMetricFamily(f"spoolq_relay_{name}", f"{said}, since the relay was started", labels=labels)
            for pair, reports in self._pairs.items():
                family.add_metric(pair, sum(getattr(report, name) for report in reports))
            yield family
