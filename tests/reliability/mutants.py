"""Ways of breaking spoolq, each with the promise that goes. Applied in the processes of a test, never in the product.

The suites import from here what should make them fail; some are those of tests/crash/test_mutants.py.
"""

from __future__ import annotations

import os

import pytest

from spoolq.clock import Clock
from spoolq.models import NewMessage
from spoolq.relay import carrying
from spoolq.spool import by_names, claiming, drops, files, index, producer, recovery
from spoolq.spool.believing import Standing
from spoolq.spool.directory import QueueDirectory
from spoolq.spool.files import Files
from spoolq.spool.holders import read_holder
from spoolq.spool.index import Index
from spoolq.spool.probe import Writer
from spoolq.testing import FakeClock
from spoolq.web import security
from tests.crash.test_mutants import (
    acknowledge_without_a_fence,
    deaf_to_deaths,
    no_receipt_in_the_name,
    row_before_rename,
    trusting_the_row,
)

__all__ = [
    "acknowledge_without_a_fence",
    "acknowledge_without_a_fence_or_lock",
    "alive_by_pid",
    "any_boot_is_this_one",
    "any_host_is_ours",
    "boot_clock_by_the_wall",
    "damage_unseen",
    "deaf_to_deaths",
    "fsync_tried_again",
    "lease_ignored",
    "leases_by_the_wall_clock",
    "links_followed",
    "lock_of_the_holder_ignored",
    "names_as_they_come",
    "no_directory_fsync",
    "no_file_fsync",
    "no_going_on_without_an_index",
    "no_receipt_in_the_name",
    "nobody_is_woken",
    "row_before_rename",
    "sent_without_a_key",
    "trusting_the_row",
    "writers_ignored",
]


def no_file_fsync(patch: pytest.MonkeyPatch) -> None:
    """Bodies are left to the system; directories are synced."""

    def sync_directory(self: Files, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)

    patch.setattr(Files, "fsync", lambda self, fd: None)
    patch.setattr(Files, "sync_directory", sync_directory)


def no_directory_fsync(patch: pytest.MonkeyPatch) -> None:
    """Names are left to the system."""
    patch.setattr(Files, "sync_directory", lambda self, path: None)


def fsync_tried_again(patch: pytest.MonkeyPatch) -> None:
    """What failed is asked for once more, and then said to be there."""

    def again(self: Files, fd: int) -> None:
        try:
            os.fsync(fd)
        except OSError:
            os.fsync(fd)

    patch.setattr(Files, "fsync", again)


def lease_ignored(patch: pytest.MonkeyPatch) -> None:
    """Every claim with a deadline is past it."""
    claims_past = Index.claims_past
    patch.setattr(Index, "claims_past", lambda self, now, limit: claims_past(self, now + 10**12, limit))
    patch.setattr(recovery.looks, "overdue", lambda db, boot, wall: (True, False))


def boot_clock_by_the_wall(patch: pytest.MonkeyPatch) -> None:
    """A lease ends when the wall clock says so, in a real process."""
    patch.setattr(Clock, "boot_ms", Clock.wall_ms)


def lock_of_the_holder_ignored(patch: pytest.MonkeyPatch) -> None:
    """Nobody lives but oneself."""
    patch.setattr(recovery, "is_alive", lambda directory, name: False)


def alive_by_pid(patch: pytest.MonkeyPatch) -> None:
    """Who has the number that a holder's file names is the one who wrote it."""

    def is_alive(directory: QueueDirectory, name: str) -> bool:
        return os.path.exists(f"/proc/{read_holder(directory, name).get('pid', 0)}")

    patch.setattr(recovery, "is_alive", is_alive)


def any_boot_is_this_one(patch: pytest.MonkeyPatch) -> None:
    """An index is believed, whichever boot it was written in."""
    patch.setattr(Standing, "_is_of_now", lambda self, info: True)


def acknowledge_without_a_fence_or_lock(patch: pytest.MonkeyPatch) -> None:
    """Claims are taken from the living, who may still acknowledge what others have by then."""
    lock_of_the_holder_ignored(patch)
    acknowledge_without_a_fence(patch)


def writers_ignored(patch: pytest.MonkeyPatch) -> None:
    """Whatever lies in `new/` is whole."""
    for module in (drops, claiming):
        patch.setattr(module, "take_lease", lambda fd: Writer.NONE)
        patch.setattr(module, "lease_holds", lambda fd: True)


# For the suites that test_suites_can_fail.py runs


def damage_unseen(patch: pytest.MonkeyPatch) -> None:
    """Whatever SQLite says of an index, it is believed to be whole."""
    patch.setattr(index, "is_damage", lambda error: False)


def nobody_is_woken(patch: pytest.MonkeyPatch) -> None:
    """Nobody is told that there is something to do."""
    patch.setattr(Files, "touch", lambda self, path: None)


def links_followed(patch: pytest.MonkeyPatch) -> None:
    """A link in `new/` leads wherever it points."""
    patch.setattr(files, "_OPEN_MESSAGE", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def names_as_they_come(patch: pytest.MonkeyPatch) -> None:
    """A label is not cleaned."""
    for module in (producer, drops):
        patch.setattr(module, "clean_name", lambda text: text, raising=False)


def leases_by_the_wall_clock(patch: pytest.MonkeyPatch) -> None:
    """A lease ends when the wall clock says so, whoever set it."""
    patch.setattr(FakeClock, "boot_ms", FakeClock.wall_ms)


def no_going_on_without_an_index(patch: pytest.MonkeyPatch) -> None:
    """Where the index cannot be written, nothing can be done, and there is no ballast."""

    def refuse(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    patch.setattr(by_names, "NamesOnly", refuse)
    patch.setattr(QueueDirectory, "free_ballast", lambda self: False)


def any_host_is_ours(patch: pytest.MonkeyPatch) -> None:
    """Whatever name a request is for, it is answered."""
    patch.setattr(security.Names, "_is_host", lambda self, host: True)


def sent_without_a_key(patch: pytest.MonkeyPatch) -> None:
    """The relay's target cannot know what it has already."""
    made = carrying.NewMessage

    def keyless(**words: object) -> NewMessage:
        return made(**(words | {"dedup_key": None}))  # type: ignore[arg-type]

    patch.setattr(carrying, "NewMessage", keyless)
