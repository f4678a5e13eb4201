"""One real uvicorn for all tests of a session, in a thread, on a free port of the loopback; each test brings its app.

Starting uvicorn takes 50 ms, and the contract alone has hundreds of tests. What a server process alone can show (kills,
signals, several workers) is in tests/web.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from spoolq.web.server import Protocol
from tests.helpers import LIMIT_S

App = Callable[[Any, Any, Any], Awaitable[None]]


class _Server(uvicorn.Server):
    """Says when it answers, and in which loop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.answers = threading.Event()
        self.loop: asyncio.AbstractEventLoop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.answers.set()


class _Lifespan:
    """An app's life, as uvicorn would let it live."""

    def __init__(self, app: App) -> None:
        self._inbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._outbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        self._task = asyncio.ensure_future(app(scope, self._inbox.get, self._outbox.put))

    async def go(self, step: str) -> None:
        await self._inbox.put({"type": f"lifespan.{step}"})
        answer = asyncio.ensure_future(self._outbox.get())
        await asyncio.wait((answer, self._task), timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            self._task.result()
            raise AssertionError(f"the app ended, or waits, at {step}")
        assert answer.result()["type"] == f"lifespan.{step}.complete", answer.result()


class AppServer:
    """The server. `serving(app)` lets it answer by that app; `url` is where."""

    def __init__(self, listener: socket.socket | None = None) -> None:
        self._socket = listener or socket.create_server(("127.0.0.1", 0))
        self.url = "" if listener else f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._app: App | None = None
        config = uvicorn.Config(
            self._answer,
            http=Protocol,
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        run = {"sockets": [self._socket]}
        self._thread = threading.Thread(target=self._server.run, kwargs=run, name="test-server", daemon=True)
        self._thread.start()
        assert self._server.answers.wait(LIMIT_S)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        assert self._app is not None, "a request outside of a test"
        await self._app(scope, receive, send)

    @contextmanager
    def serving(self, make: Callable[[], App]) -> Iterator[App]:
        """Answer by the app that `make` makes, in the server's thread, from its startup to its shutdown."""
        app, lifespan = self._run(self._begin(make))
        self._app = app
        try:
            yield app
        finally:
            self._run(lifespan.go("shutdown"))
            self._app = None

    async def _begin(self, make: Callable[[], App]) -> tuple[App, _Lifespan]:
        app = make()
        lifespan = _Lifespan(app)
        await lifespan.go("startup")
        return app, lifespan

    def _run(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._server.loop).result(LIMIT_S)

    def close(self) -> None:
        """End it."""
        self._server.should_exit = True
        self._thread.join(LIMIT_S)
        self._socket.close()
