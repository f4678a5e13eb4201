"""A client of a scripted server, which tries again without pausing."""

from collections.abc import Callable, Iterator

import pytest

from spoolq.client import HttpQueue, connection, download
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
