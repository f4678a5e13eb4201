"""A proxy between a client and its database that can lose an answer: what was asked has been done, nobody is told."""

from __future__ import annotations

import select
import socket
import threading


class Proxy:
    """Listens on `port`; `cut_next()` ends the connection at the next answer, `cut_all()` every one there is."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._cut = False
        self._closed = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_next(self) -> None:
        self._cut = True

    def close(self) -> None:
        self._closed = True
        for each in (self._listener, *(one for pair in self._pairs for one in pair)):
            try:
                each.shutdown(socket.SHUT_RDWR)  # a close alone wakes no thread that waits for it
            except OSError:
                pass
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            pair = (client, socket.create_connection(("127.0.0.1", self._server)))
            self._pairs.append(pair)
            threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    if source is server and self._cut:
                        self._cut = False
                        self.cuts += 1
                        return
                    (server if source is client else client).sendall(data)
        except (OSError, ValueError):
            return
        finally:
            for each in (client, server):
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                each.close()
