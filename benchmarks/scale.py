"""A million messages: what a look, a claim and a rebuild cost, beside a thousand."""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.places import open_spool, place
from benchmarks.report import Figure
from spoolq.models import NewMessage
from spoolq.spool.queue import SpoolQueue

CLAIMS = 400
BODY = b"x" * 20


def _fill(queue: SpoolQueue, count: int, make: Callable[[int], NewMessage | bytes]) -> float:
    begun = time.perf_counter()
    queue.enqueue_many(make(number) for number in range(count))
    return time.perf_counter() - begun


def _claim_us(queue: SpoolQueue) -> float:
    """The median of claims one at a time; each is acknowledged outside the clock.

    All files are on the disk first: one that was made just now is claimed faster, which is not the question here.
    """
    os.sync()
    times = []
    for _ in range(CLAIMS):
        begun = time.perf_counter()
        message = queue.dequeue()
        times.append(time.perf_counter() - begun)
        assert message is not None
        message.ack()
    return statistics.median(times) * 1e6


def _median_ms(act: Callable[[], object], times: int = 15) -> float:
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        act()
        found.append(time.perf_counter() - begun)
    return statistics.median(found) * 1e3


def _command_ms(*arguments: str) -> float:
    return _median_ms(
        lambda: subprocess.run([sys.executable, "-m", "spoolq", *arguments], check=True, capture_output=True), 5
    )


def _resident_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _small(base: Path, grouped: bool) -> float:
    with place(base) as path, open_spool(path, durability="process", retention__done_s=0) as queue:
        _fill(queue, 1000, lambda _: NewMessage(body=BODY, group="g" if grouped else None))
        return _claim_us(queue)


def _ready(base: Path, count: int) -> Iterator[Figure]:
    with place(base) as path:
        with open_spool(path, durability="process", retention__done_s=0) as queue:
            yield Figure("filling, in batches", "messages a second", [count / _fill(queue, count, lambda _: BODY)])
            yield Figure("stats, as a call", "ms", [_median_ms(queue.stats)], "20")
            yield Figure("first page of ls, as a call", "ms", [_median_ms(lambda: queue.list("ready"))], "20")
            small = _small(base, grouped=False)
            large = _claim_us(queue)
            yield Figure("claim among 1,000", "us", [small])
            yield Figure("claim among all", "us", [large])
            yield Figure("claim among all / among 1,000", "ratio", [large / small], "1.2")
            yield from _memory(queue)
        yield Figure("stats, as a command", "ms", [_command_ms("stats", "--spool", str(path))], "300")
        yield Figure("first page of ls, as a command", "ms", [_command_ms("ls", "--spool", str(path))], "300")
        with SpoolQueue.open(path) as queue:
            begun = time.perf_counter()
            queue.rebuild()
            yield Figure("rebuild", "s", [time.perf_counter() - begun], "15")


def _memory(queue: SpoolQueue) -> Iterator[Figure]:
    gc.collect()
    before = _resident_mb()
    for _ in range(20):
        queue.acknowledge_many(message.receipt for message in queue.dequeue_many(500))
    gc.collect()
    yield Figure("resident memory after 10,000 more claims / before", "ratio", [_resident_mb() / before], "1.05")


def _scheduled_before(base: Path, count: int) -> Iterator[Figure]:
    with place(base) as path, open_spool(path, durability="process", retention__done_s=0) as queue:
        _fill(queue, count, lambda _: NewMessage(body=BODY, delay_s=3600, priority=9))
        _fill(queue, 1000, lambda _: BODY)
        large = _claim_us(queue)
        small = _small(base, grouped=False)
        yield Figure("claim behind as many scheduled / among 1,000", "ratio", [large / small], "1.2")


def _one_group(base: Path, count: int) -> Iterator[Figure]:
    with place(base) as path, open_spool(path, durability="process", retention__done_s=0) as queue:
        _fill(queue, count, lambda _: NewMessage(body=BODY, group="g"))
        large = _claim_us(queue)
        small = _small(base, grouped=True)
        yield Figure("claim in a group of all / in a group of 1,000", "ratio", [large / small], "1.2")


def run(base: Path, count: int) -> list[Figure]:
    """All figures, for `count` messages."""
    figures: list[Figure] = []
    for part in (_ready, _scheduled_before, _one_group):
        for figure in part(base, count):
            sys.stderr.write(f"  {figure.name}: {figure.median:.4g} {figure.unit}\n")
            figures.append(figure)
    return figures
