"""Waking up: one connection of its own on which PostgreSQL tells that there may be something to claim.

A hint, as everywhere: whoever waits looks first and goes on looking every POLL_S. So a connection that is lost, or a
notification that came between two, costs a moment and no message.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable

import psycopg
from psycopg import sql

from spoolq.postgres import statements
from spoolq.postgres.connection import Database

log = logging.getLogger("spoolq.postgres")

POLL_S = 1.0
AWAIT_MS = 10_000
"""How long a queue counts as awaited after somebody said so; renewed while somebody waits."""

_AGAIN_S = 1.0


class Listener:
    """Tells listeners of one channel, from a thread that runs while there are any."""

    def __init__(self, database: Database, channel: str) -> None:
        self._database = database
        self._channel = channel
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._ends: tuple[int, int] | None = None

    def add(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call it whenever something may have come; what is returned ends that."""
        if self._pid != os.getpid():
            self._begin()  # a fork has no threads, and its parent's listeners are the parent's
        with self._mutex:
            self._listeners.append(listener)
            if self._thread is None:
                self._stopping = threading.Event()
                self._ends = os.pipe()
                self._thread = threading.Thread(
                    target=self._run, args=(self._ends[0], self._stopping), name="spoolq-listen", daemon=True
                )
                self._thread.start()

        def remove() -> None:
            with self._mutex:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return remove

    def close(self) -> None:
        """End the thread. Again: nothing."""
        if self._pid != os.getpid():
            return
        with self._mutex:
            thread, ends = self._thread, self._ends
            self._thread = self._ends = None
            self._listeners.clear()
            self._stopping.set()
        if thread is None or ends is None:
            return
        os.close(ends[1])  # what wakes it
        if thread is not threading.current_thread():
            thread.join()

    def _run(self, stop: int, stopping: threading.Event) -> None:
        try:
            while not stopping.is_set():
                try:
                    self._listen(stop, stopping)
                except (psycopg.Error, OSError) as error:
                    log.info("listener.lost channel=%s error=%s", self._channel, type(error).__name__)
                    stopping.wait(_AGAIN_S)
        finally:
            os.close(stop)

    def _listen(self, stop: int, stopping: threading.Event) -> None:
        with self._database.connect() as connection:
            connection.execute(sql.SQL(statements.LISTEN).format(sql.Identifier(self._channel)))
            self._tell()  # what came before it listened
            while not stopping.is_set():
                select.select([connection.fileno(), stop], [], [])
                if stopping.is_set():
                    return
                if any(True for _ in connection.notifies(timeout=0)):
                    self._tell()

    def _tell(self) -> None:
        with self._mutex:
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener()
