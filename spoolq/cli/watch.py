"""`spoolq watch`: does for every queue of a spool what is due, all the time, so that nobody has to dequeue for it.

A thread for each queue, with a queue object of its own; the main thread notices new queues. It never claims anything.
"""

import sys
import threading

from spoolq.cli import failure, logs, session
from spoolq.cli.declare import command
from spoolq.cli.options import DEFAULT_SPOOL, Json, OnlyQueue, Spool
from spoolq.cli.output import emit, note
from spoolq.cli.stopping import stopping
from spoolq.clock import Clock
from spoolq.errors import QueueNotFound, SpoolqError

LOOK_S = 1.0
"""The longest time between two looks at a queue, and at which queues there are."""

PACE_S = 0.02
"""The shortest time between two looks: each enqueue wakes us, and thousands may come in a second."""

RETRY_S = (0.1, 30.0)
"""After trouble with a queue: the first pause, doubled each time, and the longest."""


@command("spoolq watch")
def watch(*, spool: Spool = DEFAULT_SPOOL, queue: OnlyQueue = None, as_json: Json = False) -> int:
    """Notice drops, ended claims, due and expired messages at once, in every queue, until TERM or Ctrl-C.

    Queues do all that by themselves while somebody dequeues; run this where nobody may for a while.
    """
    logs.begin("info")
    with session.opened(spool, queue, create=True):
        pass  # make the spool, or say at once why it cannot be used
    with stopping() as stop:
        return Watcher(spool, queue, stop, as_json).run()


class Watcher:
    """Keeps one thread for each queue until `stop` is set, or one of them fails in a way nobody expected."""

    def __init__(self, spool: str, only: str | None, stop: threading.Event, as_json: bool = False) -> None:
        self._spool = spool
        self._only = only
        self._stop = stop
        self._as_json = as_json
        self._threads: dict[str, threading.Thread] = {}
        self._failed: list[BaseException] = []
        self._clock = Clock()

    def run(self) -> int:
        """Watch until stopped."""
        while not self._stop.is_set():
            self._start_missing()
            self._stop.wait(LOOK_S)
        for thread in self._threads.values():
            thread.join()
        if self._failed:
            raise self._failed[0]
        return failure.DONE

    def _start_missing(self) -> None:
        """A thread for each queue that has none: it is new, or was deleted and made again."""
        try:
            names = session.names(self._spool, self._only)
        except SpoolqError as error:
            failure.report(error, as_json=self._as_json)
            return
        for name in names:
            thread = self._threads.get(name)
            if thread is None or not thread.is_alive():
                self._threads[name] = threading.Thread(target=self._tend, args=(name,), name=f"watch {name}")
                self._threads[name].start()
                self._tell(name)

    def _tell(self, name: str) -> None:
        if self._as_json:
            emit({"event": "watching", "queue": name})
            sys.stdout.flush()
        else:
            note(f"watching {name}")

    def _tend(self, name: str) -> None:
        """Keep a queue until it is deleted or we are stopped, through every trouble that can pass."""
        pause_s, longest_s = RETRY_S
        while not self._stop.is_set():
            try:
                self._maintain(name)
            except QueueNotFound:
                return
            except SpoolqError as error:
                failure.report(error, as_json=self._as_json)
                self._stop.wait(pause_s)
                pause_s = min(2 * pause_s, longest_s)
            except BaseException as error:  # raised again by run, which has a caller
                self._failed.append(error)
                self._stop.set()

    def _maintain(self, name: str) -> None:
        with session.opened(self._spool, name) as queue:
            queue.wait(0)  # watch first, then look, then wait
            while not self._stop.is_set():
                looked_s = self._clock.mono_s()
                if not queue.maintain():
                    queue.wait(LOOK_S)
                    self._stop.wait(max(0.0, looked_s + PACE_S - self._clock.mono_s()))
