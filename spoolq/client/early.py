"""A server that answers while the body is still being sent: it has refused it, and the rest need not be read.

httpx sends the whole body before it looks for an answer. It gives up sending, and reads what the server said, where
writing fails; so that is what happens to a body here as soon as its connection has something to read. Not over TLS,
where what there is to read may be no answer at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpcore

_CONNECTED = ("connect_tcp.complete", "connect_unix_socket.complete")


class EarlyAnswer:
    """For one request on a connection of its own. `trace` goes into its extensions."""

    def __init__(self) -> None:
        self._connection: Any = None

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """What httpcore tells of a request: here, which connection it has."""
        if event.endswith(_CONNECTED):
            self._connection = info["return_value"]

    def until(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The pieces, until there is an answer."""
        for piece in pieces:
            if self._connection is not None and self._connection.get_extra_info("is_readable"):
                raise httpcore.WriteError("the server has answered already")
            yield piece
