"""What a consumer holds where its engine cannot see that its process lives: by receipt, to be given back at its end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from spoolq.errors import LeaseLost, SpoolqError


class Holding:
    """Receipts of claims under way. Thread-safe; a forked child makes itself a new one: the claims are its parent's."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._mutex = threading.Lock()
        self._receipts: dict[str, None] = {}

    def add(self, receipts: Iterable[str]) -> None:
        """These were claimed."""
        with self._mutex:
            self._receipts.update(dict.fromkeys(receipts))

    def ended(self, receipts: Iterable[str]) -> None:
        """These claims have ended, whosever they were."""
        with self._mutex:
            for receipt in receipts:
                self._receipts.pop(receipt, None)

    def give_back(self, release: Callable[[str], None], log: logging.Logger) -> None:
        """Give back, uncounted, what is left. Where nobody answers, the claims end by time, and `log` says so."""
        with self._mutex:
            left = list(self._receipts)
        for number, receipt in enumerate(left):
            try:
                release(receipt)
            except LeaseLost:
                continue
            except SpoolqError as error:
                log.warning("claims.left queue=%s count=%d error=%s", self._queue, len(left) - number, error)
                return
