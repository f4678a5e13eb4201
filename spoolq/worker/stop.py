"""How a worker is told to stop: first to drain (no new claims), then to end (what is in hand, too).

Nothing here is called from a signal handler; `loop` turns signals into calls.
"""

from __future__ import annotations

import os
import threading


class Stop:
    """Shared by all slots of a worker. `fd` becomes readable when it is time to end, for those who poll."""

    def __init__(self) -> None:
        self._drain = threading.Event()
        self._end = threading.Event()
        self._mutex = threading.Lock()
        self.fd, self._write_fd = os.pipe()

    @property
    def draining(self) -> bool:
        """No new claims."""
        return self._drain.is_set()

    @property
    def ending(self) -> bool:
        """End what is in hand."""
        return self._end.is_set()

    def drain(self) -> None:
        """From now on, no new claims."""
        self._drain.set()

    def end(self) -> None:
        """From now on, end what is in hand."""
        self._drain.set()
        with self._mutex:
            if not self._end.is_set():
                self._end.set()
                os.close(self._write_fd)

    def wait_draining(self, seconds: float) -> None:
        """Wait, but not after the worker drains."""
        self._drain.wait(seconds)

    def wait_ending(self, seconds: float) -> None:
        """Wait, but not after the worker ends."""
        self._end.wait(seconds)

    def close(self) -> None:
        """Let go of the descriptors; nobody polls any more."""
        self.end()
        os.close(self.fd)
