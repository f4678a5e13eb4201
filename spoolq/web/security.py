"""Who gets in: Host, the asking site, tokens. Section 11 of docs/rest-api.md.

`Gate` stands before everything, in plain ASGI: it gives each request its id, refuses what must be refused, and hands
the outcome to the access log and the metrics. What a token may do is asked by the routes (`Call.check`).
"""

from __future__ import annotations

import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import count
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spoolq.tokens import Token, TokenFile
from spoolq.web.problems import Problem, problem_of

log = logging.getLogger("spoolq.web")

REQUEST_ID_CHARS = 200
_NO_STORE = (b"cache-control", b"no-store")
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]\s]+))(?::\d{0,5})?", re.ASCII)
_OPEN = frozenset(("/healthz", "/readyz"))


class Call:
    """One request, as everything behind the gate sees it.

    asked_id: the client's Request-Id, where it sent one that may be. token: None where none is needed.
    """

    __slots__ = ("asked_id", "has_bad_id", "request_id", "sent_bytes", "started_s", "status", "token")

    def __init__(self, asked: bytes | None, ids: Iterator[str]) -> None:
        good = asked is not None and _is_id(asked)
        self.asked_id = asked.decode("ascii") if asked is not None and good else None
        self.has_bad_id = asked is not None and not good
        self.request_id = self.asked_id or next(ids)
        self.token: Token | None = None
        self.started_s = time.perf_counter()
        self.status = 0
        self.sent_bytes = 0

    def check_id(self) -> None:
        """Raise `invalid` where the client's Request-Id may not be."""
        if self.has_bad_id:
            raise Problem("invalid", f"Request-Id: 1 to {REQUEST_ID_CHARS} printable ASCII characters, no spaces")

    def check(self, needs: str, queue: str | None, *, everywhere: bool = False) -> None:
        """Raise `forbidden` where the token does not allow this. everywhere: it concerns all queues."""
        token = self.token
        if token is None:
            return
        if not token.has(needs):
            raise Problem("forbidden", f"the token {token.name} does not have the scope {needs}")
        if everywhere and token.queues:
            raise Problem("forbidden", f"the token {token.name} is for some queues only")
        if queue is not None and not token.admits(queue):
            raise Problem("forbidden", f"the token {token.name} is for other queues")

    @property
    def who(self) -> str:
        """The token's name, for the log."""
        return self.token.name if self.token is not None else ""


class Names:
    """Which hosts and origins this server answers to."""

    def __init__(self, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in origins}
        self.is_host = lru_cache(256)(self._is_host)

    def _is_host(self, host: bytes) -> bool:
        """A name that a page of another site cannot have pointed at us: one of ours, or an address in numbers."""
        found = _HOST.fullmatch(host.decode("latin-1").lower())
        if found is None:
            return False
        name = found[1] or found[2]
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def is_origin(self, origin: bytes, host: bytes) -> bool:
        """Whether a page of this origin may ask: it came from here, or is admitted by name."""
        text = origin.decode("latin-1").lower()
        if text in self._origins:
            return True
        scheme, _, place = text.partition("://")
        return scheme in ("http", "https") and place == host.decode("latin-1").lower()


