"""The circuit breaker: whether the target is away, since how many tries, and how long to leave it alone."""

from __future__ import annotations

PAUSES_S = (0.5, 60.0)
"""While the target is away: the first pause, doubled each time, and the longest."""


class Breaker:
    """Open while the target is away: then one message at a time is tried, after a pause that grows."""

    def __init__(self, pauses_s: tuple[float, float] = PAUSES_S) -> None:
        self._first_s, self._longest_s = pauses_s
        self.pause_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the target was away when it was last tried."""
        return self.pause_s > 0

    def failed(self) -> bool:
        """It is away. True where it was not before."""
        began = not self.is_open
        self.pause_s = min(self._longest_s, self.pause_s * 2 or self._first_s)
        return began

    def worked(self) -> bool:
        """It answers. True where it did not before."""
        ended = self.is_open
        self.pause_s = 0.0
        return ended
