"""Running until somebody says stop: TERM, or Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that TERM, HUP and INT set. In a thread other than the main one only somebody else sets it."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def until_stopped(every_s: float) -> Iterator[int]:
    """0, 1, 2, ... now and then every so many seconds, until stopped."""
    with stopping() as stop:
        turn = 0
        while not stop.is_set():
            yield turn
            turn += 1
            stop.wait(every_s)
