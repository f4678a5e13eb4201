"""What the pages show, computed: rates, percentiles, points of a chart, age by queue, when a disk is full. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from spoolq.console import words
from spoolq.models import Minute, Stats

Histogram = Sequence[tuple[float | None, int]]

AGE_BOUNDS_S = (60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 86_400.0, 7 * 86_400.0)
SPANS_S = {"hour": 3600, "day": 86_400, "week": 7 * 86_400}
STEPS_S = {"hour": 60, "day": 900, "week": 7200}
"""How wide a point of each chart is: 60 to 96 of them."""

RECENT_S = 60.0
_SHORTEST_S = 1.0


@dataclass(frozen=True, slots=True)
class Look:
    """A queue's numbers, and when they were had."""

    at_ms: int
    stats: Stats


@dataclass(frozen=True, slots=True)
class Pace:
    """Messages a second, and seconds waited. None: not known.

    recent: waiting times are of the last minute, else since the index was made.
    """

    in_rate: float | None
    out_rate: float | None
    wait_p50_s: float | None
    wait_p95_s: float | None
    recent: bool


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a chart: sums of a step, and what was there at its end (None before anything is known)."""

    at_ms: int
    enqueued: int
    acknowledged: int
    failed: int
    ready: int | None
    scheduled: int | None
    claimed: int | None
    wait_s: float | None


# Looks ------------------------------------------------------------------------------


def kept(looks: Sequence[Look], new: Look) -> list[Look]:
    """The looks that tell of the last minute, with the new one. An index that was made anew begins anew."""
    if looks and new.stats.enqueued_total < looks[-1].stats.enqueued_total:
        return [new]
    since = new.at_ms - RECENT_S * 1000
    found = [*looks, new]
    first = next(at for at, each in enumerate(found) if each.at_ms >= since)
    return found[max(0, first - 1) :]


def pace(looks: Sequence[Look]) -> Pace:
    """From the difference of the first look and the last."""
    last = looks[-1].stats
    elapsed_s = (looks[-1].at_ms - looks[0].at_ms) / 1000
    recent = difference(last.wait_histogram, looks[0].stats.wait_histogram)
    known = bool(recent) and recent[-1][1] > 0
    waits = recent if known else last.wait_histogram
    percentiles = percentile(waits, 0.5), percentile(waits, 0.95)
    if elapsed_s < _SHORTEST_S:
        return Pace(None, None, *percentiles, False)
    first = looks[0].stats
    return Pace(
        (last.enqueued_total - first.enqueued_total) / elapsed_s,
        (last.acknowledged_total - first.acknowledged_total) / elapsed_s,
        *percentiles,
        known,
    )


def pace_of(minutes: Sequence[Minute], now_ms: int) -> tuple[float, float]:
    """In and out a second over the last five whole minutes."""
    end = now_ms // 60_000 * 60_000
    among = [each for each in minutes if end - 300_000 <= each.minute_at_ms < end]
    return sum(each.enqueued for each in among) / 300, sum(each.acknowledged for each in among) / 300


def difference(now: Histogram, then: Histogram) -> Histogram:
    """What came between two histograms; the whole where their bounds differ."""
    if [bound for bound, _ in now] != [bound for bound, _ in then]:
        return now
    return [(bound, count - before) for (bound, count), (_, before) in zip(now, then, strict=True)]


def percentile(histogram: Histogram, share: float) -> float | None:
    """Below what value this share is, evenly within a bucket; in the one without an end, its beginning. None: empty."""
    if not histogram or histogram[-1][1] <= 0:
        return None
    wanted = share * histogram[-1][1]
    low, below = 0.0, 0
    for bound, count in histogram:
        if count >= wanted and count > below:
            return low if bound is None else low + (bound - low) * (wanted - below) / (count - below)
        low, below = bound if bound is not None else low, count
    return low


# Charts -----------------------------------------------------------------------------


def points(minutes: Sequence[Minute], span: str, now_ms: int) -> list[Point]:
    """The history as the points of a chart, oldest first, up to now. Minutes without an event keep what was there."""
    step_ms = STEPS_S[span] * 1000
    first = (now_ms - SPANS_S[span] * 1000) // step_ms * step_ms
    steps = {first + at * step_ms: list[Minute]() for at in range((now_ms - first) // step_ms + 1)}
    before: Minute | None = None
    for each in minutes:
        step = each.minute_at_ms // step_ms * step_ms
        if step in steps:
            steps[step].append(each)
        elif step < first:
            before = each
    found = []
    for at_ms, among in steps.items():
        before = among[-1] if among else before
        found.append(_point(at_ms, among, before))
    return found


def _point(at_ms: int, among: Sequence[Minute], last: Minute | None) -> Point:
    out = sum(each.acknowledged + each.failed for each in among)
    return Point(
        at_ms,
        sum(each.enqueued for each in among),
        sum(each.acknowledged for each in among),
        sum(each.failed for each in among),
        last.ready if last else None,
        last.scheduled if last else None,
        last.claimed if last else None,
        sum(each.wait_s for each in among) / out if out else None,
    )


# Ages -------------------------------------------------------------------------------


def age_heads(bounds_s: Sequence[float] = AGE_BOUNDS_S) -> list[str]:
    """The heads of the columns: `to 1m`, `to 5m`, ..., `older`."""
    return [*(f"to {words.span(bound).split(' ')[0]}" for bound in bounds_s), "older"]


def age_table(counts: Sequence[tuple[str, Sequence[int]]]) -> dict[str, list[object]]:
    """Age by queue, as qshape shows it: a row of all, then a row a queue, the fullest first; how many in each age."""
    rows = sorted(counts, key=lambda each: -sum(each[1]))
    if len(rows) > 1:
        rows.insert(0, ("all", [sum(column) for column in zip(*(row for _, row in rows), strict=True)]))
    table: dict[str, list[object]] = {"queue": [name for name, _ in rows], "waiting": [sum(row) for _, row in rows]}
    for at, head in enumerate(age_heads()):
        table[head] = [row[at] for _, row in rows]
    return table


# Disk -------------------------------------------------------------------------------


def loss_rate(samples: Sequence[tuple[int, int]]) -> float | None:
    """By how much a second the second number falls, by least squares over (instant in ms, number). None: too early."""
    if len(samples) < 2 or samples[-1][0] - samples[0][0] < 10_000:
        return None
    begin = samples[0][0]
    times = [(at_ms - begin) / 1000 for at_ms, _ in samples]
    values = [float(value) for _, value in samples]
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((at - middle) ** 2 for at in times)
    return -sum((at - middle) * (value - mean) for at, value in zip(times, values, strict=True)) / spread


def full_in_s(left: int, rate: float | None) -> float | None:
    """In how many seconds nothing is left at this loss a second; None: never, or not known."""
    if left <= 0:
        return 0.0
    if rate is None or rate <= 0:
        return None
    return left / rate


def sampled(samples: Sequence[tuple[int, int]], new: tuple[int, int], most: int = 360) -> list[tuple[int, int]]:
    """The samples with a new one; every other older one goes when there are too many, so that the span only grows."""
    found = [*samples, new]
    if len(found) <= most:
        return found
    return [*itertools.islice(found[:-1], 0, None, 2), new]


def rate_words(rate: float | None) -> str:
    """`3.2/s`, `12/min`, `-`."""
    if rate is None:
        return "-"
    if rate == 0:
        return "0/s"
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min"


def wait_words(seconds: float | None) -> str:
    """`4 ms`, `1.3 s`, `5m 12s`, `-`."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else words.span(seconds)
