"""Die at every step of a transition, recover, and see that every promise is kept.

A scenario runs in a forked child whose files and SQL are watched: before the n-th operation the child is gone, as by
SIGKILL. For every n, until a run ends unhurt, the wreck is recovered, in each of the ways in which that happens, and
judged:

- each message is in exactly one directory, its bytes as sent, and none that was never sent;
- each message is as it would be had the transition never begun, or as if it had ended: nothing in between;
- what had returned to its caller counts as ended;
- index and files say the same;
- a receipt is good for its own delivery, and for no other;
- 37 hours later nothing is left lying about, and everything that waits is delivered, once.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sqlite3
import stat
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spoolq.errors import LeaseLost
from spoolq.message import Message
from spoolq.models import Problem
from spoolq.settings import Settings, dump
from spoolq.spool import queues
from spoolq.spool.meta import read_meta
from spoolq.spool.names import parse_name
from spoolq.spool.queue import SpoolQueue
from spoolq.testing import FakeClock
from tests.helpers import STATE_DIRECTORIES, SeamFiles, messages, names

DIED = 137
CHILD_LIMIT_S = 30
SWEPT_AFTER_S = 37 * 3600
MOST_POINTS = 2000


class Points:
    """Counts operations, of whatever kind, and ends the process before the one of this number."""

    def __init__(self, die_at: int | None, journal: Journal) -> None:
        self._die_at = die_at
        self._journal = journal
        self._mutex = threading.Lock()
        self._in_sql = False
        self.armed = False
        self.count = 0

    def reach(self, what: str) -> None:
        """Something is about to be done.

        Of several SQL statements in a row the first and the COMMIT count: to die between the others is the same.
        """
        if not self.armed:
            return
        with self._mutex:
            sql = what.startswith("sql")
            if self._in_sql and sql and not what.startswith("sql COMMIT"):
                return
            self._in_sql = sql
            self.count += 1
            if self.count == self._die_at:
                self._journal.say("died", what)
                os._exit(DIED)

    def arm(self) -> None:
        """From here on it counts; number 0 is here."""
        if self._die_at == 0:
            os._exit(DIED)
        self.armed = True


class Journal:
    """What a child says, so that it is known after its death: one line each, by one write."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def say(self, *words: Any) -> None:
        """Something that is true from now on."""
        os.write(self._fd, json.dumps(words).encode() + b"\n")


class CrashFiles(SeamFiles):
    """The seam, each operation a point; writing and removing a tree have points within."""

    noreplace = True

    def __init__(self, points: Points) -> None:
        super().__init__()
        self._points = points

    def before(self, operation: str, *paths: str) -> None:
        self._points.reach(" ".join([operation, *paths]))

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        half = len(data) // 2
        super().write(fd, data[:half])
        super().write(fd, data[half:])

    def rename_new(self, source: str, target: str) -> None:
        if self.noreplace:
            super().rename_new(source, target)
            return
        # Where the system has no renameat2.
        self.before("link", source, target)
        os.link(source, target, follow_symlinks=False)
        self.before("unlink", source)
        os.unlink(source)

    def remove_tree(self, path: str) -> None:
        self.before("remove_tree", path)
        for base, directories, files in os.walk(path, topdown=False):
            for name in files:
                self.before("remove_tree", name)
                os.unlink(os.path.join(base, name))
            for name in directories:
                os.rmdir(os.path.join(base, name))
        os.rmdir(path)


@dataclass
class World:
    """What a scenario works with."""

    home: Path
    clock: FakeClock
    files: SeamFiles
    journal: Journal
    points: Points
    queue_name: str = "default"
    opened: list[SpoolQueue] = field(default_factory=list)

    @property
    def spool(self) -> Path:
        """The spool."""
        return self.home / "spool"

    @property
    def outside(self) -> Path:
        """A directory of the user's on the same device."""
        return self.home / "outside"

    @property
    def root(self) -> Path:
        """The queue's directory."""
        return queues.queue_root(self.spool, self.queue_name)

    @property
    def queue(self) -> SpoolQueue:
        """The queue, opened at the first use."""
        return self.opened[0] if self.opened else self.open()

    def open(self, **options: Any) -> SpoolQueue:
        """The queue as another process opens it."""
        self.opened.append(SpoolQueue.open(self.spool, self.queue_name, clock=self.clock, files=self.files, **options))
        return self.opened[-1]

    def arm(self) -> None:
        """The transition begins: from here on the child dies."""
        self.points.arm()

    def ended(self, *bodies: bytes) -> None:
        """The transition of these has returned to its caller."""
        for body in bodies:
            self.journal.say("ended", body.decode())

    def claim(self, **options: Any) -> Message:
        """A message, whose receipt is known to the judge."""
        message = self.queue.dequeue(**options)
        assert message is not None
        self.claimed(message)
        return message

    def claimed(self, message: Message) -> None:
        """This one was delivered: the judge knows its receipt."""
        self.journal.say("receipt", message.receipt, message.body.decode())

    def acknowledged(self, receipt: str) -> None:
        """An acknowledgement has returned: it is good for ever."""
        self.journal.say("acknowledged", receipt)


