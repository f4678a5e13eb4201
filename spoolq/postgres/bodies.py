"""Bodies: small ones within their message's row, larger ones in chunks, streamed both ways.

Never holds more of a large body than one chunk. Chunks are committed one by one before their message is, which is what
makes them count; what a producer that died has sent is swept after 36 hours (`spoolq.maintain`).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import BinaryIO, NamedTuple, cast

from spoolq import validate
from spoolq.errors import MessageTooLarge, StorageError
from spoolq.postgres import statements
from spoolq.postgres.connection import Call, Row

INLINE_BYTES = 256 * 1024
CHUNK_BYTES = 1 << 20

Ask = Callable[[Call], list[Row]]


class Body(NamedTuple):
    """A body that is where it belongs: here, or in so many chunks."""

    whole: bytes | None
    size: int
    chunks: int = 0


class Bodies(NamedTuple):
    """Those of several messages. sizes, chunks: None where all are here; else, of each that is in chunks."""

    wholes: Sequence[bytes | None]
    sizes: Sequence[int | None] | None = None
    chunks: Sequence[int | None] | None = None


def together(bodies: Sequence[Body]) -> Bodies:
    """As the columns of one call."""
    wholes = [each.whole for each in bodies]
    if not any(each.chunks for each in bodies):
        return Bodies(wholes)
    return Bodies(
        wholes,
        [each.size if each.chunks else None for each in bodies],
        [each.chunks or None for each in bodies],
    )


def put_all(ask: Ask, ids: Sequence[str], bodies: Sequence[bytes], most: int) -> Bodies:
    """Judge all, then put those in the database that are large."""
    longest = max(map(len, bodies))
    _check(longest, most)
    if longest <= INLINE_BYTES:
        return Bodies(bodies)
    return together([put(ask, message_id, body, most) for message_id, body in zip(ids, bodies, strict=True)])


def put(ask: Ask, message_id: str, body: bytes | bytearray | memoryview | BinaryIO, most: int) -> Body:
    """Read a body to its end and put it in the database where it is large. most: limits.body_bytes, 0 for none."""
    if type(body) is bytes and len(body) <= INLINE_BYTES and not 0 < most < len(body):
        return Body(body, len(body))
    if isinstance(body, (bytes, bytearray, memoryview)):
        whole = bytes(body)
        _check(len(whole), most)
        if len(whole) <= INLINE_BYTES:
            return Body(whole, len(whole))
        return _put_chunks(ask, message_id, _Pieces(io.BytesIO(whole)), b"", most)
    if not hasattr(body, "read"):
        raise validate.wrong_body(body)
    pieces = _Pieces(body)
    begun = pieces.next(INLINE_BYTES + 1)
    _check(len(begun), most)
    if len(begun) <= INLINE_BYTES:
        return Body(begun, len(begun))
    return _put_chunks(ask, message_id, pieces, begun, most)


def _put_chunks(ask: Ask, message_id: str, pieces: _Pieces, begun: bytes, most: int) -> Body:
    size = number = 0
    try:
        chunk = begun + pieces.next(CHUNK_BYTES - len(begun))
        while chunk:
            size += len(chunk)
            _check(size, most)
            given = (message_id, number, chunk)
            ask(Call(op="enqueue", sql=statements.ADD_CHUNK, parameters=given, repeats=True, is_large=True))
            number += 1
            chunk = pieces.next(CHUNK_BYTES)
    except BaseException:
        drop(ask, message_id)
        raise
    return Body(None, size, number)


def drop(ask: Ask, message_id: str) -> None:
    """Delete the chunks of a message that does not come to be."""
    try:
        ask(Call(op="enqueue", sql=statements.DROP_UPLOAD, parameters=(message_id,), repeats=True))
    except StorageError:  # CRASH: what is left is swept by `spoolq.maintain`; the caller hears of the first error
        pass


class _Pieces:
    """A file in pieces of exactly the size that is asked for, whatever its own `read` gives: less, or more."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._over = bytearray()

    def next(self, size: int) -> bytes:
        """The next `size` bytes; fewer at the end only."""
        whole = self._over
        while len(whole) < size and (piece := self._file.read(size - len(whole))):
            if not isinstance(piece, bytes):
                raise validate.wrong_body(piece)
            whole += piece
        self._over = whole[size:]
        return bytes(whole[:size])


def _check(size: int, most: int) -> None:
    if most and size > most:
        raise MessageTooLarge(f"the body has {size} bytes or more, over limits.body_bytes = {most}", op="enqueue")


def opened(ask: Ask, message_id: str, row: Row) -> BinaryIO:
    """The body of a row of statements.BODY."""
    size, chunks, whole = row
    if not chunks:
        return io.BytesIO(whole)
    return cast("BinaryIO", io.BufferedReader(_Chunks(ask, message_id, size), CHUNK_BYTES))


class _Chunks(io.RawIOBase):
    """A large body, read chunk by chunk, from anywhere."""

    def __init__(self, ask: Ask, message_id: str, size: int) -> None:
        super().__init__()
        self._ask = ask
        self._id = message_id
        self._size = size
        self._at = 0
        self._kept: tuple[int, bytes] = (-1, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # a Buffer is what it is given
        if self._at >= self._size:
            return 0
        number, begin = divmod(self._at, CHUNK_BYTES)
        piece = self._chunk(number)[begin : begin + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def _chunk(self, number: int) -> bytes:
        if self._kept[0] != number:
            wanted = (self._id, number)
            rows = self._ask(Call(op="read_body", sql=statements.CHUNK, parameters=wanted, repeats=True, is_large=True))
            if not rows:
                hint = "The message was deleted while its body was read"
                raise StorageError(f"a part of the body of {self._id} is not there", op="read_body", hint=hint)
            self._kept = (number, rows[0][0])
        return self._kept[1]
