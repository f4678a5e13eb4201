"""Kill a process before its n-th system call, or have that call fail: by strace, on the code as it is, without a seam.

The scenarios and the judge are those of tests/crash. A child stops itself where the transition begins; strace is put on
it, and counts from there: of each system call by its name, as the kernel's own order gives it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic  # noqa: F401  (what is imported only when it is needed must not be met by an injected error)

from spoolq.errors import SpoolqError
from spoolq.spool import queues
from spoolq.spool.files import Files
from tests.crash.harness import Harness, Journal, Scenario, State, World, Wreck, copy_tree, state_of
from tests.helpers import BALLAST_BYTES, needs

CHILD_LIMIT_S = 60
CALL = re.compile(r"^(?:\d+ +)?([a-z_0-9]+)\(")
FREE = frozenset(("exit_group", "exit", "rt_sigreturn", "restart_syscall"))
"""Where there is nothing to inject: it is over, or it is not a call of the program's own."""


class SmallBallast(Files):
    """The real thing, but for four megabytes."""

    def allocate(self, path: str, size: int) -> None:
        super().allocate(path, BALLAST_BYTES)


class Telling(Journal):
    """By a call that nothing is injected into."""

    def say(self, *words: Any) -> None:
        os.writev(self._fd, [json.dumps(words).encode() + b"\n"])


class Stopping:
    """In the place of the points of tests/crash: `arm` is where strace comes in."""

    def arm(self) -> None:
        """Stop until somebody has put strace on this process."""
        os.kill(os.getpid(), signal.SIGSTOP)


class StraceHarness(Harness):
    """One scenario; number n is the n-th system call after the beginning. error: how it fails; None: killed before it.

    every: only each so-manieth call. only: which calls can fail so.
    """

    def __init__(
        self,
        scenario: Scenario,
        home: Path,
        *,
        patch: Callable[[], None] = lambda: None,
        error: str | None = None,
        only: frozenset[str] = frozenset(),
        every: int = 1,
        first: int = 0,
    ) -> None:
        super().__init__(scenario, home, patch=patch)
        self._error = error
        self._only = only
        self._every = every
        self._first = first
        self.calls: list[tuple[str, int]] = []
        """Every call after the beginning, in order: its name, and the how-manieth of that name it is."""

        self.refused = 0

    # In the child

    def _be_traced(self, home: Path, journal: Journal) -> None:
        signal.alarm(CHILD_LIMIT_S)
        logging.disable(logging.CRITICAL)
        queues.Files = SmallBallast  # type: ignore[misc]
        self._patch()
        world = World(home, self.clock, SmallBallast(), journal, Stopping(), self.scenario.queue_name)  # type: ignore[arg-type]
        try:
            self.scenario.act(world)
        except SpoolqError as error:
            journal.say("refused", type(error).__name__, error.hint or "")

    def _start(self, home: Path) -> tuple[int, int]:
        """A child that has come to the beginning; its pid, and where it can be heard."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reading)
                self._be_traced(home, Telling(writing))
            except BaseException:
                Telling(writing).say("failed", traceback.format_exc())
            finally:
                os._exit(0)
        os.close(writing)
        return pid, reading

    def _traced(self, home: Path, *inject: str) -> tuple[list[list[Any]], int, str]:
        """Run the transition under strace; what the child said, how it ended, and the calls."""
        log = self.home / "strace.log"
        log.unlink(missing_ok=True)
        pid, reading = self._start(home)
        os.waitpid(pid, os.WUNTRACED)
        argv = ["strace", "-f", "-qq", "-o", os.fspath(log), *inject, "-p", str(pid)]
        tracer = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self._wait_for_tracer(pid)
        os.kill(pid, signal.SIGCONT)
        with os.fdopen(reading, "rb") as said:
            journal = [json.loads(line) for line in said]
        _, code = os.waitpid(pid, 0)
        tracer.communicate()
        failures = [words[1] for words in journal if words[0] == "failed"]
        assert not failures, failures[0]
        return journal, os.waitstatus_to_exitcode(code), log.read_text(errors="replace")

    def _wait_for_tracer(self, pid: int) -> None:
        ends_s = time.monotonic() + 20
        while "\nTracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
            assert time.monotonic() < ends_s, "strace does not come"
            time.sleep(0.001)

    # In the harness

    def record(self) -> None:
        """Which calls there are."""
        home = self.home / "wreck"
        shutil.rmtree(home, ignore_errors=True)
        copy_tree(self._template, home)
        _, _, text = self._traced(home)
        counts: dict[str, int] = {}
        for line in text.splitlines():
            # A call that another thread interrupts is told in two parts; "resumed" is the second.
            if (match := CALL.match(line)) and "+++" not in line:
                name = match[1]
                counts[name] = counts.get(name, 0) + 1
                if name not in FREE and (not self._only or name in self._only):
                    self.calls.append((name, counts[name]))

    def prepare(self) -> None:
        needs(shutil.which("strace") is not None, "strace")
        super().prepare()
        self.record()

    def points(self) -> list[int]:
        """The numbers of the calls that are tried."""
        return [*range(self._first % self._every, len(self.calls), self._every)]

    def run(self, *hows: str) -> int:
        """Each chosen call, and an end unhurt; how many."""
        self.prepare()
        before, after = self._expected(0), self._expected(None)
        if self._error == "EIO":
            # Who cannot read the index makes it anew; of two copies another may keep the id then.
            self.otherwise = self._expected_without_index()
        tried = 0
        for number in [*self.points(), len(self.calls)]:
            wreck = self.traced_wreck(number)
            self._judge_all(wreck, before, after, hows or self._hows(number))
            tried += 1
        return tried

    def _expected_without_index(self) -> State:
        wreck = self.wreck(0)
        with self.recovered(wreck, "without an index") as queue:
            queue.check(fix=True)
        return state_of(wreck.home)

    def traced_wreck(self, number: int) -> Wreck:
        """What is left where the call of this number meets what it meets."""
        home = self.home / "wreck"
        shutil.rmtree(home, ignore_errors=True)
        copy_tree(self._template, home)
        at, inject = "unhurt", []
        if number < len(self.calls):
            name, nth = self.calls[number]
            how = "signal=SIGKILL" if self._error is None else f"error={self._error}"
            inject = ["-e", f"inject={name}:{how}:when={nth}"]
            at = f"{name} {nth}{'' if self._error is None else ' ' + self._error}"
        journal, status, _ = self._traced(home, *inject)
        assert status in {0, -signal.SIGKILL}, f"the child ended with {status} at {at}"
        # Where the index failed, what it alone would have remembered is not: a receipt after its message is gone.
        remembers = self._error is None or not at.startswith(("pwrite64", "ftruncate", "openat", "fallocate"))
        for refused in (words for words in journal if words[0] == "refused"):
            assert refused[2] or self._error == "EINTR", f"{refused[1]} without a hint at {at}"
            self.refused += 1
        return Wreck(
            home,
            number,
            number >= len(self.calls),
            at,
            frozenset(words[1] for words in journal if words[0] == "ended"),
            {words[1]: words[2] for words in journal if words[0] == "receipt"},
            tuple(words[1] for words in journal if words[0] == "acknowledged" and remembers),
        )
