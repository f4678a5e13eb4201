"""The worker: its slots, each in a thread, and how it is told to stop.

The main thread only waits, on a pipe that slots and signals write bytes to. The interpreter itself writes those of
signals (`set_wakeup_fd`): a handler in Python runs only when the main thread does, and one that has just gone to sleep,
or whose signal another thread took, would sleep on.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from spoolq.clock import Clock
from spoolq.interfaces import Queue, Slot
from spoolq.worker.events import emit
from spoolq.worker.handler import Handler
from spoolq.worker.process import END_S
from spoolq.worker.settle import Settler
from spoolq.worker.slots import Job, SlotLoop
from spoolq.worker.stop import Stop

NOTHING_THERE = 3

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STOP = b"s"
_FAILED = b"f"
_OVER = b"o"
_STUCK_S = END_S + 3.0
"""How long the ends of what is in hand may take before the worker leaves all the same."""


class Worker:
    """Works on a queue until it is told to stop, or `once` or `drain` says that it is done.

    handler: CommandHandler or PythonHandler. concurrency: slots, each with a message of its own in hand. timeout_s: a
    command that takes longer gets TERM, after grace_s KILL, and its message is requeued. grace_s: also how long a
    worker that is told to stop lets what is in hand run. lease_s: claims end hard after this long. once: one message,
    without waiting for it. drain: until nothing is ready. poll_s: how long one wait for a message lasts, and so the
    longest that an idle worker takes to stop. ValueError for what is out of its range, and for a timeout of a handler
    that cannot be ended.
    """

    def __init__(
        self,
        queue: Queue,
        handler: Handler,
        *,
        concurrency: int = 1,
        timeout_s: float | None = None,
        grace_s: float = 30.0,
        lease_s: float | None = None,
        once: bool = False,
        drain: bool = False,
        poll_s: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be 1 or more, not {concurrency}")
        if timeout_s is not None and not handler.can_end:
            raise ValueError("a Python handler cannot have a timeout, since a function cannot be ended; use a command")
        if once and drain:
            raise ValueError("once and drain contradict each other: one message, or until nothing is ready")
        _check_seconds("timeout_s", timeout_s)
        _check_seconds("lease_s", lease_s)
        _check_seconds("poll_s", poll_s)
        if not 0 <= grace_s < float("inf"):
            raise ValueError(f"grace_s must be 0 or more seconds, not {grace_s}")
        self._queue = queue
        self._handler = handler
        self._concurrency = 1 if once else concurrency
        self._grace_s = grace_s
        self._once = once
        self._clock = clock or Clock()
        self._stop = Stop()
        self._wake_fd, self._word_fd = os.pipe()
        os.set_blocking(self._word_fd, False)
        self._exit_code = 0
        self._stuck = False
        self._mutex = threading.Lock()
        self._job = Job(
            queue=queue,
            handler=handler,
            stop=self._stop,
            settler=Settler(self._stop, self._clock),
            clock=self._clock,
            timeout_s=timeout_s,
            grace_s=grace_s,
            lease_s=lease_s,
            once=once,
            drain=drain,
            poll_s=poll_s,
            fail=self._fail,
        )

    def run(self) -> int:
        """Work, once for each Worker; the exit status: 0, 3 where `once` found nothing, 78 for what cannot be run, 5...

        In the main thread, TERM, INT and HUP stop it: the first drains, the second, or the end of the grace, ends what
        is in hand and gives it back uncounted. Raises what opening the slots raises.
        """
        with ExitStack() as stack:
            stack.callback(self._close)
            stack.enter_context(_signals(self._word_fd))
            loops = [SlotLoop(self._job, slot) for slot in self._open_slots(stack)]
            self._handler.open()
            stack.callback(self._handler.close)
            emit(logging.INFO, "worker.started", queue=self._queue.name, handler=self._handler.label, slots=len(loops))
            threads = [self._start(loop, number) for number, loop in enumerate(loops)]
            self._supervise(len(threads))
            for thread in [] if self._stuck else threads:
                thread.join()
            code = self._result(sum(loop.handled for loop in loops))
        emit(logging.INFO, "worker.stopped", exit_code=code)
        return code

    def stop(self) -> None:
        """Tell it to stop: the first time it drains, the second time it ends. From any thread or signal handler."""
        self._say(_STOP)

    def _open_slots(self, stack: ExitStack) -> list[Slot]:
        """Closed at the end in any case: a slot that is stuck in a handler gives its message back."""
        label = self._handler.label
        return [stack.enter_context(self._queue.slot(label)) for _ in range(self._concurrency)]

    def _start(self, loop: SlotLoop, number: int) -> threading.Thread:
        thread = threading.Thread(target=self._run, args=(loop,), name=f"spoolq-slot-{number}", daemon=True)
        thread.start()
        return thread

    def _run(self, loop: SlotLoop) -> None:
        try:
            loop.run()
        finally:
            self._say(_OVER)

    def _supervise(self, running: int) -> None:
        """Until all slots are done, or are stuck past the end of every grace."""
        until_s: float | None = None
        while running:
            words = self._listen(until_s)
            running -= words.count(_OVER)
            asked = words.count(_STOP) + sum(map(words.count, _SIGNALS))
            if _FAILED in words and until_s is None:
                asked = max(asked, 1)
            if not words:  # the grace is over
                if self._stop.ending:
                    emit(logging.ERROR, "worker.stuck", slots=running)
                    self._stuck = True
                    return
                asked = 1
            for _ in range(asked):
                until_s = self._stop_further(until_s)

    def _stop_further(self, until_s: float | None) -> float | None:
        """One step: drain, then end; by when."""
        if until_s is None:
            emit(logging.INFO, "worker.draining", grace_s=self._grace_s)
            self._stop.drain()
            return self._clock.mono_s() + self._grace_s
        if self._stop.ending:
            return until_s
        emit(logging.WARNING, "worker.ending")
        self._stop.end()
        return self._clock.mono_s() + _STUCK_S

    def _listen(self, until_s: float | None) -> bytes:
        """The words said since; nothing when it is `until_s`."""
        wait_s = None if until_s is None else max(0.0, until_s - self._clock.mono_s())
        ready, _, _ = select.select([self._wake_fd], [], [], wait_s)
        return os.read(self._wake_fd, 1024) if ready else b""

    def _say(self, word: bytes) -> None:
        try:
            os.write(self._word_fd, word)
        except OSError:  # it has ended; or 64 KiB of signals wait already
            pass

    def _fail(self, code: int, why: str) -> None:
        with self._mutex:
            first = self._exit_code == 0
            self._exit_code = self._exit_code or code
        self._stop.drain()  # at once: the slot that failed must not take another
        if first:
            emit(logging.ERROR, "worker.failed", exit_code=code, error=why)
        self._say(_FAILED)

    def _result(self, handled: int) -> int:
        if self._exit_code == 0 and self._once and not handled and not self._stop.draining:
            return NOTHING_THERE
        return self._exit_code

    def _close(self) -> None:
        if self._stuck:  # a slot may come back to them yet
            return
        self._stop.close()
        for fd in (self._wake_fd, self._word_fd):
            os.close(fd)
        self._word_fd = -1


@contextmanager
def _signals(word_fd: int) -> Iterator[None]:
    """TERM, INT and HUP become words, in the main thread; those that are ignored stay so (nohup, `&` in a script)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    fd_before = signal.set_wakeup_fd(word_fd, warn_on_full_buffer=False)
    before = {number: signal.signal(number, _hear) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(fd_before)


def _hear(_number: int, _frame: FrameType | None) -> None:
    """What matters is that there is a handler: then the interpreter writes the word."""


def _check_seconds(what: str, value: float | None) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise ValueError(f"{what} must be more than 0 seconds, not {value}")
