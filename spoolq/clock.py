"""Time, boot and ids, behind one object that tests replace.

Stored instants come from the wall clock, waiting from the monotonic clock, and deadlines of claims from the boot
clock, which goes on through a suspend and which nobody can set. Never read another clock elsewhere.
"""

from __future__ import annotations

import itertools
import operator
import os
import struct
import threading
import time

_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_COUNTER_BITS = 74
_COUNTER_MASK = (1 << _COUNTER_BITS) - 1
_RAND_B_MASK = (1 << 62) - 1


class Clock:
    """The system's clocks and a source of ids. Thread-safe; fit for use after a fork."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._last_ms = 0
        self._counter = 0

    def wall_ms(self) -> int:
        """UTC milliseconds since 1970. Can jump."""
        return time.time_ns() // 1_000_000

    def mono_s(self) -> float:
        """Seconds of a clock that never jumps; for waiting within a process."""
        return time.monotonic()

    def boot_ms(self) -> int:
        """Milliseconds since boot, suspend included; the same in every process of this boot."""
        return time.clock_gettime_ns(_BOOT_CLOCK) // 1_000_000

    def boot_id(self) -> str:
        """What distinguishes this boot from every other; "" where the system has no such thing."""
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                return file.read().strip()
        except FileNotFoundError:
            return ""

    def new_id(self, now_ms: int | None = None) -> str:
        """A UUIDv7 (RFC 9562, 6.2 method 2) that sorts after every earlier one of this process.

        The 74 bits after the time are a counter: random in a new millisecond, later advanced by a random step, so
        that two processes, or the two sides of a fork, do not meet. A clock that goes back keeps the last time.
        """
        if now_ms is None:
            now_ms = self.wall_ms()
        fresh = int.from_bytes(os.urandom(10), "big")
        ms, counter = self._advance(now_ms, fresh, 1 + (fresh & 0xFFFFFFFF))
        return _text(_head(ms, counter), counter)

    def new_ids(self, count: int) -> list[str]:
        """So many of them, in order and of one instant: the counter is advanced once, by as many random steps."""
        chance = os.urandom(10 + 4 * count)
        steps = struct.unpack_from(f"{count}I", chance, 10)
        whole = sum(steps) + count
        ms, last = self._advance(self.wall_ms(), int.from_bytes(chance[:10], "big"), whole)
        known = last >> 48 << 48  # what they have in common: all but the last 48 bits, which are the end of the text
        begun = last - whole + 1 - known
        counters = [*map(operator.add, itertools.accumulate(steps), range(begun, begun + count))]
        if begun < 0 or not count:
            return [_text(_head(ms, known + counter), known + counter) for counter in counters]
        common = _text(_head(ms, last), last)[:-12]
        ends = struct.pack(f">{count}Q", *counters).hex()
        return [common + ends[at : at + 12] for at in range(4, 16 * count, 16)]

    def _advance(self, now_ms: int, fresh: int, step: int) -> tuple[int, int]:
        """By so much; what is between is the caller's. Returns the time and the counter."""
        # Half of what there is, at most, so that there is room for steps.
        fresh = (fresh & _COUNTER_MASK) >> 1
        # Nothing in here lets go of the interpreter: a fork by another thread meanwhile would leave this locked.
        with self._mutex:
            if now_ms > self._last_ms:
                self._last_ms = now_ms
                self._counter = fresh
            elif self._counter + step > _COUNTER_MASK:
                self._last_ms += 1
                self._counter = fresh
            self._counter += step
            return self._last_ms, self._counter


def _head(ms: int, counter: int) -> str:
    text = f"{(ms << 16) | 0x7000 | (counter >> 62):016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:]}"


def _text(head: str, counter: int) -> str:
    text = f"{(0b10 << 62) | (counter & _RAND_B_MASK):016x}"
    return f"{head}-{text[:4]}-{text[4:]}"


def id_time_ms(message_id: str) -> int:
    """The instant within a UUIDv7, in UTC ms."""
    return int(message_id[:8] + message_id[9:13], 16)
