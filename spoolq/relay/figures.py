"""What a relay tells of itself."""

from __future__ import annotations

from dataclasses import dataclass

from spoolq.models import Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a relay has done and what is before it. lag_s: how long the oldest waits; backlog: how many wait.

    error: why the target is away, in its words. waiting_since_ms: since when the oldest waits, None where none does.
    """

    sent: int = 0
    refused: int = 0
    outages: int = 0
    is_away: bool = False
    error: str = ""
    backlog: int = 0
    lag_s: float = 0.0
    waiting_since_ms: int | None = None


def backlog(stats: Stats) -> int:
    """How many messages of a source have not arrived yet."""
    return stats.ready + stats.scheduled + stats.claimed


def waiting_since_ms(stats: Stats, known_ms: int | None = None) -> int | None:
    """Since when the oldest of them that is ready waits; None where none is.

    known_ms: since when one waited before an outage. What a relay tries, and gives back, is ready anew after each try,
    so the queue's own figure would begin again with every one.
    """
    return min((each for each in (stats.oldest_ready_at_ms, known_ms) if each is not None), default=None)


def lag_s(stats: Stats, now_ms: int, known_ms: int | None = None) -> float:
    """How long that is; 0 where none is ready."""
    since_ms = waiting_since_ms(stats, known_ms)
    return 0.0 if since_ms is None else max(0.0, (now_ms - since_ms) / 1000)
