"""What a relay tells of itself."""

from __future__ import annotations

from dataclasses import dataclass

from spoolq.models import Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a relay has done and what is before it. lag_s: how long the oldest waits; backlog: how many wait.

    error: why the target is away, in its words.
    """

    sent: int = 0
    refused: int = 0
    outages: int = 0
    is_away: bool = False
    error: str = ""
    backlog: int = 0
    lag_s: float = 0.0


def backlog(stats: Stats) -> int:
    """How many messages of a source have not arrived yet."""
    return stats.ready + stats.scheduled + stats.claimed


def lag_s(stats: Stats, now_ms: int) -> float:
    """How long the oldest of them that is ready has waited; 0 where none is."""
    oldest = stats.oldest_ready_at_ms
    return 0.0 if oldest is None else max(0.0, (now_ms - oldest) / 1000)
