"""The engines that the contract suite runs against, and the clock that it moves.

A further engine is a class with `make_queue` and an entry in `ENGINES`; where it cannot do a thing, its capabilities
say so, and `needs` skips the test.
"""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from spoolq import queue as entry
from spoolq.interfaces import Queue
from spoolq.memory import MemoryQueue, MemoryStore
from spoolq.models import Problem
from spoolq.settings import Settings
from spoolq.testing import FakeClock
from tests.postgres_clock import DatabaseClock, emptied

if TYPE_CHECKING:
    from tests.http_server import AppServer


class Engine:
    """Opens queues of one kind, all on one clock, and holds them to account at the end."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.clock: Any = FakeClock()
        self.opened: list[Queue] = []
        self.names: dict[str, Settings] = {}

    def make_queue(self, settings: Settings | None = None, name: str = "default") -> Queue:
        """Open the queue of this name, a further consumer where it is there; `settings` as it is made."""
        self.names.setdefault(name, replace(settings or Settings(), durability="process"))
        queue = self.open(self.names[name], name)
        self.opened.append(queue)
        return queue

    def open(self, settings: Settings, name: str) -> Queue:
        raise NotImplementedError

    def advance(self, seconds: float) -> None:
        """Let time pass, and let each queue do what is due by then."""
        self.clock.advance(seconds)
        for queue in self.opened:
            while queue.maintain():
                pass

    def finish(self) -> None:
        """Check what every queue holds, then close all."""
        problems: list[Problem] = []
        for name, settings in self.names.items():
            with self.open(settings, name) as queue:
                problems += queue.check() if queue.capabilities.check else ()
        for queue in self.opened:
            queue.close()
        assert problems == []


class MemoryEngine(Engine):
    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.stores: dict[str, MemoryStore] = {}

    def open(self, settings: Settings, name: str) -> Queue:
        if name not in self.stores:
            self.stores[name] = MemoryStore(name, settings, self.clock)
        return MemoryQueue(store=self.stores[name])


class SpoolEngine(Engine):
    def open(self, settings: Settings, name: str) -> Queue:
        return self.open_spool(settings, name)

    def open_spool(self, settings: Settings, name: str, *, detached: bool = False) -> Queue:
        """Open the queue as whoever is on its machine does."""
        from spoolq.settings import dump
        from spoolq.spool import queues
        from spoolq.spool.queue import SpoolQueue

        spool = self.home / "spool"
        if not spool.exists():
            spool.mkdir(mode=0o700)
            if name == "default":
                (spool / "queue.toml").write_text(dump(settings))
            else:
                SpoolQueue.open(spool, "default", create=True, clock=self.clock).close()
        if name != "default" and name not in queues.list_queues(spool):
            queues.create_queue(spool, name, settings)
        return SpoolQueue.open(spool, name, create=True, clock=self.clock, detached=detached)


class HttpEngine(SpoolEngine):
    """A spool behind a real server. Server and app are the session's, the spool and the app's life the test's."""

    def __init__(self, server: "AppServer", app: Any, home: Path) -> None:
        super().__init__(home)
        self.server = server
        self.app = app
        self.serving = ExitStack()
        shutil.rmtree(home / "spool", ignore_errors=True)  # of a test that failed
        self.behind: dict[str, Queue] = {}

    def open(self, settings: Settings, name: str) -> Queue:
        from spoolq.client import open_queue

        if name not in self.behind:
            self.behind[name] = self.open_spool(settings, name, detached=True)
        if len(self.behind) == 1 and not self.opened:
            self._serve()
        return open_queue(f"{self.server.url}/queues/{name}")

    def _serve(self) -> None:
        """The server opens its queues by `spoolq.queue.open_queue`: here they are on the test's clock."""

        def opens(url, *, queue=None, create=True, detached=False):
            return self.open_spool(Settings(), queue or "default", detached=detached)

        patch = self.serving.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(entry, "open_queue", opens)
        self.serving.enter_context(self.server.serving(lambda: self.app))

    def advance(self, seconds: float) -> None:
        """Let time pass; on a server's machine somebody keeps the queues in order."""
        self.clock.advance(seconds)
        for queue in self.behind.values():
            while queue.maintain():
                pass

    def finish(self) -> None:
        """Close the clients, stop the server, and look at what it leaves."""
        for queue in self.opened:
            queue.close()
        self.serving.close()
        problems = [problem for queue in self.behind.values() for problem in queue.check()]
        for queue in self.behind.values():
            queue.close()
        shutil.rmtree(self.home / "spool", ignore_errors=True)
        assert problems == []


