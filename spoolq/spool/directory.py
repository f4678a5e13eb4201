"""The directories of one queue, and the moves of a message between them. Never knows of the index.

Carries out the file side of section 5 of docs/spool-format.md. A method that moves returns False where the name was
not there (somebody else moved it), and raises the system's error for everything else.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from spoolq.clock import Clock
from spoolq.spool.files import Files
from spoolq.spool.names import Name, format_name, parse_name

log = logging.getLogger("spoolq.spool")

FORMAT_TEXT = "spoolq 1\n"
DIRECTORIES = ("tmp", "new", "cur", "done", "dead", "meta", "holders")
STATE_DIRECTORIES = ("done", "dead", "cur", "new")
"""Where messages are; where one is in two of them, the first one named here is believed."""

BALLAST_BYTES = 4 << 20
T = TypeVar("T")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class QueueDirectory:
    """The paths of a queue, as strings, since they are built for every message."""

    def __init__(self, root: Path, files: Files, ballast: str) -> None:
        self.root = root
        self.files = files
        base = os.fspath(root)
        self.base = base
        self.tmp, self.new, self.cur, self.done, self.dead, self.meta, self.holders = (
            f"{base}/{name}" for name in DIRECTORIES
        )
        self.index = f"{base}/index.db"
        self.clean_mark = f"{base}/index.db-clean"
        self.lock = f"{base}/lock"
        self.wake = f"{base}/wake"
        self.paused = f"{base}/paused"
        self.format = f"{base}/FORMAT"
        self.settings = f"{base}/queue.toml"
        self.ballast = ballast

    def of_state(self, state: str) -> str:
        """The directory in which messages of a state are."""
        if state in ("ready", "scheduled"):
            return self.new
        return self.cur if state == "claimed" else f"{self.base}/{state}"

    def temporary(self, name: str) -> str:
        """A path in `tmp/`."""
        return f"{self.tmp}/{name}"

    def aside(self, name: str) -> str:
        """A path in `tmp/` that is nobody else's. Not by pid: in a container that is the same at every start."""
        return f"{self.tmp}/{name}.{Clock().new_id()}"

    def meta_path(self, id: str) -> str:
        """Where the metadata of a message is."""
        return f"{self.meta}/{id}.jsonl"

    # Moves

    def move(self, source: str, target: str) -> bool:
        """Rename; False where the source is not there. A full disk is helped by the ballast, once.

        A directory may need a block for a name, so that a full disk stops renames too.
        """
        try:
            self.files.rename(source, target)
        except FileNotFoundError:  # RACE: somebody moved it by hand; the caller mends the row.
            if not os.path.isdir(os.path.dirname(target)):
                raise
            return False
        except IsADirectoryError:
            # Whoever may drop can foresee the name that a message comes back under.
            self._put_aside(target)
            return self.move(source, target)
        except OSError as error:
            if error.errno not in NO_SPACE or not self.free_ballast():
                raise
            return self.move(source, target)
        return True

    def _put_aside(self, path: str) -> None:
        """A directory that stands in the way gets a name beside it: within its own parent it may be another's."""
        aside = f"{os.path.dirname(path)}/directory-{Clock().new_id()}"
        log.warning("directory.in_the_way path=%s renamed=%s", path, aside)
        self.files.rename_new(path, aside)

    def remove(self, path: str) -> bool:
        """Unlink; False where it is not there."""
        return self.files.unlink_if_there(path)

    def free_ballast(self) -> bool:
        """Give its blocks to whoever needs them now; False where that was done before, or cannot be."""
        try:
            return self.files.unlink_if_there(self.ballast)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO):
                raise
            return False

    def helped(self, act: Callable[[], T]) -> T:
        """Do something that may need a block, and once more with the ballast freed where the disk is full."""
        try:
            return act()
        except OSError as error:
            if error.errno not in NO_SPACE or not self.free_ballast():
                raise
            return act()

    # Reading

    def names(self, directory: str) -> list[str]:
        """What is in a directory, dot names left out. By path: a kept descriptor misses files on btrfs."""
        return [name for name in os.listdir(directory) if name[0] != "."]

    def each_name(self, directory: str) -> Iterator[str]:
        """The same, one after another, for a directory too large to list at once. Moves meanwhile may hide some."""
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name[0] != ".":
                    yield entry.name

    def locate(self, ids: Iterable[str]) -> dict[str, list[tuple[str, str, Name]]]:
        """Where the files of these messages are: for each id (directory, file name, parsed), the believed one first.

        Lists all four directories once, so ask for many at a time.
        """
        wanted = set(ids)
        found: dict[str, list[tuple[str, str, Name]]] = {id: [] for id in wanted}
        for kind in STATE_DIRECTORIES:
            directory = f"{self.base}/{kind}"
            for text in self.names(directory):
                if text[:36] in wanted and (name := parse_name(text)) is not None:
                    found[name.id].append((directory, text, name))
        return found


def path_in(directory: str, name: Name) -> str:
    """The path of a message of this name."""
    return f"{directory}/{format_name(*name)}"
