"""Fixtures for the tests with real processes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spoolq.spool.queue import SpoolQueue
from tests.conftest import check_spool
from tests.spool.helpers import Child


@pytest.fixture(autouse=True)
def _no_syncs(monkeypatch):
    """Killing a process cannot show a missing fsync, so none is made."""
    monkeypatch.setenv("SPOOLQ_DURABILITY", "process")


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Path]:
    """Where a spool may be made, on a disk; at the end every queue in it is checked."""
    path = tmp_path / "spool"
    yield path
    check_spool(path)


@pytest.fixture
def queue(open_queue: Callable[..., SpoolQueue]) -> SpoolQueue:
    """The queue "default" of `spool`."""
    return open_queue()


@pytest.fixture
def child(spool: Path) -> Iterator[Callable[..., Child]]:
    """`child(name="default", **options)`: a process that has a queue of `spool` open; killed at the end."""
    started: list[Child] = []

    def start(name: str = "default", **options: Any) -> Child:
        started.append(Child(spool, name, **options))
        return started[-1]

    yield start
    for each in started:
        each.dispose()
