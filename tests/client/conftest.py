"""Clients of a scripted server, and of a live one; none pauses before it tries again."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spoolq.client import HttpQueue, connection, download, open_queue
from spoolq.client.address import parse
from tests.client.scripted import Scripted, Step


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a server to come back, and none has a token by chance."""
    pauses = (0.001, 0.001, 0.001)
    monkeypatch.setattr(connection, "PAUSES_S", pauses)
    monkeypatch.setattr(download, "PAUSES_S", pauses)
    monkeypatch.delenv("SPOOLQ_TOKEN", raising=False)


@pytest.fixture
def scripted() -> Iterator[Callable[..., tuple[HttpQueue, Scripted]]]:
    """`scripted(step, step, ...)`: a queue of a server that takes these steps, and the server."""
    made: list[tuple[HttpQueue, Scripted]] = []

    def begin(*steps: Step, token: str | None = None) -> tuple[HttpQueue, Scripted]:
        server = Scripted(list(steps))
        queue = HttpQueue(parse(server.url + (f"?token={token}" if token else ""), None, {}), detached=True)
        made.append((queue, server))
        return made[-1]

    yield begin
    for queue, server in made:
        queue.close()
        server.close()
        assert server.broken == []


@pytest.fixture(scope="session")
def app_server() -> Iterator[Any]:
    """One uvicorn for the session."""
    from tests.http_server import AppServer

    server = AppServer()
    yield server
    server.close()


@pytest.fixture
def make_app(spool: Path) -> Callable[[], Any]:
    """Makes the app that serves the test's spool."""
    from spoolq.web.app import create_app

    spool.mkdir(mode=0o700)
    (spool / "queue.toml").write_text('durability = "process"\n')
    return lambda: create_app(spool)


@pytest.fixture
def live(app_server: Any, make_app: Callable[[], Any]) -> Iterator[HttpQueue]:
    """A queue of a real server."""
    with app_server.serving(make_app), open_queue(app_server.url) as queue:
        yield queue
