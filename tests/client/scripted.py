"""A server that does as it is told, one request after another: answers, dies in the middle, says nothing.

Each step is a function of the request that returns what is sent before the connection ends or goes on. It remembers
what it was asked.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

RECEIPT = "01890a5d-ac96-774b-bcce-b302099a8057.t0a1b2c7"
ID = RECEIPT.partition(".")[0]


@dataclass
class Asked:
    """One request as it came. body: as far as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Step = Callable[[Asked], bytes | None]
"""The answer; None ends the connection without one."""


def answer(status: int, data: Any = None, *, kind: str = "application/json", **headers: str) -> Step:
    """A whole answer."""
    body = b"" if data is None else data if isinstance(data, bytes) else json.dumps(data).encode()
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}"]
    lines += [f"Content-Type: {kind}"] * bool(body)
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    whole = "\r\n".join([*lines, "", ""]).encode() + body
    return lambda _: whole


def problem(kind: str, status: int, **more: Any) -> Step:
    """A problem document."""
    document = {"type": f"urn:spoolq:problem:{kind}", "title": kind, "status": status, **more}
    return answer(status, document, kind="application/problem+json")


def die(_: Asked) -> None:
    """End the connection without an answer, the request being read."""


@dataclass
class Scripted:
    """The server. `steps` are used up in order; `asked` has the requests."""

    steps: list[Step]
    asked: list[Asked] = field(default_factory=list)
    broken: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()
        return f"http://{host}:{port}"

    def close(self) -> None:
        """Nobody listens there any more."""
        # A socket that is waited on is not woken by close alone.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as file:
                try:
                    while self._answer_one(connection, file):
                        pass
                except OSError as error:
                    self.broken.append(error)

    def _answer_one(self, connection: socket.socket, file: Any) -> bool:
        line = file.readline().decode()
        if not line:
            return False
        method, target, _ = line.split()
        headers = {}
        while (line := file.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        asked = Asked(method, target, headers)
        self.asked.append(asked)
        step = self.steps.pop(0) if self.steps else answer(500)
        if step is not die_at_the_head:
            asked.body = _body(headers, file)
        said = step(asked)
        if said is None:
            return False
        connection.sendall(said)
        return not said.startswith(CUT)


CUT = b"HTTP/1.1 200 Cut"


def cut(body: bytes, said_bytes: int, **headers: str) -> Step:
    """An answer that is announced longer than it is; then the connection ends."""
    lines = [CUT.decode(), f"Content-Length: {said_bytes}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    whole = "\r\n".join([*lines, "", ""]).encode() + body
    return lambda _: whole


def die_at_the_head(_: Asked) -> None:
    """End the connection when the body has hardly begun."""


def _body(headers: dict[str, str], file: Any) -> bytes:
    if headers.get("transfer-encoding") == "chunked":
        pieces = []
        while size := int(file.readline().strip() or b"0", 16):
            pieces.append(file.read(size))
            file.readline()
        file.readline()
        return b"".join(pieces)
    found: bytes = file.read(int(headers.get("content-length", 0)))
    return found
