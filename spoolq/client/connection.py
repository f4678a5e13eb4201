"""Requests to a server: sent, judged, and sent again where that is safe.

Owns the HTTP client (keep-alive, timeouts, one for each process) and knows when a request may be repeated: when it was
never sent; when it changes nothing; when the server knows the second one for the first by a key. Everywhere else a lost
connection is OutcomeUnknown. Never logs, and never shows the token: it travels in a header only.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from spoolq.client import problems
from spoolq.client.address import Address
from spoolq.client.bodies import Upload
from spoolq.client.early import EarlyAnswer
from spoolq.errors import OutcomeUnknown, SpoolqError, Unreachable

ANSWER_S = 60.0
"""How long an answer may take beyond what the request asks the server to wait: a busy lock, a slow disk."""

BULK_S = 3600.0
"""How long for work on any number of messages."""

PAUSES_S = (0.1, 0.4, 1.5)
"""Before each further try: a server that is started again is back within these."""

KEEP_ALIVE_S = 3.0
"""Shorter than servers keep an idle connection (uvicorn: 5 s), so that none is closed under a request."""

_CONNECT_S = 10.0
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
_GONE = (502, 503, 504)
"""What a proxy answers, without a problem document, for a server that is not there."""


class _Gone(Exception):
    """An answer that says: the server is not there. sent: the request may have reached it."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request. path: below the server's URL, quoted. repeats: asked twice it is done once. op: for errors."""

    method: str
    path: str
    op: str
    query: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    upload: Upload | None = None
    repeats: bool = False
    answer_s: float = ANSWER_S

    @property
    def looks(self) -> bool:
        """Whether it changes nothing."""
        return self.method in ("GET", "HEAD")


