"""Waking whoever waits, within about a millisecond and at no idle cost. Section 9 of DESIGN in docs/design.md.

An enqueuer touches `wake`; a drop shows in `new/`. One inotify instance and one thread serve a whole process
(watchdog's InotifyFD, with masks of our own: as its observers come, every claim would leave a move without its second
half, which holds back all later events for half a second). Watch first, then look, then wait: an event is a hint, and
so is its absence, so whoever waits looks every few seconds anyway. Without inotify, waiting is polling.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spoolq.spool.directory import QueueDirectory
from spoolq.spool.names import parse_name

if TYPE_CHECKING:
    from watchdog.observers.inotify_c import InotifyFD

log = logging.getLogger("spoolq.spool")

POLL_S = 0.25

_shared: dict[int, InotifyFD] = {}
_shared_mutex = threading.Lock()


def _forget_shared() -> None:
    """In a forked child: the parent's instance is the parent's, and its thread is not here."""
    global _shared_mutex
    _shared_mutex = threading.Lock()
    _shared.clear()


os.register_at_fork(after_in_child=_forget_shared)


def _inotify() -> InotifyFD:
    """This process's inotify instance. OSError where none can be had."""
    from watchdog.observers.inotify_c import InotifyFD

    with _shared_mutex:
        instance = _shared.get(os.getpid())
        if instance is None or not instance.is_alive():
            instance = InotifyFD()
            instance.start()
            _shared[os.getpid()] = instance
        return instance


class Wakeup:
    """Wake-ups for one open queue. `count` goes up with each; compare it before and after looking."""

    def __init__(self, directory: QueueDirectory) -> None:
        self._directory = directory
        self._condition = threading.Condition()
        self._watches: list[tuple[Any, Any]] = []
        self._instance: InotifyFD | None = None
        self._listeners: list[Callable[[], None]] = []
        self._dropped: deque[str] = deque()
        self._broken = True
        self._refused = False
        self._closed = False
        self.count = 0
        self.overflowed = False

    # From the inotify thread

    def on_event(self, event: Any) -> None:
        """Called by the inotify thread: `wake` was touched, or something came into `new/`."""
        name = os.fsdecode(event.name)
        if name:
            if name[0] == "." or parse_name(name) is not None:
                # Its enqueuer touches `wake` once the row is there.
                return
            self._dropped.append(name)
        self.notify()

    def on_watch_deleted(self, wd: Any) -> None:
        """Called by the inotify thread: what was watched is gone; watch again at the next wait."""
        self._broken = True
        self.notify()

    def on_queue_overflow(self) -> None:
        """Called by the inotify thread: events were lost, so everything must be looked at."""
        self.overflowed = True
        self.notify()

    def notify(self) -> None:
        """Wake all who wait here, and tell the listeners."""
        with self._condition:
            self.count += 1
            self._condition.notify_all()
        for listener in list(self._listeners):
            listener()

    # For those who wait

    def watch(self) -> None:
        """Begin to watch; from here on nothing is missed. Again where what was watched has been replaced."""
        if not self._broken or self._refused or self._closed:
            return
        with self._condition:
            self._broken = False
        try:
            self._add_watches()
        except OSError as error:
            # No instance or watch left for this user: looking every quarter of a second does as well, later.
            self._refused = True
            log.warning("wakeup.polling queue=%s error=%s", self._directory.base, error)

    def _add_watches(self) -> None:
        if not sys.platform.startswith("linux"):
            self._refused = True
            return
        from watchdog.observers.inotify_c import CallbackId, InotifyConstants, Mask

        self._unwatch()
        instance = _inotify()
        self._instance = instance
        mine = CallbackId(id(self))
        arrivals = Mask(InotifyConstants.IN_MOVED_TO | InotifyConstants.IN_CLOSE_WRITE | InotifyConstants.IN_ONLYDIR)
        for path, mask in ((self._directory.new, arrivals), (self._directory.wake, InotifyConstants.IN_ATTRIB)):
            if path == self._directory.wake and not os.path.exists(path):
                os.close(self._directory.files.open_lock(path))
            watch = instance.add_callback(os.fsencode(path), mask, self, mine)
            self._watches.append((watch, mine))

    def _unwatch(self) -> None:
        instance, watches = self._instance, self._watches
        self._instance, self._watches = None, []
        if instance is not None and instance.is_alive() and watches:
            instance.remove_callbacks(watches)

    def dropped(self) -> set[str]:
        """Names that came into `new/` since the last time this was asked."""
        return {self._dropped.popleft() for _ in range(len(self._dropped))}

    def wait(self, seen: int, timeout_s: float) -> bool:
        """Wait until `count` is not `seen` any more; False after the time."""
        if self._refused:
            timeout_s = min(timeout_s, POLL_S)
        with self._condition:
            self._condition.wait_for(lambda: self.count != seen or self._closed, timeout_s)
            return self.count != seen

    def add_listener(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call this at each wake-up, from another thread; returns what ends it."""
        self.watch()
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    @property
    def tells(self) -> bool:
        """Whether wake-ups come; where not, waiting is polling."""
        return not (self._refused or self._closed)

    def forget(self) -> None:
        """In a forked child: begin anew."""
        self._condition = threading.Condition()
        self._watches = []
        self._instance = None
        self._broken = True
        self._refused = False

    def close(self) -> None:
        """Stop watching; who waits is woken."""
        self._closed = True
        self._unwatch()
        with self._condition:
            self._condition.notify_all()
