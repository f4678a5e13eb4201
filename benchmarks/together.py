"""Several producers and consumers at once, in processes; and how soon a waiting consumer is woken."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from benchmarks.places import open_spool, place
from benchmarks.report import Figure
from spoolq.spool.queue import SpoolQueue

BODY = b"x" * 200


def _produce(path: str, count: int, start: Barrier) -> None:
    with SpoolQueue.open(Path(path)) as queue:
        start.wait()
        for _ in range(count):
            queue.enqueue(BODY)


def _consume(path: str, start: Barrier, results: Any) -> None:
    count, last = 0, 0.0
    with SpoolQueue.open(Path(path)) as queue:
        start.wait()
        while message := queue.dequeue(wait_s=1.0):
            message.ack()
            count += 1
            last = time.monotonic()
    results.put((count, last))


def drained(base: Path, sides: int, count: int, durability: str) -> float:
    """Messages a second from the first enqueue to the last acknowledge, `sides` producers and as many consumers."""
    context = multiprocessing.get_context("spawn")
    with place(base) as path:
        open_spool(path, durability=durability, retention__done_s=0).close()
        start = context.Barrier(2 * sides + 1)
        results = context.Queue()
        each = count // sides
        workers = [context.Process(target=_produce, args=(str(path), each, start)) for _ in range(sides)]
        workers += [context.Process(target=_consume, args=(str(path), start, results)) for _ in range(sides)]
        for worker in workers:
            worker.start()
        start.wait()
        begun = time.monotonic()
        found: list[tuple[int, float]] = [results.get(timeout=300) for _ in range(sides)]
        for worker in workers:
            worker.join()
        assert sum(number for number, _ in found) == each * sides
        return each * sides / (max(last for _, last in found) - begun)


def _answer(path: str, times: int, results: Any) -> None:
    with SpoolQueue.open(Path(path)) as queue:
        results.put(0.0)
        for _ in range(times):
            message = queue.dequeue(wait_s=30)
            results.put(time.monotonic())
            assert message is not None
            message.ack()


def woken_ms(base: Path, times: int, *, drop: bool) -> list[float]:
    """From the enqueue, or the end of a drop, to the consumer in another process that has it."""
    context = multiprocessing.get_context("spawn")
    with place(base) as path, open_spool(path, durability="process") as queue:
        results = context.Queue()
        consumer = context.Process(target=_answer, args=(str(path), times, results))
        consumer.start()
        results.get(timeout=60)
        found = []
        for number in range(times):
            time.sleep(0.03)
            if drop:
                with open(f"{path}/new/drop-{number}", "wb") as file:
                    file.write(BODY)
                begun = time.monotonic()
            else:
                begun = time.monotonic()
                queue.enqueue(BODY)
            found.append((results.get(timeout=60) - begun) * 1000)
        consumer.join()
        return found


def started_ms(base: Path, times: int) -> list[float]:
    """From the end of a `cp` into `new/` to the start of the command that gets it, with `spoolq watch` running."""
    with place(base) as path, contextlib.ExitStack() as stack:
        open_spool(path).close()
        source, starts = path / "tmp" / ".source", path / "tmp" / ".starts"
        source.write_bytes(BODY)
        starts.touch()
        spoolq = (sys.executable, "-m", "spoolq")
        command = ("sh", "-c", f"date +%s.%N >> '{starts}'")
        for arguments in (("watch",), ("work", "--", *command)):
            process = subprocess.Popen([*spoolq, *arguments[:1], "--spool", str(path), *arguments[1:]], stderr=-3)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        found: list[float] = []
        for number in range(times + 1):
            subprocess.run(["cp", str(source), f"{path}/new/drop-{number}"], check=True)
            ended = time.time()
            while len(lines := starts.read_text().split()) <= number:
                time.sleep(0.001)
            found.append((float(lines[-1]) - ended) * 1000)
        return found[1:]  # the first one waits for the programs to start


def idle_cpu_percent(base: Path, seconds: float) -> float:
    """What a waiting consumer costs while nothing happens."""
    with place(base) as path, open_spool(path) as queue:
        queue.dequeue(wait_s=0.5)
        before = sum(os.times()[:2])
        queue.dequeue(wait_s=seconds)
        return (sum(os.times()[:2]) - before) / seconds * 100


def run(base: Path, rounds: int, scale: float) -> list[Figure]:
    """All figures."""
    figures = []
    for durability, count in (("process", 8000), ("power", 4000)):
        for sides in (1, 2, 4):
            values = [drained(base, sides, int(count * scale), durability) for _ in range(rounds)]
            figures.append(Figure(f"{sides} + {sides}, {durability}", "messages a second", values))
    for drop in (False, True):
        what = "drop" if drop else "enqueue"
        runs = [woken_ms(base, int(100 * scale) or 10, drop=drop) for _ in range(rounds)]
        figures.append(Figure(f"wake-up by {what}, median", "ms", [statistics.median(run) for run in runs]))
        figures.append(Figure(f"wake-up by {what}, 99th percentile", "ms", [sorted(run)[-2] for run in runs]))
    runs = [started_ms(base, int(100 * scale) or 10) for _ in range(rounds)]
    medians = [statistics.median(run) for run in runs]
    figures.append(Figure("cp to the start of the command, median", "ms", medians, "50"))
    figures.append(Figure("idle consumer", "% of a core", [idle_cpu_percent(base, 5 * scale) for _ in range(rounds)]))
    return figures
