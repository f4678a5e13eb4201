"""For tests, yours too: a clock that stands still until it is moved.

A message with `delay_s=60` in a `MemoryQueue(clock=clock)` is there after `clock.advance(61)`, and no test sleeps.
"""

from __future__ import annotations

import time

from spoolq.clock import Clock


class FakeClock(Clock):
    """A clock whose instants move only by `advance` and `set_wall`.

    wall_ms: where it starts; by default at this second, since files bear real times. Its monotonic clock runs on
    besides, from where `advance` puts it: a wait in real time has to end.
    """

    def __init__(self, wall_ms: int | None = None, boot_ms: int = 1_000_000) -> None:
        super().__init__()
        self._wall_ms = int(time.time()) * 1000 if wall_ms is None else wall_ms
        self._boot_ms = boot_ms
        self._ahead_s = 0.0

    def wall_ms(self) -> int:
        """UTC milliseconds, as set."""
        return self._wall_ms

    def mono_s(self) -> float:
        """The real monotonic clock, ahead by all that was advanced."""
        return time.monotonic() + self._ahead_s

    def boot_ms(self) -> int:
        """Milliseconds since boot, as advanced."""
        return self._boot_ms

    def advance(self, seconds: float) -> None:
        """Let this much time pass on every clock."""
        self._wall_ms += round(seconds * 1000)
        self._boot_ms += round(seconds * 1000)
        self._ahead_s += seconds

    def advance_waits(self, seconds: float) -> None:
        """Let the monotonic clock alone go on: what is done every so often is due, and no instant has moved."""
        self._ahead_s += seconds

    def set_wall(self, wall_ms: int) -> None:
        """Set the wall clock alone, as a person or NTP does; the others go on."""
        self._wall_ms = wall_ms
