"""Which spool, and which of its queues: opened once for all visitors, and kept in the address of the page.

Open queues claim by time (`detached`): a message taken in a browser belongs to a person, not to this process. A queue
that was deleted and made again is opened again.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from os import environ
from urllib.parse import urlsplit

import streamlit as st

from spoolq import queue as entry
from spoolq.errors import QueueClosed, QueueNotFound
from spoolq.interfaces import Queue
from spoolq.models import Stats

SPOOL_VARIABLE = "SPOOLQ_SPOOL"
DEFAULT_SPOOL = "spool"
MOST_OPEN = 32

_CHOSEN = "console.queue"


def spool() -> str:
    """The spool's path or a server's URL, as it was given."""
    return environ.get(SPOOL_VARIABLE) or DEFAULT_SPOOL


def shown() -> str:
    """The same for people, without a token."""
    if not is_server():
        return spool()
    split = urlsplit(spool())
    return f"{split.scheme}://{split.netloc.rpartition('@')[2]}{split.path}"


def is_server() -> bool:
    """Whether the spool is asked of a server or a database, and so no directory here."""
    return entry.is_url(spool())


def is_database() -> bool:
    """Whether it is a database: without files, an index beside them, or a disk of its own."""
    return spool().partition("://")[0].lower() in entry.DATABASE_SCHEMES


def queues() -> list[str]:
    """The names of its queues, "default" first."""
    return entry.list_queues(spool())


def chosen() -> str:
    """The queue of this page: what its address says, else what was chosen before."""
    name = st.query_params.get("queue") or st.session_state.get(_CHOSEN) or entry.DEFAULT_QUEUE
    st.session_state[_CHOSEN] = name
    if st.query_params.get("queue") != name:
        st.query_params["queue"] = name
    return str(name)


def choose(name: str) -> None:
    """Make this the queue of the page."""
    st.session_state[_CHOSEN] = name
    st.query_params["queue"] = name


def queue(name: str | None = None) -> Queue:
    """The queue of this name, or of the page, open. Raises what `open_queue` does."""
    return looked_at(name)[0]


def looked_at(name: str | None = None) -> tuple[Queue, Stats]:
    """The same, with its numbers: asking for them is how one learns that it is still the same queue."""
    name = name or chosen()
    opened = _open_queues().get(spool(), name)
    try:
        return opened, opened.stats()
    except (QueueNotFound, QueueClosed):
        _open_queues().forget(spool(), name, opened)
        opened = _open_queues().get(spool(), name)
        return opened, opened.stats()


def now_ms() -> int:
    """The present, in UTC milliseconds."""
    return time.time_ns() // 1_000_000


def _open(url: str, name: str) -> Queue:
    try:
        return entry.open_queue(url, queue=name, create=False, detached=True)
    except ValueError as error:  # anybody can write anything into an address
        raise QueueNotFound(f"no queue is called {name!r}", op="open", hint="Choose one") from error


class OpenQueues:
    """Queues that are open, for all threads; the one that nobody used for longest is closed when there are many."""

    def __init__(self, most: int = MOST_OPEN) -> None:
        self._most = most
        self._mutex = threading.Lock()
        self._opened: OrderedDict[tuple[str, str], Queue] = OrderedDict()

    def get(self, url: str, name: str) -> Queue:
        """The queue, opened now if it is not."""
        with self._mutex:
            found = self._opened.get((url, name))
            if found is None:
                found = _open(url, name)
                self._opened[url, name] = found
            self._opened.move_to_end((url, name))
            left = self._opened.popitem(last=False)[1] if len(self._opened) > self._most else None
        if left is not None:
            left.close()
        return found

    def forget(self, url: str, name: str, queue: Queue) -> None:
        """Open it anew the next time, unless somebody has already."""
        with self._mutex:
            if self._opened.get((url, name)) is queue:
                del self._opened[url, name]
        queue.close()

    def close(self) -> None:
        """Let go of all of them."""
        with self._mutex:
            opened = list(self._opened.values())
            self._opened.clear()
        for queue in opened:
            queue.close()


@st.cache_resource(show_spinner=False)
def _open_queues() -> OpenQueues:
    return OpenQueues()
