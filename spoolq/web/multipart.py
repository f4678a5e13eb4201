"""multipart/form-data as it comes: a part `message` (JSON), if any, then one part with the body, which is streamed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from spoolq.web.problems import Problem, invalid

MESSAGE_MAX_BYTES = 1024 * 1024


@dataclass(slots=True)
class Part:
    """The head of a part."""

    name: str
    filename: str | None
    content_type: str | None


@dataclass(slots=True)
class _State:
    """What the parser has come to: the parts begun, and the pieces of the body that are not yet taken."""

    header_name: bytes = b""
    header_value: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    part: Part | None = None
    message: bytearray | None = None
    body: Part | None = None
    pieces: list[bytes] = field(default_factory=list)
    is_complete: bool = False


class Form:
    """One request's form. `begin` reads up to the body; then `body` yields it."""

    def __init__(self, content_type: str, chunks: AsyncIterator[bytes]) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise Problem("malformed", "multipart/form-data names its boundary")
        self._state = _State()
        self._chunks = chunks
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end")
        callbacks: dict[str, Any] = {f"on_{name}": getattr(self, f"_on_{name}") for name in names}
        callbacks |= {"on_headers_finished": self._on_headers_finished, "on_end": self._on_end}
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except FormParserError as error:
            raise Problem("malformed", "the boundary is too long") from error

    # Called by the parser

    def _on_part_begin(self) -> None:
        self._state.headers = {}
        self._state.part = None

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._state.header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._state.header_value += data[start:end]

    def _on_header_end(self) -> None:
        state = self._state
        state.headers[state.header_name.decode("latin-1").lower()] = state.header_value.decode("utf-8", "replace")
        state.header_name = state.header_value = b""

    def _on_headers_finished(self) -> None:
        state = self._state
        _, options = parse_options_header(state.headers.get("content-disposition", ""))
        name = options.get(b"name")
        if name is None:
            raise Problem("malformed", "a part has no name")
        filename = options.get(b"filename")
        part = Part(
            name.decode("utf-8", "replace"),
            filename.decode("utf-8", "replace") if filename else None,
            state.headers.get("content-type"),
        )
        state.part = part
        if part.name == "message":
            if state.message is not None or state.body is not None:
                raise Problem("invalid", "the part `message` comes once, and first")
            state.message = bytearray()
        elif state.body is not None:
            raise Problem("invalid", "a request has one body; send several requests, or a batch")
        else:
            state.body = part

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        state = self._state
        if state.part is state.body:
            state.pieces.append(data[start:end])
        elif state.message is not None:
            state.message += data[start:end]
            if len(state.message) > MESSAGE_MAX_BYTES:
                raise Problem("too-large", f"the part `message` has at most {MESSAGE_MAX_BYTES} bytes")

    def _on_part_end(self) -> None:
        pass

    def _on_end(self) -> None:
        self._state.is_complete = True

    # For whoever reads it

    async def _feed(self) -> bool:
        """Parse the next piece; False after the last."""
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            return False
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise Problem("malformed", "the form cannot be read") from error
        return True

    async def begin(self) -> tuple[Part, dict[str, Any]]:
        """The head of the body, and the part `message` before it."""
        state = self._state
        while state.body is None:
            if not await self._feed():
                if not state.is_complete:
                    raise Problem("malformed", "the form is not whole")
                raise Problem("invalid", "the form has no part with a body")
        return state.body, self._read_message()

    def _read_message(self) -> dict[str, Any]:
        if self._state.message is None:
            return {}
        try:
            found = json.loads(bytes(self._state.message))
        except (ValueError, RecursionError) as error:
            raise Problem("malformed", "the part `message` is not JSON") from error
        if not isinstance(found, dict):
            raise invalid("message", "must be an object")
        return found

    async def body(self) -> AsyncIterator[bytes]:
        """The body. Ends with an error where the form does not end as it must."""
        state = self._state
        while True:
            for piece in state.pieces:
                yield piece
            state.pieces.clear()
            if not await self._feed():
                break
        for piece in state.pieces:
            yield piece
        if not state.is_complete:
            raise Problem("malformed", "the form is not whole")
