"""Let the system refuse every operation in turn, and see that the error is clear, nothing is lost, and it goes on.

The scenarios are those of tests/crash; here nobody dies. The n-th operation of those that an errno can meet fails,
once, or from then on until the cause is gone. What is raised must be a SpoolqError that says what to do; `tmp/` is
empty; each message is as if the operation had not begun, or as if it had ended; and the same open queue goes on.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

from spoolq.errors import DiskFull, SpoolqError, StorageError
from spoolq.spool import queues
from spoolq.spool.files import Files
from spoolq.spool.queue import SpoolQueue
from tests.crash.harness import Harness, Scenario, State, World, Wreck, copy_tree, state_of
from tests.helpers import NthFiles, SeamFiles

CREATING = frozenset(("create", "open_append", "open_lock", "mkdir", "make_root", "allocate"))
NAMING = frozenset(("rename", "rename_new"))
MEETS = {
    errno.ENOSPC: CREATING | NAMING | {"write", "copy_range", "fsync"},
    errno.EDQUOT: CREATING | NAMING | {"write", "copy_range"},
    errno.EIO: frozenset(("write", "copy_range", "fsync", "sync_directory", "close", "rename", "rename_new", "unlink")),
    errno.EROFS: CREATING | NAMING | {"write", "unlink", "utime_ns", "touch", "share", "remove_tree"},
    errno.EMFILE: CREATING | {"sync_directory"},
    errno.EACCES: CREATING | NAMING | {"unlink", "utime_ns", "touch", "share", "remove_tree"},
}
"""Which operations an errno can come from."""


class FaultyFiles(NthFiles):
    """The n-th operation that can meet this errno fails: once, or it and all after it, until `cured`."""

    def __init__(self, code: int, at: int | None, *, lasting: bool) -> None:
        super().__init__()
        self._code = code
        self._at = at
        self._lasting = lasting
        self._unsynced: set[tuple[int, int]] = set()
        self.cured = False
        self.failed = ""
        self.synced_again: list[str] = []

    def before(self, operation: str, *paths: str) -> None:
        if operation in MEETS[self._code]:
            super().before(operation, *paths)

    def reached(self, number: int, operation: str, *paths: str) -> None:
        if self.cured or self._at is None or number < self._at or (number > self._at and not self._lasting):
            return
        self.failed = self.failed or " ".join([operation, *paths])
        raise OSError(self._code, os.strerror(self._code), *paths[:1])

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        try:
            super().write(fd, data)
        except OSError:
            os.write(fd, data[: len(data) // 2])
            raise

    def fsync(self, fd: int) -> None:
        found = os.fstat(fd)
        file = found.st_dev, found.st_ino
        # Of metadata it is a further line, in cur/ a further deadline: the body was synced before it was a message.
        again = file in self._unsynced and "/meta/" not in self._path(fd) and "/cur/" not in self._path(fd)
        if again:
            self.synced_again.append(self._path(fd))
        try:
            super().fsync(fd)
        except OSError:
            self._unsynced.add(file)
            raise

    def close(self, fd: int) -> None:
        try:
            super().close(fd)
        except OSError:
            Files.close(self, fd)
            raise


class Stop(Exception):
    """The transition is not to begin."""


class Said:
    """A journal in memory."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []

    def say(self, *words: Any) -> None:
        self.lines.append(words)

    def of(self, word: str) -> list[tuple[Any, ...]]:
        """The lines that begin so."""
        return [line for line in self.lines if line[0] == word]


class Arming:
    """What `World.arm` calls: the files count from here on; or nothing is to happen at all."""

    def __init__(self, files: FaultyFiles, *, begins: bool) -> None:
        self._files = files
        self._begins = begins

    def arm(self) -> None:
        if not self._begins:
            raise Stop
        self._files.arm()