class Gate:
    """The outermost layer. done: called with (scope, call) at the end of each request."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        names: Names,
        tokens: TokenFile,
        token_needed: bool,
        done: Callable[[Scope, Call], None],
        is_closing: Callable[[], bool],
    ) -> None:
        self._app = app
        self._names = names
        self._tokens = tokens
        self._token_needed = token_needed
        self._done = done
        self._is_closing = is_closing
        self._ids = _new_ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        headers = _Headers(scope["headers"])
        asked = headers.request_id
        call = Call(asked, self._ids)
        scope["spoolq.call"] = call
        answered = _Answer(call, send)
        try:
            try:
                self._let_in(scope, headers, call)
                await self._app(scope, receive, answered.send)
            except Problem as problem:
                await problem.response(call.request_id)(scope, receive, answered.send)
            except Exception as error:
                await self._failed(error, scope, receive, answered, call)
        finally:
            self._done(scope, call)

    def _let_in(self, scope: Scope, headers: _Headers, call: Call) -> None:
        if headers.hosts != 1:
            raise Problem("malformed", "a request has one Host")
        if not self._names.is_host(headers.host):
            hint = "Ask for localhost or an address, or start the server with --allow-host NAME"
            raise Problem("host-not-allowed", "this server is not known by that name", hint=hint)
        if headers.site in (b"cross-site", b"same-site") and not (
            headers.origin and self._names.is_origin(headers.origin, headers.host)
        ):
            raise Problem("cross-site", "a page of another site may not ask")
        if headers.origin is not None and not self._names.is_origin(headers.origin, headers.host):
            hint = "Start the server with --allow-origin ORIGIN to admit its pages"
            raise Problem("cross-site", "a page of another origin may not ask", hint=hint)
        if self._is_closing() and scope["path"] not in _OPEN:
            raise Problem("closing", "the server is stopping", headers={"Connection": "close"})
        if scope["path"] not in _OPEN:
            call.token = self._token(headers.authorization)

    def _token(self, given: bytes | None) -> Token | None:
        known = self._tokens.current()
        if known is None and not self._token_needed:
            return None
        if given is None:
            raise _unauthorized("this server asks for a token", "Send Authorization: Bearer TOKEN")
        scheme, _, text = given.strip().partition(b" ")
        found = known.find(text.strip()) if known is not None and scheme.lower() == b"bearer" else None
        if found is None:
            raise _unauthorized("the token is not known", "Make one with: spoolq token create NAME")
        return found

    async def _failed(self, error: Exception, scope: Scope, receive: Receive, answered: _Answer, call: Call) -> None:
        """An error that no route expects. What has been begun to be answered cannot be answered otherwise."""
        if answered.begun:
            log.error("answer.broken request_id=%s error=%r", call.request_id, error)
            transport = scope.get("spoolq.transport")
            if transport is None:
                raise error
            transport.abort()
            return
        problem = answer_for(error, call)
        await problem.response(call.request_id)(scope, receive, answered.send)


class _Answer:
    """What is sent, with what every answer carries."""

    __slots__ = ("_call", "_send", "begun")

    def __init__(self, call: Call, send: Send) -> None:
        self._call = call
        self._send = send
        self.begun = False

    async def send(self, message: Message) -> None:
        call = self._call
        if message["type"] == "http.response.start":
            self.begun = True
            call.status = message["status"]
            headers = message["headers"]
            headers.append((b"request-id", call.request_id.encode("ascii")))
            headers.append(_NO_STORE)
            headers.append((b"x-content-type-options", b"nosniff"))
        else:
            call.sent_bytes += len(message.get("body", b""))
        await self._send(message)


class _Headers:
    """The headers that the gate looks at, found in one pass."""

    __slots__ = ("authorization", "host", "hosts", "origin", "request_id", "site")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.host = b""
        self.hosts = 0
        self.origin: bytes | None = None
        self.site: bytes | None = None
        self.authorization: bytes | None = None
        self.request_id: bytes | None = None
        for name, value in headers:
            if name == b"host":
                self.host = value
                self.hosts += 1
            elif name == b"authorization":
                self.authorization = value
            elif name == b"origin":
                self.origin = value
            elif name == b"sec-fetch-site":
                self.site = value.strip().lower()
            elif name == b"request-id":
                self.request_id = value


def _new_ids() -> Iterator[str]:
    """Ids for requests without one: a part by chance, for this process, and a number."""
    start = secrets.token_hex(4)
    return (f"{start}{number:08x}" for number in count())


def _is_id(text: bytes) -> bool:
    return 0 < len(text) <= REQUEST_ID_CHARS and all(32 < byte < 127 for byte in text)


def _unauthorized(detail: str, hint: str) -> Problem:
    return Problem("unauthorized", detail, hint=hint, headers={"WWW-Authenticate": "Bearer"})


def answer_for(error: Exception, call: Call) -> Problem:
    """The problem that an error is; the log has what the answer leaves out."""
    problem = problem_of(error)
    if problem.kind == "internal":
        log.error("request.failed request_id=%s", call.request_id, exc_info=error)
    elif problem.status >= 500:
        said = error.__cause__ or error if isinstance(error, Problem) else error
        log.warning("request.refused request_id=%s error=%s", call.request_id, said)
    return problem


def call_of(scope: Any) -> Call:
    """The call of a request."""
    found: Call = scope["spoolq.call"]
    return found