@dataclass(frozen=True)
class Scenario:
    """A transition: what is there before, and what is done. `dies`: the one who prepares does not close in order."""

    name: str
    act: Callable[[World], None]
    prepare: Callable[[World], None]
    settings: Settings
    later_s: float = 0
    dies: bool = False
    noreplace: bool = True
    queue_name: str = "default"
    conserves: bool = True
    """Whether every message of before is still somewhere after it."""

    fresh: bool = False
    """Whether there is no spool yet."""

    hows: tuple[str, ...] = ("maintain", "check", "without an index")
    """In which ways the wreck is put in order."""

    afterwards: Callable[[SpoolQueue, State], None] = lambda queue, state: None
    """What must be true of the recovered queue besides; may add messages, which it acknowledges."""


@dataclass(frozen=True)
class Found:
    """A message as its files say."""

    place: str
    attempts: int = 0
    priority: int = 5
    due_at_ms: int | None = None
    label: str | None = None
    arrival: str = ""
    outcomes: tuple[str, ...] = ()

    def like(self, other: Found | None) -> bool:
        """Whether it is the same but for its history."""
        return other is not None and (*self.key(),) == (*other.key(),)

    def key(self) -> tuple[Any, ...]:
        """All but the history."""
        return self.place, self.attempts, self.priority, self.due_at_ms, self.label, self.arrival


State = dict[str, Found]


@dataclass(frozen=True)
class Wreck:
    """What a child left."""

    home: Path
    number: int | None
    unhurt: bool
    at: str
    ended: frozenset[str]
    receipts: dict[str, str]
    acknowledged: tuple[str, ...]