class FaultHarness(Harness):
    """Runs one scenario with one errno, at every operation."""

    def __init__(self, scenario: Scenario, home: Path, code: int, *, lasting: bool) -> None:
        super().__init__(scenario, home)
        if code in {errno.ENOSPC, errno.EDQUOT} and scenario.name.startswith("acknowledge_keep"):
            # Where there is no room for a name in done/, what is processed is deleted.
            self.vanishing = True
        self._code = code
        self._lasting = lasting
        self._ends = 0

    def _judge_end(self, home: Path) -> None:
        """Now and then: it costs as much as all the rest, and tests/crash does it at every point."""
        self._ends += 1
        if self._ends % 4 == 1:
            super()._judge_end(home)

    def wreck(self, number: int | None) -> Wreck:
        """Run the transition on a copy; operation `number` + 1 fails. None: none does."""
        home = self.home / "wreck"
        shutil.rmtree(home, ignore_errors=True)
        copy_tree(self._template, home)
        at = None if number is None else number + 1
        return self._run(home, number, FaultyFiles(self._code, at, lasting=self._lasting), begins=True)

    def _run(self, home: Path, number: int | None, files: FaultyFiles, *, begins: bool) -> Wreck:
        said = Said()
        points = self._arming(files, begins=begins)
        world = World(home, self.clock, files, said, points, self.scenario.queue_name)  # type: ignore[arg-type]
        made = queues.Files
        queues.Files = lambda: files  # type: ignore[misc,assignment]
        try:
            self.scenario.act(world)
        except Stop:
            pass
        except SpoolqError as error:
            self._judge_error(error, files)
        finally:
            queues.Files = made  # type: ignore[misc]
        files.cured = True
        try:
            self._judge_after(world, files)
        except AssertionError as error:
            error.add_note(f"{self.scenario.name}: {os.strerror(self._code)} at {files.failed}")
            raise
        finally:
            for queue in world.opened:
                queue.close()
        return Wreck(
            home,
            number,
            not files.failed,
            files.failed,
            frozenset(line[1] for line in said.of("ended")),
            {line[1]: line[2] for line in said.of("receipt")},
            tuple(line[1] for line in said.of("acknowledged")),
        )

    def _arming(self, files: FaultyFiles, *, begins: bool) -> Any:
        """What is to count when the transition begins."""
        return Arming(files, begins=begins)

    def _judge_error(self, error: SpoolqError, files: FaultyFiles) -> None:
        """Clear, and what to do about it."""
        assert files.failed, f"raised without a fault: {error}"
        assert isinstance(error, (DiskFull, StorageError)), f"{type(error).__name__} for {files.failed}: {error}"
        assert error.hint, f"no hint: {error}"
        assert error.op
        if self._code in {errno.ENOSPC, errno.EDQUOT}:
            assert (type(error), error.exit_code) == (DiskFull, 75), error

    def _judge_after(self, world: World, files: FaultyFiles) -> None:
        """The cause is gone: no litter, no second sync of what failed, and the open queue goes on."""
        assert files.synced_again == [], "a failed fsync was tried again"
        if "unlink" not in MEETS[self._code] or not files.failed:
            litter = set(tmp(world.home)) - set(tmp(self._template))
            assert not litter, f"litter after {files.failed}: {litter}"
        for queue in world.opened:
            if queue._session.is_closed or not queue._directory.root.exists():
                continue
            queue.resume()
            id = queue.enqueue(b"and on", priority=9)
            delivered = {}
            while (message := queue.dequeue()) is not None:
                assert message.id not in delivered
                delivered[message.id] = message
            assert id in delivered, "the queue does not go on"
            delivered.pop(id).ack()
            for message in delivered.values():
                message.release()
            if queue.settings.retention.done_s:
                queue.delete(id)
        assert files.synced_again == [], "a failed fsync was tried again"

    def _expected(self, number: int | None) -> State:
        """How things are had it not begun (0), or had it ended (None), the process having closed in order."""
        home = self.home / "wreck"
        shutil.rmtree(home, ignore_errors=True)
        copy_tree(self._template, home)
        files = FaultyFiles(self._code, None, lasting=False)
        self._run(home, number, files, begins=number is None)
        queue = SpoolQueue.open(home / "spool", clock=self.clock, files=SeamFiles())
        queue.check(fix=True)
        queue.close()
        return state_of(home)


def tmp(home: Path) -> list[str]:
    """What is in `tmp/`, where there is one."""
    path = home / "spool" / "tmp"
    return sorted(os.listdir(path)) if path.exists() else []
