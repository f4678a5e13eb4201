"""Bodies on their way, in pieces: up from bytes or a file, down into a file that is in memory while it is small."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from spoolq import validate
from spoolq.errors import StorageError

PIECE_BYTES = 1 << 18
LARGE_BYTES = 1 << 20
IN_MEMORY_BYTES = 1 << 20
"""Downloads up to this stay in memory; larger ones are a temporary file without a name."""


class Upload:
    """A body to be sent, perhaps more than once. `pieces` begins where the file stood at first.

    before, after: what the request has around it.
    """

    def __init__(self, body: bytes | bytearray | memoryview | BinaryIO) -> None:
        self.before = b""
        self.after = b""
        self.file: BinaryIO | None = None
        self.whole = b""
        self._begun = False
        self._start: int | None = None
        self._body_size: int | None = None
        if isinstance(body, (bytes, bytearray, memoryview)):
            self.whole = bytes(body)
            self._body_size = len(self.whole)
        elif hasattr(body, "read"):
            self.file = body
            self._start = _position(body)
            self._body_size = _size(body, self._start)
        else:
            raise validate.wrong_body(body)

    @property
    def size(self) -> int | None:
        """How much there is to send; None where only the end tells."""
        size = self._body_size
        return None if size is None else len(self.before) + size + len(self.after)

    @property
    def is_large(self) -> bool:
        """Whether it is worth a connection of its own, on which to notice that the server has refused it."""
        return self._body_size is None or self._body_size > LARGE_BYTES

    def again(self) -> bool:
        """Whether all of it can be sent now: nothing has been read yet, or the file goes back to where it stood."""
        if self.file is None or not self._begun:
            return True
        if self._start is None:
            return False
        self.file.seek(self._start)
        return True

    def pieces(self) -> Iterator[bytes]:
        """The body of the request."""
        if self.before:
            yield self.before
        if self.file is None:
            for at in range(0, len(self.whole), PIECE_BYTES):
                yield self.whole[at : at + PIECE_BYTES]
        else:
            yield from self._read(self.file)
        if self.after:
            yield self.after

    def _read(self, file: BinaryIO) -> Iterator[bytes]:
        """To its end; of a file with a size as much as it had at first, since that was announced."""
        left = self._body_size
        self._begun = True
        while left != 0:
            piece = file.read(PIECE_BYTES if left is None else min(PIECE_BYTES, left))
            if not isinstance(piece, bytes):
                raise validate.wrong_body(piece)
            if not piece:
                break
            left = None if left is None else left - len(piece)
            yield piece
        if left:
            hint = "A file must not change while it is sent; nothing was enqueued"
            raise StorageError(f"the file became shorter by {left} bytes while it was sent", op="enqueue", hint=hint)


def _position(file: BinaryIO) -> int | None:
    try:
        return file.tell() if file.seekable() else None
    except (AttributeError, OSError, ValueError):  # a pipe, or something that only reads
        return None


def _size(file: BinaryIO, start: int | None) -> int | None:
    """What a regular file has left."""
    if start is None:
        return None
    try:
        found = os.fstat(file.fileno())
    except (AttributeError, OSError, ValueError):
        return None
    return max(0, found.st_size - start) if stat.S_ISREG(found.st_mode) else None


def new_file() -> BinaryIO:
    """A file to download into, in memory while it is small."""
    return cast("BinaryIO", tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES))
