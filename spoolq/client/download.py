"""A body from the server into a file; after a lost connection from where it stopped."""

from __future__ import annotations

import threading
from typing import BinaryIO

import httpx

from spoolq.client.bodies import new_file
from spoolq.client.connection import PAUSES_S, Call, Connection
from spoolq.errors import Unreachable, storage_error


def download(connection: Connection, path: str, op: str) -> BinaryIO:
    """The body at this path, from its beginning; the caller closes it. On disk where it is large."""
    file = new_file()
    try:
        _fill(file, connection, path, op)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _fill(file: BinaryIO, connection: Connection, path: str, op: str) -> None:
    etag = ""
    for pause_s in (*PAUSES_S, None):
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if etag and file.tell():
            headers |= {"Range": f"bytes={file.tell()}-", "If-Range": etag}
        with connection.streamed(Call(method="GET", path=path, op=op, headers=headers)) as response:
            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                file.seek(0)
                file.truncate()
            etag = response.headers.get("ETag", "")
            try:
                _copy(response, file, op)
            except httpx.TransportError as error:
                if pause_s is None:
                    server = connection.address.server
                    raise Unreachable(f"{op}: the connection to {server} was lost: {error}", op=op) from error
            else:
                return
        threading.Event().wait(pause_s)


def _copy(response: httpx.Response, file: BinaryIO, op: str) -> None:
    for piece in response.iter_bytes():  # as it comes: pieces of a fixed size are lost with the connection
        try:
            file.write(piece)
        except OSError as error:
            raise storage_error(error, op, "a temporary file for the body") from error