class Harness:
    """Runs one scenario, at every point."""

    def __init__(self, scenario: Scenario, home: Path, *, patch: Callable[[], None] = lambda: None) -> None:
        self.scenario = scenario
        self.home = home
        self.clock = FakeClock()
        self.vanishing = False
        """Whether what has ended may be gone instead."""
        self.otherwise: State = {}
        """How things may be as well, where the index is made anew half-way."""

        self._patch = patch
        """Breaks the code in the child and in the one who recovers: for mutants."""
        self._template = home / "template"

    # Children

    def _fork(self, home: Path, act: Callable[[World], None], die_at: int | None) -> tuple[int, list[list[Any]]]:
        """Run it in a child; its exit status, and what it said."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(reading)
                self._be_child(home, act, die_at, Journal(writing))
                status = 0
            except BaseException:
                Journal(writing).say("failed", traceback.format_exc())
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading, "rb") as said:
            journal = [json.loads(line) for line in said]
        _, code = os.waitpid(pid, 0)
        status = os.waitstatus_to_exitcode(code)
        failures = [words[1] for words in journal if words[0] == "failed"]
        assert not failures, failures[0]
        assert status in {0, DIED}, f"the child ended with {status}"
        return status, journal

    def _be_child(self, home: Path, act: Callable[[World], None], die_at: int | None, journal: Journal) -> None:
        signal.alarm(CHILD_LIMIT_S)
        logging.disable(logging.CRITICAL)
        points = Points(die_at, journal)
        files = CrashFiles(points)
        files.noreplace = self.scenario.noreplace
        connect = sqlite3.connect

        def watched(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            connection = connect(*args, **kwargs)
            connection.set_trace_callback(lambda statement: points.reach(f"sql {statement}"))
            return connection

        sqlite3.connect = watched  # type: ignore[assignment]
        queues.Files = lambda: files  # type: ignore[misc,assignment]
        self._patch()
        act(World(home, self.clock, files, journal, points, self.scenario.queue_name))

    def prepare(self) -> None:
        """What is there before the transition: made once, copied for every point."""
        (self._template / "outside").mkdir(parents=True)
        (self._template / "spool").mkdir(mode=0o700)
        (self._template / "spool" / "queue.toml").write_text(dump(self.scenario.settings))

        def prepare(world: World) -> None:
            if self.scenario.fresh:
                return
            SpoolQueue.open(world.spool, clock=self.clock, files=world.files).close()
            self.scenario.prepare(world)
            if not self.scenario.dies:
                for queue in world.opened:
                    queue.close()

        self._fork(self._template, prepare, None)
        self.clock.advance(self.scenario.later_s)

    def wreck(self, number: int | None) -> Wreck:
        """Run the transition on a copy, up to the operation of this number; None: to its end, and then die."""
        home = self.home / "wreck"
        shutil.rmtree(home, ignore_errors=True)
        copy_tree(self._template, home)
        status, journal = self._fork(home, self.scenario.act, number)
        return Wreck(
            home,
            number,
            status == 0,
            next((words[1] for words in journal if words[0] == "died"), ""),
            frozenset(words[1] for words in journal if words[0] == "ended"),
            {words[1]: words[2] for words in journal if words[0] == "receipt"},
            tuple(words[1] for words in journal if words[0] == "acknowledged"),
        )

    # Recovering

    def recovered(self, wreck: Wreck, how: str) -> SpoolQueue:
        """Another process opens the queue and puts it in order, in one of several ways."""
        spool = wreck.home / "spool"
        root = queues.queue_root(spool, self.scenario.queue_name)
        if how == "without an index":
            for path in root.glob("index.db*"):
                path.unlink()
        name = self.scenario.queue_name if root.exists() else "default"
        clock = later(self.clock, 0)
        queue = SpoolQueue.open(spool, name, clock=clock, files=SeamFiles())
        if how == "retry":
            for receipt in wreck.receipts:
                try:
                    queue.acknowledge(receipt)
                except LeaseLost:
                    continue
                self._retried.append(receipt)
        if how == "check":
            queue.check(fix=True)
            return queue
        for seconds in (61, 2, 2):
            # What is mended in one round is reaped in the next; cur/ is looked through once a minute.
            while queue.maintain():
                pass
            clock.advance(seconds)
        return queue

    # Judging

    def run(self, *hows: str) -> int:
        """Every point, each recovered in each way; how many points there were."""
        self.prepare()
        before = self._expected(0)
        after = self._expected(None)
        number = 0
        while True:
            wreck = self.wreck(number)
            self._judge_all(wreck, before, after, hows or self._hows(number))
            if wreck.unhurt:
                return number
            number += 1
            assert number < MOST_POINTS, "the transition does not end"

    def _hows(self, number: int) -> list[str]:
        """By maintenance always; in the dearer ways in turn, since neighbouring points leave much the same."""
        others = [how for how in self.scenario.hows if how != "maintain"]
        return [*(how for how in self.scenario.hows if how == "maintain"), others[number % len(others)]]

    def _expected(self, number: int | None) -> State:
        """How things are after recovery, had it never begun (0), or had it ended (None)."""
        wreck = self.wreck(number)
        self._retried: list[str] = []
        queue = self.recovered(wreck, "check")
        queue.close()
        return state_of(wreck.home)

    def _judge_all(self, wreck: Wreck, before: State, after: State, hows: Iterable[str]) -> None:
        *_, last = hows
        kept = self.home / "kept"
        shutil.rmtree(kept, ignore_errors=True)
        wreck.home.rename(kept)
        for how in hows:
            shutil.rmtree(wreck.home, ignore_errors=True)
            copy_tree(kept, wreck.home)
            try:
                self._judge(wreck, before, after, how)
                if how == last or wreck.unhurt:
                    self._judge_end(wreck.home)
            except Exception as error:
                error.add_note(
                    f"{self.scenario.name}: died at operation {wreck.number} ({wreck.at or 'unhurt'}),"
                    f" recovered by {how!r}; what is there:\n{listing(wreck.home)}"
                )
                raise
        shutil.rmtree(kept)

    def _judge(self, wreck: Wreck, before: State, after: State, how: str) -> None:
        self._retried = []
        if self.scenario.conserves and not self.vanishing:
            there = {text for texts in bodies(wreck.home).values() for text in texts}
            lost = sent(before) - there
            assert not lost, f"lost even before recovery: {lost}"
        with self.recovered(wreck, how) as queue:
            problems = [*queue.check()]
            left = [each for each in problems if how == "check" or not self._tolerates(each)]
            assert left == [], f"index and files differ: {left}"
            if problems:
                queue.check(fix=True)
                assert [*queue.check()] == [], f"check does not mend {problems}"
            state = state_of(wreck.home)
            self._judge_state(state, before, after, wreck)
            self._judge_receipts(queue, state, wreck, how)
            assert state_of(wreck.home) == state, "a receipt that is worth nothing changed something"
            self.scenario.afterwards(queue, state)

    def _tolerates(self, problem: Problem) -> bool:
        """What nobody looks for without being asked, or not at once (sections 5 and 9 of the document).

        Rows whose file is gone, what was quarantined, and the file of a dead holder that has no claims any more.
        """
        quarantined = problem.kind == "file_without_row" and "/dead/" in problem.path
        return quarantined or problem.kind in {"row_without_file", "dead_holder"}

    def _judge_state(self, state: State, before: State, after: State, wreck: Wreck) -> None:
        strange = state.keys() - before.keys() - after.keys()
        assert not strange, f"never sent: {strange}"
        for key in before.keys() | after.keys():
            found, old, new = state.get(key), before.get(key), after.get(key)
            body = key.partition("/")[2]
            retried = any(wreck.receipts[receipt] == body for receipt in self._retried)
            if retried:
                assert found is None or found.place.endswith("done"), f"{key} was acknowledged, and is {found}"
                continue
            as_new = found == new or (found is not None and found.like(new)) or (found is None and self.vanishing)
            as_old = found == old or (found is not None and found.like(old))
            as_old = as_old or (key in self.otherwise and found == self.otherwise[key])
            if body in wreck.ended:
                assert as_new, f"{key}: what had returned is undone: {found}, not {new}"
            assert as_new or as_old, f"{key} is {found}, neither {old} nor {new}"
            if found is not None:
                known = set(old.outcomes if old else ()) | set(new.outcomes if new else ())
                assert set(found.outcomes) <= known, (
                    f"{key}: a history that nobody wrote: {found.outcomes}, not {known}"
                )
        if self.scenario.conserves and not self.vanishing:
            lost = sent(before) - sent(state)
            assert not lost, f"lost: {lost}"

    def _judge_receipts(self, queue: SpoolQueue, state: State, wreck: Wreck, how: str) -> None:
        """Whoever was told that it is acknowledged is told so again; whose claim has ended is told that."""
        for receipt, body in wreck.receipts.items():
            found = next((each for key, each in state.items() if key.endswith("/" + body)), None)
            remembered = receipt in wreck.acknowledged and how != "without an index"
            if found is not None and found.place == "cur":
                continue
            try:
                queue.acknowledge(receipt)
            except LeaseLost:
                assert not remembered, f"what was acknowledged is not known any more: {receipt}, {found}"
                assert found is None or found.place != "done", f"done, and its receipt not known: {receipt}"
            else:
                assert found is None or found.place == "done", (
                    f"accepted, though its claim has ended: {receipt}, {found}"
                )

    def _judge_end(self, home: Path) -> None:
        """Much later: no litter, and everything that waits is delivered."""
        clock = later(self.clock, SWEPT_AFTER_S)
        name = self.scenario.queue_name if self.scenario.queue_name in roots(home) else "default"
        with SpoolQueue.open(home / "spool", name, clock=clock, files=SeamFiles()) as queue:
            queue.resume()
            queue.clean()
            while queue.maintain():
                pass
            root = queue._directory.root
            there = messages(root)
            expected = {
                text[:36]: (read(root / "new" / text), there[text[:36]][0][1].attempts + 1)
                for text in names(root, "new")
                if parse_name(text)
            }
            delivered = {}
            while (message := queue.dequeue()) is not None:
                assert message.id not in delivered, f"{message.id} was delivered twice"
                delivered[message.id] = message.body.decode(), message.attempts
                message.ack()
            assert delivered == expected, "what waits is not what is delivered"
            problems = [*queue.check()]
            assert problems == [], f"in the end index and files differ: {problems}"
            litter = {f"tmp/{each}" for each in (*names(home / "spool", "tmp"), *names(root, "tmp"))}
            mine = {holder.name for holder in queue._session.holders.values()}
            litter |= {f"holders/{each}" for each in names(root, "holders") if each not in mine}
            there = messages(root)
            litter |= {f"meta/{each}" for each in names(root, "meta") if each[:36] not in there}
            assert not litter, f"left lying about: {sorted(litter)}"


def later(clock: FakeClock, seconds: float) -> FakeClock:
    """Another clock, so much later."""
    other = FakeClock(clock.wall_ms(), clock.boot_ms())
    other.advance(clock._ahead_s)
    other.set_wall(clock.wall_ms())
    other._boot_ms = clock.boot_ms()
    other.advance(seconds)
    return other


# What is there


def roots(home: Path) -> dict[str, Path]:
    """The queues, by name."""
    spool = home / "spool"
    found = {"default": spool}
    if (spool / "queues").is_dir():
        found |= {path.name: path for path in (spool / "queues").iterdir()}
    return found


def read(path: Path) -> str:
    """A body, as text; what is not a regular file stands for itself."""
    if not stat.S_ISREG(path.lstat().st_mode):
        return "special"
    return path.read_bytes().decode()


def bodies(home: Path) -> dict[str, list[str]]:
    """All bodies, by directory, whatever they are called; the user's own files, too."""
    found = {}
    for queue, root in roots(home).items():
        for kind in STATE_DIRECTORIES:
            if (root / kind).is_dir():
                found[f"{queue}/{kind}"] = [read(root / kind / name) for name in names(root, kind)]
    found["user"] = [read(path) for path in sorted((home / "outside").iterdir())]
    return found


