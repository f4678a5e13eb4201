"""Ways of breaking spoolq, each with the promise that goes. Applied in the processes of a test, never in the product.

The suites import from here what should make them fail; some are those of tests/crash/test_mutants.py.
"""

from __future__ import annotations

import os

import pytest

from spoolq.spool import consumer, drops, recovery
from spoolq.spool.files import Files
from spoolq.spool.index import Index
from spoolq.spool.probe import Writer
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
    "deaf_to_deaths",
    "fsync_tried_again",
    "lease_ignored",
    "lock_of_the_holder_ignored",
    "no_directory_fsync",
    "no_file_fsync",
    "no_receipt_in_the_name",
    "row_before_rename",
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


def lock_of_the_holder_ignored(patch: pytest.MonkeyPatch) -> None:
    """Nobody lives but oneself."""
    patch.setattr(recovery, "is_alive", lambda directory, name: False)


def acknowledge_without_a_fence_or_lock(patch: pytest.MonkeyPatch) -> None:
    """Claims are taken from the living, who may still acknowledge what others have by then."""
    lock_of_the_holder_ignored(patch)
    acknowledge_without_a_fence(patch)


def writers_ignored(patch: pytest.MonkeyPatch) -> None:
    """Whatever lies in `new/` is whole."""
    for module in (drops, consumer):
        patch.setattr(module, "take_lease", lambda fd: Writer.NONE)
        patch.setattr(module, "lease_holds", lambda fd: True)
