"""The way in: `open_queue` takes a path or a URL and returns the engine behind it.

`"spool"`, `"spool?queue=emails"`, `"http://host:8000/queues/emails"`, `"postgresql://host/db?queue=emails"`. Which
scheme belongs to which engine is decided here and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from spoolq.errors import NotCapable, UnsupportedFileSystem

if TYPE_CHECKING:
    from spoolq.interfaces import Queue
    from spoolq.settings import Settings

DEFAULT_QUEUE = "default"
SERVER_SCHEMES = ("http", "https", "http+unix")
DATABASE_SCHEMES = ("postgresql", "postgres")


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
        if scheme.lower() in DATABASE_SCHEMES:
            raise ValueError("this is for a spool, by its path; a database is made ready by spoolq engine init")
        raise ValueError(
            f"no engine for {scheme}:// in this version; a spool is a path, such as 'spool', a server http://..., "
            "a database postgresql://..."
        )
    path, _, query = text.partition("?")
    named = parse_qs(query, keep_blank_values=True)
    unknown = sorted(set(named) - {"queue"})
    if unknown:
        raise ValueError(f"unknown in {text!r}: {', '.join(unknown)}; allowed is ?queue=NAME")
    if not path:
        raise ValueError("the spool's path is empty")
    return Path(path), queue or named.get("queue", [DEFAULT_QUEUE])[-1]


def is_url(url: str | os.PathLike[str]) -> bool:
    """Whether this names a server's or a database's queues, and no path."""
    return _remote(url) is not None


def shown_url(url: str | os.PathLike[str]) -> str:
    """A path as it is, a URL of any scheme without the password or token that may be in it; of its query, the queue."""
    text = os.fspath(url)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return text
    place, _, query = rest.partition("?")
    if "@" in query and "@" not in place and "/" not in place:
        return f"{scheme}://..."  # the question mark may stand in a password
    login, at, place = place.rpartition("@")
    named = parse_qs(query).get("queue")
    return f"{scheme}://{login.partition(':')[0]}{at}{place}" + (f"?queue={named[-1]}" if named else "")


def _remote(url: str | os.PathLike[str]) -> ModuleType | None:
    """The engine behind a URL: a module with open_queue, list_queues, create_queue, delete_queue; None for a path."""
    scheme, separator, _ = os.fspath(url).partition("://")
    if separator and scheme.lower() in SERVER_SCHEMES:
        with _extra("client", "httpx"):
            from spoolq import client
        return client
    if separator and scheme.lower() in DATABASE_SCHEMES:
        with _extra("postgres", "psycopg", "psycopg_pool"):
            from spoolq import postgres
        return postgres
    return None


@contextmanager
def _extra(name: str, *packages: str) -> Iterator[None]:
    """An engine is imported that needs a package which not everybody has: say how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in packages:
            raise
        hint = f"pip install 'spoolq[{name}]'"
        raise NotCapable(f"the package {error.name} is not installed", op="open", hint=hint) from error


def open_queue(
    url: str | os.PathLike[str], *, queue: str | None = None, create: bool = True, detached: bool = False
) -> Queue:
    """Open a queue, and make the spool where the directory is missing, empty, or holds only a `queue.toml`.

    url: the spool's path, with `?queue=NAME` for another queue than "default"; `queue` says the same. Or a server's,
    `http://host:8000/queues/emails?token=...` (also https, and http+unix with the socket's quoted path for the host);
    without a token there, SPOOLQ_TOKEN. Or a database's, `postgresql://host/db?queue=emails`, where `spoolq engine
    init` was run; `?connections=N` allows so many at once. create: False refuses to make a spool that is not there
    (NotASpool). A queue that does not exist: QueueNotFound; `create_queue` makes it. detached: claims live by time
    alone, the queue's `lease_s` unless another is given, and outlive this process: for a server or a command that
    claims for somebody else. Raises SpoolError and its kinds where the path cannot be used, SettingsError; of a server
    Unreachable, NotAllowed; of a database these and Busy.
    """
    if (engine := _remote(url)) is not None:
        opened: Queue = engine.open_queue(os.fspath(url), queue=queue, detached=detached)
        return opened
    from spoolq.spool.queue import SpoolQueue

    path, name = _target(url, queue)
    return SpoolQueue.open(path, name, create=create, detached=detached)


def init_spool(url: str | os.PathLike[str], *, group: str | None = None, settings: Settings | None = None) -> bool:
    """Make a spool, and let the members of `group` drop files into it; False where there is one already.

    Raises NotASpool where something else is in the way, ValueError for a group that does not exist. What a database
    needs is made by `init_engine`.
    """
    from spoolq.spool import queues

    return queues.make_spool(_target(url, None)[0], group=group, settings=settings)


def init_engine(url: str) -> bool:
    """Make what spoolq needs in a database, with the queue "default"; False where it is there already.

    Raises ValueError for what is no database's URL, Unreachable, NotAllowed; UnknownFormat where another version is.
    """
    made: bool = _database(url).init(url)
    return made


def upgrade_engine(url: str) -> int:
    """Bring what is in a database to this version of spoolq; the version it had. NotASpool where nothing is."""
    version: int = _database(url).upgrade(url)
    return version


def _database(url: str) -> ModuleType:
    engine = _remote(url)
    if engine is None or not hasattr(engine, "upgrade"):
        raise ValueError(f"must be a database's URL, such as postgresql://host/db, not {shown_url(url)!r}")
    return engine


def list_queues(url: str | os.PathLike[str]) -> list[str]:
    """The names of a spool's or a server's queues, "default" first."""
    if (engine := _remote(url)) is not None:
        names: list[str] = engine.list_queues(os.fspath(url))
        return names
    from spoolq.spool import queues

    return queues.list_queues(_target(url, None)[0])


def create_queue(url: str | os.PathLike[str], name: str, settings: Settings | None = None) -> Queue:
    """Make a queue and open it. QueueExists where it is there; ValueError for a name that is not allowed."""
    if (engine := _remote(url)) is not None:
        made: Queue = engine.create_queue(os.fspath(url), name, settings)
        return made
    from spoolq.spool import queues
    from spoolq.spool.queue import SpoolQueue

    path = _target(url, None)[0]
    queues.create_queue(path, name, settings)
    return SpoolQueue.open(path, name, create=False)


def delete_queue(url: str | os.PathLike[str], name: str) -> int:
    """Delete a queue with all its messages, for good, also while others have it open; returns how many messages.

    ValueError for "default", which every engine has: it can be purged.
    """
    if name == DEFAULT_QUEUE:
        raise ValueError("the queue 'default' cannot be deleted, only purged")
    if (engine := _remote(url)) is not None:
        count: int = engine.delete_queue(os.fspath(url), name)
        return count
    from spoolq.spool import queues

    return queues.delete_queue(_target(url, None)[0], name)
