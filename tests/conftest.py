"""Fixtures for all tests."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from spoolq.spool import queues
from spoolq.spool.queue import SpoolQueue
from tests.helpers import messages, wait_for

if TYPE_CHECKING:
    from tests.postgres_server import Server


def check_spool(path: Path, **options: Any) -> None:
    """Each message of each queue is in exactly one directory, and index and files say the same.

    A consumer that the test killed may still be in `holders/`: whoever comes next reaps it.
    """
    if not (path / "FORMAT").exists():
        return
    for name in queues.list_queues(path):
        places = messages(queues.queue_root(path, name))
        assert {id: where for id, where in places.items() if len(where) > 1} == {}, f"{name}: in several places"
        with SpoolQueue.open(path, name, create=False, **options) as queue:
            assert [each for each in queue.check() if each.kind != "dead_holder"] == [], f"queue {name}"


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    """An empty directory in memory where there is one, for tests that make and remove hundreds of spools."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    # A name that no other run has: several go on at once, and pytest-xdist calls each first worker alike.
    path = Path(tempfile.mkdtemp(prefix="spoolq-test-", dir=memory))
    yield path
    # A process that the test killed may still be on its way out, and write.
    wait_for(lambda: shutil.rmtree(path, ignore_errors=True) or not path.exists())


@pytest.fixture
def spool(fast_path: Path) -> Iterator[Path]:
    """Where a spool may be made; at the end every queue in it is checked."""
    path = fast_path / "spool"
    yield path
    check_spool(path)


@pytest.fixture
def open_queue(spool: Path) -> Iterator[Callable[..., SpoolQueue]]:
    """`open_queue(name="default", **options)` opens a queue of `spool`, and closes it before the spool is checked."""
    opened: list[SpoolQueue] = []

    def opens(name: str = "default", **options: Any) -> SpoolQueue:
        opened.append(SpoolQueue.open(spool, name, **options))
        return opened[-1]

    yield opens
    for queue in reversed(opened):
        queue.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator["Server"]:
    """A PostgreSQL of this session's own, with our schema in it."""
    from tests.postgres_server import running

    with running() as server:
        yield server
