"""What one message costs at 200 bytes in one process, beside the floor, in interleaved rounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.floor import Floor
from benchmarks.places import open_spool, place
from benchmarks.report import Figure

BODY = b"x" * 200


def rate(count: int, act: Callable[[], object]) -> float:
    """How often a second."""
    begun = time.perf_counter()
    for _ in range(count):
        act()
    return count / (time.perf_counter() - begun)


def _floor_cycle(base: Path, count: int) -> float:
    with place(base) as path:
        floor = Floor(path, sync=False)

        def once() -> None:
            floor.put(BODY)
            floor.acknowledge(floor.claim())

        found = rate(count, once)
        floor.close()
    return found


def _cycle(base: Path, count: int, done_s: int) -> float:
    with place(base) as path, open_spool(path, durability="process", retention__done_s=done_s) as queue:

        def once() -> None:
            queue.enqueue(BODY)
            message = queue.dequeue()
            assert message is not None
            assert message.body == BODY
            message.ack()

        once()
        return rate(count, once)


def _bare_put(base: Path, count: int) -> float:
    with place(base) as path:
        floor = Floor(path, sync=True)
        found = rate(count, lambda: floor.write(BODY))
        floor.close()
    return found


def _put(base: Path, count: int, durability: str) -> float:
    with place(base) as path, open_spool(path, durability=durability) as queue:
        queue.enqueue(BODY)
        return rate(count, lambda: queue.enqueue(BODY))


def _claim_and_acknowledge(base: Path, count: int, batch: int) -> float:
    with place(base) as path, open_spool(path, durability="process", retention__done_s=0) as queue:
        queue.enqueue_many([BODY] * count)

        def one() -> None:
            message = queue.dequeue()
            assert message is not None
            message.ack()

        def many() -> None:
            queue.acknowledge_many(message.receipt for message in queue.dequeue_many(batch))

        return rate(count // batch, one if batch == 1 else many) * batch


def _put_batch(base: Path, count: int, durability: str) -> float:
    with place(base) as path, open_spool(path, durability=durability) as queue:
        queue.enqueue(BODY)
        return rate(count // 100, lambda: queue.enqueue_many([BODY] * 100)) * 100


def run(base: Path, rounds: int, scale: float) -> list[Figure]:
    """All figures; `scale` shortens them for a smoke run."""
    many, synced = int(6000 * scale), int(2000 * scale)
    cycle = Figure("cycle / floor, process, deleted at acknowledge", "ratio", target="0.45")
    kept = Figure("cycle / floor, process, kept in done/", "ratio")
    put = Figure("enqueue / bare create, fsync, rename, fsync; power", "ratio", target="0.75")
    batch_put = Figure("enqueue in batches of 100 / single, process", "ratio")
    batch_power = Figure("enqueue in batches of 100 / single, power", "ratio", target="3")
    batch_claim = Figure("claim and acknowledge in batches of 100 / single, process", "ratio")
    rates = {
        name: Figure(name, "a second")
        for name in (
            "floor cycle", "cycle, process", "bare synced put", "enqueue, power", "enqueue, process",
            "enqueue 100s, process", "enqueue 100s, power", "claim and acknowledge", "claim and acknowledge 100s",
        )
    }  # fmt: skip

    def note(name: str, value: float) -> float:
        rates[name].values.append(value)
        return value

    for _ in range(rounds):
        floor = note("floor cycle", _floor_cycle(base, many))
        cycle.values.append(note("cycle, process", _cycle(base, many, 0)) / floor)
        kept.values.append(_cycle(base, many, 86400) / floor)
        bare = note("bare synced put", _bare_put(base, synced))
        single_power = note("enqueue, power", _put(base, synced, "power"))
        put.values.append(single_power / bare)
        single = note("enqueue, process", _put(base, many, "process"))
        batch_put.values.append(note("enqueue 100s, process", _put_batch(base, many, "process")) / single)
        batch_power.values.append(note("enqueue 100s, power", _put_batch(base, synced, "power")) / single_power)
        one = note("claim and acknowledge", _claim_and_acknowledge(base, many, 1))
        batch_claim.values.append(note("claim and acknowledge 100s", _claim_and_acknowledge(base, many, 100)) / one)
    return [cycle, kept, put, batch_put, batch_power, batch_claim, *rates.values()]
