"""Bodies of any size, in and out, without holding them in memory.

In: a `Pipe` is a file that the event loop writes and a thread of the engine reads, at most `ROOM_BYTES` apart. Out: a
file is read piece by piece in a thread while the client takes it (`BodyAnswer`), with one range, an ETag, and headers
that keep a browser from running it.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import deque
from collections.abc import AsyncIterator, Mapping
from io import SEEK_END, RawIOBase
from typing import BinaryIO

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from spoolq.web.problems import Problem
from spoolq.web.service import Service

ROOM_BYTES = 1024 * 1024
PIECE_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=[ \t]*(\d{0,19})-(\d{0,19})[ \t]*")


class Interrupted(Exception):
    """The client has gone before its body was whole."""


class Pipe(RawIOBase):
    """Written by the event loop, read by one thread."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._has_room = asyncio.Event()
        self._change = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._held_bytes = 0
        self._ended = False
        self._error: BaseException | None = None

    # In the event loop

    async def put(self, piece: bytes, reader: asyncio.Future[str]) -> None:
        """Hand a piece to the reader, and wait for room; at once where the reader has given up."""
        with self._change:
            self._pieces.append(piece)
            self._held_bytes += len(piece)
            self._change.notify()
            if self._held_bytes <= ROOM_BYTES:
                return
            self._has_room.clear()
        while not (self._has_room.is_set() or reader.done()):
            room = asyncio.ensure_future(self._has_room.wait())
            await asyncio.wait((room, reader), return_when=asyncio.FIRST_COMPLETED)
            room.cancel()

    def end(self, error: BaseException | None = None) -> None:
        """No more comes; with an error the reader fails by it, so that nothing of the message is kept."""
        with self._change:
            self._ended = True
            self._error = error
            self._change.notify()

    # In the thread

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """The next piece, whatever was asked for; b"" at the end."""
        with self._change:
            while not self._pieces and not self._ended:
                self._change.wait()
            if self._error is not None:
                raise self._error
            if not self._pieces:
                return b""
            piece = b"".join(self._pieces)
            self._pieces.clear()
            self._held_bytes = 0
        self._loop.call_soon_threadsafe(self._has_room.set)
        return piece


async def body_of(receive: Receive, pause_s: float, most_bytes: int) -> AsyncIterator[bytes]:
    """A request's body, piece by piece. Interrupted where it ends early; Problem where it pauses or is too large."""
    total = 0
    while True:
        try:
            async with asyncio.timeout(pause_s):
                message = await receive()
        except TimeoutError as error:
            raise Problem("timeout", f"nothing came for {pause_s:g} s", headers={"Connection": "close"}) from error
        if message["type"] == "http.disconnect":
            raise Interrupted
        piece = message.get("body", b"")
        total += len(piece)
        if 0 < most_bytes < total:
            raise too_large(most_bytes)
        if piece:
            yield piece
        if not message.get("more_body", False):
            return


def too_large(most_bytes: int) -> Problem:
    """A body over the server's own limit."""
    return Problem("too-large", f"at most {most_bytes} bytes are allowed")


def etag_of(id: str, size: int) -> str:
    """A body never changes under its id."""
    return f'"{id}-{size}"'


SAFE_HEADERS = {
    "Content-Disposition": "attachment",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""A body is somebody else's: a browser may keep it, and never run it."""


def body_answer(
    service: Service, file: BinaryIO, id: str, content_type: str | None, asked: Headers, more: Mapping[str, str]
) -> Response:
    """The answer to a request for a body: 200, 206, 304 or 416."""
    size = file.seek(0, SEEK_END)
    etag = etag_of(id, size)
    headers = {**SAFE_HEADERS, "ETag": etag, "Accept-Ranges": "bytes", **more}
    if _matches(asked.get("if-none-match"), etag):
        file.close()
        return Response(status_code=304, headers=headers)
    first, end = 0, size
    status = 200
    wanted = asked.get("range")
    if wanted is not None and asked.get("if-range", etag) == etag:
        found = range_of(wanted, size)
        if found == (0, 0):
            file.close()
            raise Problem("range-not-satisfiable", headers={"Content-Range": f"bytes */{size}"})
        if found is not None:
            (first, end), status = found, 206
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - first)
    headers["Content-Type"] = content_type or "application/octet-stream"
    return BodyAnswer(service, file, first, end, status, headers)


def _matches(asked: str | None, etag: str) -> bool:
    if asked is None:
        return False
    return asked.strip() == "*" or etag in [each.strip().removeprefix("W/") for each in asked.split(",")]


def range_of(text: str, size: int) -> tuple[int, int] | None:
    """First byte and end of the one range asked for; (0, 0) where there is no byte; None to send the whole."""
    found = _RANGE.fullmatch(text)
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        first, end = max(0, size - int(found[2])), size
    else:
        first = int(found[1])
        end = min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < first:
            return None
    return (first, end) if first < end else (0, 0)


class BodyAnswer(Response):
    """A part of a file, read in a thread as fast as the client takes it."""

    def __init__(
        self, service: Service, file: BinaryIO, first: int, end: int, status: int, headers: Mapping[str, str]
    ) -> None:
        super().__init__(status_code=status)
        self._service = service
        self._file = file
        self._first = first
        self._end = end
        self.raw_headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        self.was_sent = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            left = self._end - self._first
            self._file.seek(self._first)
            while left:
                piece = await self._service.apart(lambda: self._file.read(min(PIECE_BYTES, left)))  # noqa: B023
                if not piece:
                    # It became shorter: the length that was announced cannot be kept.
                    raise Interrupted
                left -= len(piece)
                if has_gone(scope):
                    return
                async with asyncio.timeout(self._service.limits.pause_s):
                    await send({"type": "http.response.body", "body": piece, "more_body": bool(left)})
            if self._end == self._first:
                await send({"type": "http.response.body", "body": b""})
            self.was_sent = True
        except TimeoutError:
            # It takes nothing any more. What was announced cannot be kept, so the connection ends.
            raise Interrupted from None
        finally:
            self._file.close()


async def until_gone(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def has_gone(scope: Scope) -> bool:
    """Whether the connection has ended, as far as our own protocol class (server.py) tells."""
    transport = scope.get("spoolq.transport")
    return transport is not None and transport.is_closing()