def state_of(home: Path) -> State:
    """Every message by its body, as its files say; no body twice in one queue."""
    state: State = {}

    def add(key: str, found: Found) -> None:
        assert key not in state, f"{key} is there twice: {state[key]} and {found}"
        state[key] = found

    for queue, root in roots(home).items():
        add(f"queue/{queue}", Found("queue"))
        for kind in STATE_DIRECTORIES:
            for text in names(root, kind) if (root / kind).is_dir() else []:
                name = parse_name(text)
                key = f"{queue}/{read(root / kind / text)}"
                if name is None:
                    add(key, Found(f"{kind}, as {text}"))
                    continue
                meta = read_meta(SpoolPaths(root), name.id)  # type: ignore[arg-type]
                outcomes = tuple(f"{each.outcome}: {each.reason}" for each in meta.history)
                arrival = repr(meta.arrival)
                add(key, Found(kind, name.attempts, name.priority, name.due_at_ms, name.label, arrival, outcomes))
    for path in (home / "outside").iterdir():
        add(f"user/{read(path)}", Found("user"))
    return state


@dataclass(frozen=True)
class SpoolPaths:
    """Just enough of a QueueDirectory to read metadata."""

    root: Path

    def meta_path(self, id: str) -> str:
        """Where the metadata of a message is."""
        return os.fspath(self.root / "meta" / f"{id}.jsonl")


