"""What a disk may hold after a crash, by what a transition asked of the system: all that no fsync has pinned down.

The calls are taken from strace. A file's bytes are on the disk once it was synced, and until then none, half, all, or
zeros of them. A change of names is there once its directory was synced, and until then it may be or not, whatever is
true of others; only those of one file stay in order, and who syncs a file has its name as well. Ext4, xfs and btrfs
keep no less than that; mostly they keep more.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.harness import Wreck, copy_tree
from tests.helpers import STATE_DIRECTORIES
from tests.reliability.figures import count
from tests.reliability.strace import StraceHarness

TRACED = (
    *("openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "renameat2", "link", "linkat", "unlink"),
    *("unlinkat", "ftruncate", "copy_file_range", "lseek", "mkdir", "mkdirat", "rmdir", "writev"),
)
AS_HEX = ("-y", "-xx", "-s", "1000000", "-e", f"trace={','.join(TRACED)}")
CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += +(-?\d+)")
SAME = {"fdatasync": "fsync", "renameat2": "rename", "linkat": "link", "unlinkat": "unlink", "mkdirat": "mkdir"}
SAME["rmdir"] = "unlink"
TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"|<((?:\\x[0-9a-f]{2})*)>')
MOST = count(8, 32)
"""Of one place, so many states are tried, chosen by chance where there are more."""


@dataclass(frozen=True)
class Step:
    """What was asked. kind: create, truncate, write, copy, link, unlink, rename, mkdir, sync, said.

    at: where, -1 for the end.
    """

    kind: str
    path: str = ""
    to: str = ""
    at: int = 0
    data: bytes = b""


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _calls(log: str) -> Iterator[tuple[str, str, int]]:
    """Every call that did not fail: its name, its arguments, what it returned."""
    begun: dict[str, str] = {}
    for said in log.splitlines():
        # What another thread interrupts is told in two parts: it is done where the second stands.
        line, pid = said, said.partition(" ")[0]
        if line.endswith("<unfinished ...>"):
            begun[pid] = line.removesuffix("<unfinished ...>")
            continue
        if " resumed>" in line and "<... " in line:
            line = begun.pop(pid, "") + line.partition(" resumed>")[2]
        match = CALL.match(line)
        if match is not None and int(match[3]) >= 0:
            yield match[1], match[2], int(match[3])


class Reader:
    """Makes steps of calls in the tree `home`, but for the index, and of what the process said meanwhile."""

    def __init__(self, home: Path) -> None:
        self._home = os.fsencode(home)
        self._offsets: dict[int, int] = {}

    def steps(self, log: str) -> Iterator[Step]:
        """In order."""
        for call, words, result in _calls(log):
            texts = [_bytes(one or other) for one, other in TEXT.findall(words)]
            if call == "writev" and texts[0].startswith(b"pipe:"):
                yield from (Step("said", data=text) for text in texts[1].splitlines())
                continue
            if call.endswith(("unlinkat", "mkdirat", "openat")) and len(texts) > 1 and not texts[1].startswith(b"/"):
                texts = [os.path.join(*texts[:2]), *texts[2:]]
            paths = [os.fsdecode(text) for text in texts if text.startswith(self._home) and b"/index" not in text]
            if call == "openat":
                self._offsets[result] = 0
            if paths:
                yield from getattr(self, f"_{SAME.get(call, call)}")(words, paths, texts, result)

    def _mkdir(self, words: str, paths: list[str], texts: list[bytes], result: int) -> Iterator[Step]:
        yield Step("mkdir", paths[0])

    def _openat(self, words: str, paths: list[str], texts: list[bytes], result: int) -> Iterator[Step]:
        if "O_CREAT" in words:
            yield Step("create", paths[0])
        if "O_TRUNC" in words:
            yield Step("truncate", paths[0])
        if "O_APPEND" in words:
            self._offsets[result] = -1

    def _write(self, words: str, paths: list[str], texts: list[bytes], result: int) -> Iterator[Step]:
        fd = int(words.split("<", maxsplit=1)[0])
        at = self._offsets.get(fd, 0)
        yield Step("write", paths[0], at=at, data=texts[1][:result])
        if at >= 0:
            self._offsets[fd] = at + result

    def _pwrite64(self, words: str, paths: list[str], texts: list[bytes], result: int) -> Iterator[Step]:
        yield Step("write", paths[0], at=int(words.rsplit(",", 1)[1]), data=texts[1][:result])

    def _lseek(self, words: str, paths: list[str], texts: list[bytes], result: int) -> Iterator[Step]:
        fd = int(words.split("<", maxsplit=1)[0])
        if self._offsets.get(fd, 0) >= 0:
            self._offsets[fd] = result
        yield from ()

    def _ftruncate(self, words: str, paths: list[str], texts: list[bytes], result: int) -> Iterator[Step]:
        if int(words.rsplit(",", 1)[1]) == 0:
            yield Step("truncate", paths[0])

    def _copy_file_range(self, words: str, paths: list[str], texts: list[bytes], result: int) -> Iterator[Step]:
        # Between whole files, in order: what the source has from where the other ends.
        yield Step("copy", paths[-1], to=paths[0], at=result)

    def _fsync(self, words: str, paths: list[str], texts: list[bytes], result: int) -> Iterator[Step]:
        yield Step("sync", paths[0])

    def _rename(self, words: str, paths: list[str], texts: list[bytes], result: int) -> Iterator[Step]:
        if len(paths) == 2:  # and not to or from a name of the index
            yield Step("rename", paths[0], paths[1])

    def _link(self, words: str, paths: list[str], texts: list[bytes], result: int) -> Iterator[Step]:
        yield Step("link", paths[0], paths[1])

    def _unlink(self, words: str, paths: list[str], texts: list[bytes], result: int) -> Iterator[Step]:
        yield Step("unlink", paths[0])


@dataclass
class File:
    """One file: its bytes that are safe, what was written since, where it may or may not be."""

    safe: bytes
    now: bytes
    mtime_ns: int = 0
    mode: int = stat.S_IFREG
    """A link, whose bytes are where it leads, or a FIFO or directory, which has none: they are never written to."""

    @classmethod
    def read(cls, path: str) -> File:
        """As it is, all of it safe."""
        found = os.lstat(path)
        data = b""
        if stat.S_ISLNK(found.st_mode):
            data = os.fsencode(os.readlink(path))
        elif stat.S_ISREG(found.st_mode):
            data = Path(path).read_bytes()
        return cls(data, data, found.st_mtime_ns, stat.S_IFMT(found.st_mode))

    def lay(self, path: str, data: bytes) -> None:
        """Make it, with these bytes."""
        if stat.S_ISDIR(self.mode):
            os.mkdir(path, 0o700)
        elif stat.S_ISFIFO(self.mode):
            os.mkfifo(path, 0o600)
        elif stat.S_ISLNK(self.mode):
            os.symlink(os.fsdecode(data), path)
        else:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as writing:
                writing.write(data)
        if self.mtime_ns and not stat.S_ISDIR(self.mode):
            os.utime(path, ns=(self.mtime_ns,) * 2, follow_symlinks=False)

    def choices(self) -> list[bytes]:
        """What may be on the disk."""
        if self.safe == self.now:
            return [self.now]
        new = self.now.removeprefix(self.safe)
        kept = self.now[: len(self.now) - len(new)]
        return [self.safe, self.now, kept + new[: len(new) // 2], kept + bytes(len(new))]


Place = tuple[int, str]
"""A name in a directory, which is a file by number: it may be moved with all that is in it."""

Names = dict[Place, int]
ROOT = 0


@dataclass
class Change:
    """Of names, not yet on the disk: all of it or nothing."""

    file: int
    removes: Place | None = None
    adds: Place | None = None

    @property
    def directory(self) -> int:
        """Whose sync pins it."""
        place = self.adds or self.removes
        assert place is not None
        return place[0]


@dataclass
class Disk:
    """Everything below a directory: files by number, and which names are on the disk."""

    home: str
    files: list[File] = field(default_factory=lambda: [File(b"", b"", mode=stat.S_IFDIR)])
    safe: Names = field(default_factory=dict)
    now: Names = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)

    @classmethod
    def read(cls, home: Path) -> Disk:
        """As it is, all of it safe."""
        disk = cls(os.fspath(home))
        inodes: dict[int, int] = {}
        for base, directories, names in os.walk(home):
            for name in (*directories, *names):
                path = os.path.join(base, name)
                inode = os.lstat(path).st_ino
                if "/index" in path:
                    continue
                if inode not in inodes:
                    inodes[inode] = len(disk.files)
                    disk.files.append(File.read(path))
                disk.now[disk._place(path)] = inodes[inode]
        disk.safe = dict(disk.now)
        return disk

    def _number(self, path: str) -> int:
        number = ROOT
        for name in path.removeprefix(self.home).split("/"):
            if name:
                number = self.now[number, name]
        return number

    def _place(self, path: str) -> Place:
        return self._number(os.path.dirname(path)), os.path.basename(path)

    def take(self, step: Step) -> None:
        """What a step does."""
        getattr(self, f"_{step.kind}")(step)

    def _create(self, step: Step, mode: int = stat.S_IFREG) -> None:
        place = self._place(step.path)
        if place not in self.now:
            self.now[place] = len(self.files)
            self.files.append(File(b"", b"", mode=mode))
            self.pending.append(Change(self.now[place], adds=place))

    def _mkdir(self, step: Step) -> None:
        self._create(step, stat.S_IFDIR)

    def _truncate(self, step: Step) -> None:
        self.files[self._number(step.path)].now = b""

    def _write(self, step: Step) -> None:
        file = self.files[self._number(step.path)]
        at = len(file.now) if step.at < 0 else step.at
        file.now = file.now[:at].ljust(at, b"\0") + step.data + file.now[at + len(step.data) :]

    def _copy(self, step: Step) -> None:
        file, source = self.files[self._number(step.path)], self.files[self._number(step.to)]
        file.now += source.now[len(file.now) : len(file.now) + step.at]

    def _rename(self, step: Step) -> None:
        source, target = self._place(step.path), self._place(step.to)
        number = self.now.pop(source)
        self.now[target] = number
        self.pending.append(Change(number, source, target))

    def _link(self, step: Step) -> None:
        place = self._place(step.to)
        number = self.now[place] = self._number(step.path)
        self.pending.append(Change(number, adds=place))

    def _unlink(self, step: Step) -> None:
        place = self._place(step.path)
        if place in self.now:
            self.pending.append(Change(self.now.pop(place), removes=place))

    def _sync(self, step: Step) -> None:
        number = self._number(step.path)
        if not stat.S_ISDIR(self.files[number].mode):
            self.files[number].safe = self.files[number].now
            self._pin([change for change in self.pending if change.file != number])
            return
        kept: list[Change] = []
        # A change that is pinned pins those of the same file before it.
        pinned: set[int] = set()
        for change in reversed(self.pending):
            if change.directory == number or change.file in pinned:
                pinned.add(change.file)
            else:
                kept.append(change)
        self._pin(kept[::-1])

    def _pin(self, kept: list[Change]) -> None:
        """All but these are on the disk."""
        for change in self.pending:
            if change not in kept:
                _apply(self.safe, change)
        self.pending = kept

    def _said(self, step: Step) -> None:
        """It changes nothing."""

    def states(self, chance: random.Random) -> Iterator[State]:
        """What may be on the disk now."""
        per_file: dict[int, list[Change]] = {}
        for change in self.pending:
            per_file.setdefault(change.file, []).append(change)
        # Of each file a beginning of its changes; of its bytes a choice.
        orders = [range(len(changes) + 1) for changes in per_file.values()]
        dirty = [number for number, file in enumerate(self.files) if len(file.choices()) > 1]
        bytes_of = [self.files[number].choices() for number in dirty]
        several = 1
        for each in (*orders, *bytes_of):
            several *= len(each)
        everything = itertools.product(itertools.product(*orders), itertools.product(*bytes_of))
        if several > MOST:
            picked = ((tuple(map(chance.choice, orders)), tuple(map(chance.choice, bytes_of))) for _ in range(MOST))
        else:
            picked = everything  # type: ignore[assignment]
        for lengths, contents in picked:
            names = dict(self.safe)
            done = dict(zip(per_file, lengths, strict=True))
            seen = dict.fromkeys(per_file, 0)
            for change in self.pending:
                seen[change.file] += 1
                if seen[change.file] <= done[change.file]:
                    _apply(names, change)
            yield self._reached(names, dict(zip(dirty, contents, strict=True)))

    def _reached(self, names: Names, data: dict[int, bytes]) -> State:
        """What is found from the top: each path, the file it is, its bytes."""
        within: dict[int, list[tuple[str, int]]] = {}
        for (directory, name), number in names.items():
            within.setdefault(directory, []).append((name, number))
        state: State = []
        ahead = [(self.home, ROOT)]
        while ahead:
            base, directory = ahead.pop()
            for name, number in sorted(within.get(directory, [])):
                path = f"{base}/{name}"
                state.append((path, number, data.get(number, self.files[number].now)))
                if stat.S_ISDIR(self.files[number].mode):
                    ahead.append((path, number))
        return state


State = list[tuple[str, int, bytes]]


def _apply(names: Names, change: Change) -> None:
    if change.removes and names.get(change.removes) == change.file:
        del names[change.removes]
    if change.adds:
        names[change.adds] = change.file


class LegalStates(StraceHarness):
    """Every place of a transition, and every disk that a power cut there may leave."""

    places = 0
    states = 0

    def _judge_queues(self, wreck: Wreck) -> None:
        """Whoever was told that a queue is made or deleted finds it so, before anybody has mended anything."""
        emails = wreck.home / "spool" / "queues" / "emails"
        if "emails" in wreck.ended:
            made = self.scenario.name == "make_queue"
            assert emails.exists() == made, f"emails is {'not ' * made}there"
            assert not made or {*STATE_DIRECTORIES, "FORMAT", "queue.toml"} <= {*os.listdir(emails)}, (
                "emails is in part"
            )

    def _observe(self) -> list[Step]:
        home = self.home / "wreck"
        shutil.rmtree(home, ignore_errors=True)
        copy_tree(self._template, home)
        _, _, log = self._traced(home, *AS_HEX)
        return [*Reader(home).steps(log)]

    def _wait_for_tracer(self, pid: int) -> None:
        """It has stopped where the transition begins; whatever was done before is on the disk."""
        super()._wait_for_tracer(pid)
        self.disk = Disk.read(self.home / "wreck")

    def run(self, *hows: str) -> int:
        """How many states were tried; each is put in order without an index, and judged."""
        self.prepare()
        before, after = self._expected(0), self._expected(None)
        steps = self._observe()
        chance = random.Random(len(steps))
        ended: set[str] = set()
        seen: set[object] = set()
        for number in range(len(steps) + 1):
            self.places += 1
            for state in self.disk.states(chance):
                known = (frozenset(ended), *state)
                if known in seen:
                    continue
                seen.add(known)
                self.states += 1
                wreck = self._lay(number, state, ended)
                self._judge_queues(wreck)
                self._judge_all(wreck, before, after, hows or ("without an index",))
            if number < len(steps):
                step = steps[number]
                self.disk.take(step)
                if step.kind == "said" and (words := json.loads(step.data))[0] == "ended":
                    ended.add(words[1])
        return self.states

    def _lay(self, number: int, state: State, ended: set[str]) -> Wreck:
        """Make the disk in the wreck's place."""
        home = self.home / "wreck"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        first: dict[int, str] = {}
        for path, file, data in state:
            if file in first:
                os.link(first[file], path, follow_symlinks=False)
                continue
            first[file] = path
            self.disk.files[file].lay(path, data)
        return Wreck(home, number, False, f"step {number}", frozenset(ended), {}, ())
