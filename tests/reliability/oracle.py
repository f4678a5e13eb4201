"""What was promised, kept outside the spool: a line by one write after each promise, read by the judge after a crash.

The file is on the machine's own disk, so neither the kill of its writer nor the power cut of the spool's disk takes a
line from it. A promise that was made and not yet written down is not held against anybody.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spoolq.spool.names import Name, parse_name
from tests.helpers import STATE_DIRECTORIES

DIGEST = 64


def sealed(text: str, size: int) -> bytes:
    """A body of about this size that shows by itself whether it is whole."""
    rest = (text + "|").encode() * (1 + size // (len(text) + 1))
    return hashlib.sha256(rest).hexdigest().encode() + rest


def is_whole(body: bytes) -> bool:
    """Whether a sealed body is as it was made."""
    return body[:DIGEST] == hashlib.sha256(body[DIGEST:]).hexdigest().encode()


class Oracle:
    """Appends promises; several processes at once. Open it before the fork."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def say(self, what: str, *words: Any) -> None:
        """Something that is true from now on."""
        os.write(self._fd, json.dumps([what, *words]).encode() + b"\n")

    def size(self) -> int:
        """How much was said so far."""
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        """No more to say."""
        os.close(self._fd)


def read(path: Path, start: int = 0) -> list[list[Any]]:
    """What was said, from a place on."""
    with open(path, "rb") as file:
        file.seek(start)
        return [json.loads(line) for line in file if line.endswith(b"\n")]


@dataclass
class There:
    """A message as its file says."""

    place: str
    name: Name
    body: bytes
    inode: int = 0


def look(root: Path) -> dict[str, list[There]]:
    """Every message of a queue, by its files alone."""
    found: dict[str, list[There]] = {}
    for kind in STATE_DIRECTORIES:
        with os.scandir(root / kind) as entries:
            for entry in entries:
                name = parse_name(entry.name)
                if name is not None and entry.is_file(follow_symlinks=False):
                    found.setdefault(name.id, []).append(
                        There(kind, name, Path(entry.path).read_bytes(), entry.inode())
                    )
    return found


@dataclass
class Book:
    """All promises so far, and what is wrong with how they were kept.

    forgets: whether what was settled may come back (a power cut with durability "power").
    """

    bodies: dict[str, str] = field(default_factory=dict)
    """Every confirmed enqueue: id to the digest of its body."""

    settled: set[str] = field(default_factory=set)
    owners: dict[str, int] = field(default_factory=dict)
    """Whose each claim is, by pid, while it lasts."""

    attempts: dict[str, int] = field(default_factory=dict)
    killed: set[int] = field(default_factory=set)
    claims: int = 0
    acknowledged: int = 0
    redelivered: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def confirmed(self) -> int:
        """How many enqueues have returned."""
        return len(self.bodies)

    def fault(self, kind: str, text: object) -> None:
        """A promise that was not kept."""
        self.faults.append(f"{kind}: {text}")

    def take(self, lines: Iterable[list[Any]]) -> None:
        """Go through what was said, in order."""
        for what, *words in lines:
            getattr(self, f"_{what}")(*words)

    def _enqueued(self, id: str, digest: str) -> None:
        if self.bodies.setdefault(id, digest) != digest:
            self.fault("torn", f"{id} was answered for two bodies")

    def _claimed(self, id: str, pid: int, attempts: int, digest: str | None) -> None:
        self.claims += 1
        before = self.owners.get(id)
        if digest is None or self.bodies.get(id, digest) != digest:
            self.fault("torn", f"{id} was delivered with another body than it was sent with")
        if id in self.settled:
            self.fault("twice", f"{id} was delivered after it had been acknowledged")
        elif before is not None:
            self.redelivered += 1
            if before not in self.killed:
                self.fault("again", f"{id} was delivered to {pid} while {before} held it and lived")
        self.owners[id] = pid
        self.attempts[id] = attempts

    def _acknowledged(self, id: str, pid: int) -> None:
        if id in self.settled:
            self.fault("twice", f"{id} was acknowledged twice")
        if self.owners.get(id, pid) != pid:
            self.fault("again", f"{id} was acknowledged by {pid}, and {self.owners[id]} had it")
        self.acknowledged += 1
        self.settled.add(id)
        self.owners.pop(id, None)

    def _returned(self, id: str, pid: int) -> None:
        """Requeued or released: whoever comes next may have it. The line comes after the deed, perhaps too late."""
        if self.owners.get(id) == pid:
            self.owners.pop(id)

    def _returning(self, id: str, pid: int) -> None:
        self._returned(id, pid)
        self.attempts.pop(id, None)

    def _refused(self, id: str, pid: int, what: str) -> None:
        """LeaseLost, for a claim that nobody has ended."""
        self.fault("again", f"{pid} was refused {what} of {id}, which it held")

    def _torn(self, id: str) -> None:
        self.fault("torn", f"{id} was delivered in part")

    def _killed(self, pid: int) -> None:
        self.killed.add(pid)

    def _failed(self, pid: int, text: str) -> None:
        self.fault("failed", f"{pid}: {text}")

    def _claiming(self, id: str, pid: int) -> None:
        """It holds it, and may have settled it."""
        self.owners[id] = pid

    def _cutting(self) -> None:
        """From here to the cut."""

    def _cut(self) -> None:
        """The power was cut: nobody holds anything any more."""
        self.killed |= set(self.owners.values())

    def compare(
        self, there: dict[str, list[There]], *, forgets: bool, counts: bool = False, links: bool = False
    ) -> None:
        """Hold the files against the promises.

        counts: whether no counted attempt may have been forgotten. links: whether one file may still have the name it
        was moved from, as a crash leaves it and the next opener mends it.
        """
        for id in self.bodies:
            self._compare_one(id, there.get(id, []), forgets=forgets, counts=counts)
        for id, found in there.items():
            if len(found) > 1 and not (links and len({each.inode for each in found}) == 1):
                self.fault("twice", f"{id} is in {[each.place for each in found]}")
            if not all(is_whole(each.body) for each in found):
                self.fault("torn", f"{id}, which nobody was promised, is in part")

    def _compare_one(self, id: str, found: list[There], *, forgets: bool, counts: bool) -> None:
        if id in self.settled:
            if not forgets and any(each.place in ("new", "cur") for each in found):
                self.fault("twice", f"{id} was acknowledged, and is in {found[0].place}/ again")
        elif not found:
            # Gone, but for one that was acknowledged by somebody who did not come to say so.
            if id not in self.owners:
                self.fault("lost", f"{id} is nowhere")
        else:
            if any(digest(each.body) != self.bodies[id] for each in found):
                self.fault("torn", f"{id} is in {found[0].place}/ with {len(found[0].body)} other bytes")
            if counts and found[0].name.attempts < self.attempts.get(id, 0):
                self.fault("forgotten", f"{id} was delivered {self.attempts[id]} times, and {found[0].name}")

    def close_round(self, there: dict[str, list[There]]) -> None:
        """After a crash: what is there is the truth from now on, and what was looked at need not be again."""
        self.settled -= {id for id, found in there.items() if any(each.place in ("new", "cur") for each in found)}
        gone = [id for id in self.bodies if id not in there]
        self.settled.update(gone)
        self.owners.clear()
        self.attempts.clear()


def digest(body: bytes) -> str:
    """What the book keeps of a body."""
    return hashlib.sha256(body).hexdigest()
