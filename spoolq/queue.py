"""The way in: `open_queue` takes a path or a URL and returns the engine behind it.

`"spool"`, `"spool?queue=emails"`, `"http://host:8000/queues/emails"`. Which scheme belongs to which engine is decided
here and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from spoolq.errors import NotCapable, UnsupportedFileSystem

if TYPE_CHECKING:
    from spoolq.interfaces import Queue
    from spoolq.settings import Settings

DEFAULT_QUEUE = "default"
SERVER_SCHEMES = ("http", "https", "http+unix")


def _target(url: str | os.PathLike[str], queue: str | None) -> tuple[Path, str]:
    """Split a spool's URL into its directory and the queue's name."""
    if os.name == "nt":
        hint = "Run it on Linux, or ask a server for a queue: http://..."
        raise UnsupportedFileSystem("a spool cannot be on Windows", op="open", path=url, hint=hint)
    text = os.fspath(url)
    if "://" in text:
        scheme = text.split("://", 1)[0]
        if scheme.lower() in SERVER_SCHEMES:
            raise ValueError("this is done where the spool is, by its path; a server cannot be asked for it")
        raise ValueError(f"no engine for {scheme}:// in this version; a spool is a path, such as 'spool'")
    path, _, query = text.partition("?")
    named = parse_qs(query, keep_blank_values=True)
    unknown = sorted(set(named) - {"queue"})
    if unknown:
        raise ValueError(f"unknown in {text!r}: {', '.join(unknown)}; allowed is ?queue=NAME")
    if not path:
        raise ValueError("the spool's path is empty")
    return Path(path), queue or named.get("queue", [DEFAULT_QUEUE])[-1]


def _is_server(url: str | os.PathLike[str]) -> bool:
    scheme, separator, _ = os.fspath(url).partition("://")
    return bool(separator) and scheme.lower() in SERVER_SCHEMES


@contextmanager
def _extra(name: str, package: str) -> Iterator[None]:
    """An engine is imported that needs a package which not everybody has: say how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        hint = f"pip install 'spoolq[{name}]'"
        raise NotCapable(f"the package {package} is not installed", op="open", hint=hint) from error


def open_queue(
    url: str | os.PathLike[str], *, queue: str | None = None, create: bool = True, detached: bool = False
) -> Queue:
    """Open a queue, and make the spool where the directory is missing, empty, or holds only a `queue.toml`.

    url: the spool's path, with `?queue=NAME` for another queue than "default"; `queue` says the same. Or a server's,
    `http://host:8000/queues/emails?token=...` (also https, and http+unix with the socket's quoted path for the host);
    without a token there, SPOOLQ_TOKEN. create: False refuses to make a spool that is not there (NotASpool). A queue
    that does not exist: QueueNotFound; `create_queue` makes it. detached: claims live by time alone, the queue's
    `lease_s` unless another is given, and outlive this process: for a server or a command that claims for somebody
    else. Raises SpoolError and its kinds where the path cannot be used, SettingsError; of a server Unreachable,
    NotAllowed.
    """
    if _is_server(url):
        with _extra("client", "httpx"):
            from spoolq import client
        return client.open_queue(os.fspath(url), queue=queue, detached=detached)
    from spoolq.spool.queue import SpoolQueue

    path, name = _target(url, queue)
    return SpoolQueue.open(path, name, create=create, detached=detached)


def init_spool(url: str | os.PathLike[str], *, group: str | None = None, settings: Settings | None = None) -> bool:
    """Make a spool, and let the members of `group` drop files into it; False where there is one already.

    Raises NotASpool where something else is in the way, ValueError for a group that does not exist.
    """
    from spoolq.spool import queues

    return queues.make_spool(_target(url, None)[0], group=group, settings=settings)


def list_queues(url: str | os.PathLike[str]) -> list[str]:
    """The names of a spool's or a server's queues, "default" first."""
    if _is_server(url):
        with _extra("client", "httpx"):
            from spoolq import client
        return client.list_queues(os.fspath(url))
    from spoolq.spool import queues

    return queues.list_queues(_target(url, None)[0])


def create_queue(url: str | os.PathLike[str], name: str, settings: Settings | None = None) -> Queue:
    """Make a queue and open it. QueueExists where it is there; ValueError for a name that is not allowed."""
    if _is_server(url):
        with _extra("client", "httpx"):
            from spoolq import client
        return client.create_queue(os.fspath(url), name, settings)
    from spoolq.spool import queues
    from spoolq.spool.queue import SpoolQueue

    path = _target(url, None)[0]
    queues.create_queue(path, name, settings)
    return SpoolQueue.open(path, name, create=False)


def delete_queue(url: str | os.PathLike[str], name: str) -> int:
    """Delete a queue with all its messages, for good, also while others have it open; returns how many messages."""
    if _is_server(url):
        with _extra("client", "httpx"):
            from spoolq import client
        return client.delete_queue(os.fspath(url), name)
    from spoolq.spool import queues

    return queues.delete_queue(_target(url, None)[0], name)