class Connection:
    """A server, for one address. Thread-safe; a forked child gets connections of its own."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._own = (os.getpid(), self._new_client())
        self._inherited: list[httpx.Client] = []

    def __repr__(self) -> str:
        return f"<Connection {self.address.url}>"

    def ask(self, call: Call) -> Any:
        """Send it, and read the answer: what its JSON says, None where it has no content."""
        response = self.send(call)
        if response.status_code == httpx.codes.NO_CONTENT or not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise not_understood(call.op, self.address.server) from error

    def send(self, call: Call) -> httpx.Response:
        """Send it, and again where that is safe; the answer, if it is no error, read to its end."""
        return self._answered(call, stream=False)

    @contextmanager
    def streamed(self, call: Call) -> Iterator[httpx.Response]:
        """As `send`, the answer's body still to be read: then httpx.TransportError tells of a lost connection."""
        response = self._answered(call, stream=True)
        try:
            yield response
        finally:
            response.close()

    def close(self) -> None:
        """End all connections."""
        self._own_client().close()

    def _answered(self, call: Call, *, stream: bool) -> httpx.Response:
        """Try until there is an answer, or it is not safe to try again."""
        sent = False
        for pause_s in (*PAUSES_S, None):
            try:
                return self._judged(call, self._sent(call, stream=stream))
            except (httpx.TransportError, _Gone) as error:
                sent = sent or not _is_unsent(error)
                if pause_s is None or not _may_repeat(call, error):
                    raise self._lost(call, error, sent) from error
            threading.Event().wait(pause_s)
        raise AssertionError("the last try returns or raises")

    def _sent(self, call: Call, *, stream: bool) -> httpx.Response:
        client = self._own_client()
        if self._is_secure or call.upload is None or not call.upload.is_large:
            return client.send(self._request(client, call), stream=stream)
        with self._new_client() as client:
            return client.send(self._request(client, call, EarlyAnswer()))

    @property
    def _is_secure(self) -> bool:
        return self.address.base.startswith("https:")

    def _judged(self, call: Call, response: httpx.Response) -> httpx.Response:
        """The answer, unless it is an error."""
        if response.is_success:
            return response
        try:
            response.read()
        finally:
            response.close()
        kind = problems.kind_of(response)
        if kind == problems.CLOSING:
            raise _Gone("it is stopping", sent=False)
        if not kind and response.status_code in _GONE:
            raise _Gone(f"{response.status_code} {response.reason_phrase}", sent=True)
        raise problems.error_of(response, call.op)

    def _lost(self, call: Call, why: Exception, sent: bool) -> SpoolqError:
        """The error for an answer that did not come."""
        server = self.address.server
        said = str(why) or type(why).__name__
        if isinstance(why, (httpx.LocalProtocolError, httpx.UnsupportedProtocol)):
            return SpoolqError(f"{call.op}: the request could not be sent: {said}", op=call.op, path=server)
        if call.looks or not sent:
            hint = "Is it running, and is this its address?"
            return Unreachable(f"{call.op}: {server} does not answer ({said})", op=call.op, path=server, hint=hint)
        hint = "It may have been done, or not: look before you repeat it"
        if call.repeats:
            hint = "It may have been done, or not; to repeat it is safe"
        message = f"{call.op}: the connection to {server} was lost before its answer ({said})"
        return OutcomeUnknown(message, op=call.op, path=server, hint=hint)

    def _request(self, client: httpx.Client, call: Call, early: EarlyAnswer | None = None) -> httpx.Request:
        url = self.address.base + call.path + _query_of(call.query)
        timeout = httpx.Timeout(call.answer_s, connect=_CONNECT_S, write=ANSWER_S, pool=_CONNECT_S)
        headers = dict(call.headers)
        content: bytes | Iterator[bytes] | None = None
        extensions: dict[str, Any] = {"timeout": timeout.as_dict()}
        if call.upload is not None:
            size = call.upload.size
            if size is not None:
                headers["Content-Length"] = str(size)
            content = call.upload.pieces()
            if early is not None:
                extensions["trace"] = early.trace
                content = early.until(content)
        elif call.json is not None:
            # ASCII, so that half of a surrogate pair, which no UTF-8 carries, cannot break the request.
            content = json.dumps(call.json, separators=(",", ":")).encode()
            headers["Content-Type"] = "application/json"
        return client.build_request(call.method, url, headers=headers, content=content, extensions=extensions)

    # The client of this process

    def _own_client(self) -> httpx.Client:
        """The client; after a fork a new one, since a socket that two processes write to serves neither."""
        pid, client = self._own
        if pid != os.getpid():
            self._inherited.append(client)  # kept: to drop it would close what the parent uses
            client = self._new_client()
            self._own = (os.getpid(), client)
        return client

    def _new_client(self) -> httpx.Client:
        address = self.address
        headers = {"Accept": "application/json, application/problem+json", "User-Agent": "spoolq"}
        if address.token is not None:
            headers["Authorization"] = f"Bearer {address.token}"
        # As many connections as there are threads that wait; no redirects, which could carry the token elsewhere.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=KEEP_ALIVE_S)
        transport = None
        if address.socket is not None:
            transport = httpx.HTTPTransport(uds=address.socket, limits=limits, verify=False)
        return httpx.Client(
            headers=headers,
            # Without TLS there is nothing to verify, and to load the certificates takes longer than a request.
            verify=self._is_secure,
            limits=limits,
            transport=transport,
            follow_redirects=False,
            trust_env=not address.is_here,
        )


def quoted(text: str) -> str:
    """A part of a path, whatever is in it."""
    return quote(text, safe="")


def not_understood(op: str, server: str) -> SpoolqError:
    """The error for an answer that no spoolq server gives."""
    return SpoolqError(f"{op}: what {server} answers is not understood", op=op, hint="Is it a spoolq server?")


def _query_of(query: Mapping[str, object]) -> str:
    """A query string; what is None is left out. Names of any bytes are sent as far as UTF-8 goes."""
    given = {key: _as_text(value) for key, value in query.items() if value is not None}
    return "?" + urlencode(given, errors="replace", quote_via=quote) if given else ""


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_unsent(error: Exception) -> bool:
    """Whether nothing of the request can have been carried out."""
    return not error.sent if isinstance(error, _Gone) else isinstance(error, _NOT_SENT)


def _may_repeat(call: Call, error: Exception) -> bool:
    """Whether this request, which failed so, may be sent again: then the body is back at its beginning."""
    if isinstance(error, (httpx.ReadTimeout, httpx.LocalProtocolError, httpx.UnsupportedProtocol)):
        return False  # the server is there, and slow; or the request is not right
    safe = call.looks or call.repeats or _is_unsent(error)
    return safe and (call.upload is None or call.upload.again())