def sent(state: State) -> set[str]:
    """The bodies in it."""
    return {key.partition("/")[2] for key in state if not key.startswith("queue/")}


def listing(home: Path) -> str:
    """Everything that is there, for people."""
    lines = []
    for base, _, files in os.walk(home):
        lines += [os.path.relpath(os.path.join(base, name), home) for name in sorted(files)]
    return "\n".join(f"    {line}" for line in sorted(lines))


def copy_tree(source: Path, target: Path) -> None:
    """Copy a directory with its times, links and special files."""
    links: dict[int, Path] = {}
    for base, directories, files in os.walk(source):
        there = target / os.path.relpath(base, source)
        there.mkdir(mode=0o700, exist_ok=True)
        for name in [*files, *(each for each in directories if os.path.islink(os.path.join(base, each)))]:
            copy_entry(Path(base, name), there / name, links)


def copy_entry(source: Path, target: Path, links: dict[int, Path]) -> None:
    found = source.lstat()
    if stat.S_ISLNK(found.st_mode):
        target.symlink_to(os.readlink(source))
    elif stat.S_ISFIFO(found.st_mode):
        os.mkfifo(target)
    elif found.st_ino in links:
        os.link(links[found.st_ino], target)
    else:
        shutil.copyfile(source, target)
        os.chmod(target, stat.S_IMODE(found.st_mode))
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
        if found.st_nlink > 1:
            links[found.st_ino] = target