class PostgresEngine(Engine):
    """A database of the session's, empty. `clock` is the database's time, and this host's."""

    def __init__(self, dsn: str, home: Path) -> None:
        super().__init__(home)
        self.dsn = dsn
        emptied(dsn)
        self.clock = DatabaseClock(dsn)

    def open(self, settings: Settings, name: str) -> Queue:
        from spoolq import postgres

        if name != "default" and name not in postgres.list_queues(self.dsn):
            postgres.create_queue(self.dsn, name).close()
        queue = postgres.open_queue(self.dsn, queue=name, clock=self.clock)
        if queue.settings == Settings() != settings and name not in {each.name for each in self.opened}:
            queue.change_settings(settings)
        return queue

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.clock.close()


ENGINES = ("memory", "spool", "http", "postgres")
_NEEDS = {
    "memory": (),
    "spool": ("spoolq.spool.queue",),
    "http": ("spoolq.web", "httpx", "uvicorn", "fastapi"),
    "postgres": ("psycopg", "psycopg_pool"),
}


def _missing(name: str) -> bool:
    return any(importlib.util.find_spec(module) is None for module in _NEEDS[name])


@pytest.fixture(scope="session")
def new_http_engine(tmp_path_factory):
    """Engines on one uvicorn and one app, since both take longer to make than most tests; one at a time."""
    from spoolq.web.app import create_app
    from tests.http_server import AppServer

    memory = Path("/dev/shm")
    home = memory / f"spoolq-contract-{os.getpid()}" if memory.is_dir() else tmp_path_factory.mktemp("http")
    home.mkdir(mode=0o700, exist_ok=True)
    server = AppServer()
    app = create_app(home / "spool")
    yield lambda: HttpEngine(server, app, home)
    server.close()
    shutil.rmtree(home)


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path) -> Iterator[Engine]:
    if _missing(request.param):
        if os.environ.get("CI"):
            pytest.fail(f"the engine {request.param} is not there")
        pytest.skip(f"the engine {request.param} is not there yet")
    engine: Engine
    if request.param == "postgres":
        engine = PostgresEngine(request.getfixturevalue("postgres").dsn(), tmp_path)
    elif request.param == "http":
        engine = request.getfixturevalue("new_http_engine")()
    else:
        engine = {"memory": MemoryEngine, "spool": SpoolEngine}[request.param](tmp_path)
    yield engine
    engine.finish()


@pytest.fixture
def queue(engine):
    """A queue with default settings."""
    return engine.make_queue()


@pytest.fixture
def clock(engine):
    return engine.clock


@pytest.fixture
def needs(engine):
    """`needs(queue, "paths")` skips where the engine declares that it has no such thing."""

    def skip_without(queue: Queue, capability: str) -> None:
        if not getattr(queue.capabilities, capability):
            pytest.skip(f"{type(queue).__name__} declares no {capability}")

    return skip_without


@pytest.fixture
def body_of():
    """The body of a message in any state, by its id."""

    def read(queue: Queue, message_id: str) -> bytes:
        with queue.read_body(message_id) as file:
            return file.read()

    return read


@pytest.fixture
def drain():
    """Deliver and acknowledge everything that is ready now; the bodies in the order of delivery."""

    def deliver_all(queue: Queue) -> list[bytes]:
        bodies = []
        while (message := queue.dequeue()) is not None:
            bodies.append(message.body)
            message.ack()
        return bodies

    return deliver_all
