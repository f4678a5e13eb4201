"""Where a server is, which of its queues is meant, and with which token: read from a URL. Pure.

    http://host:8000/queues/emails?token=...
    https://example.org/spoolq/queues/emails        a server behind a prefix
    http+unix://%2Frun%2Fspoolq.sock/queues/emails  a Unix socket, its path quoted

Without a queue it is "default", without a token SPOOLQ_TOKEN. No error here, no repr and no `url` shows the token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from spoolq import validate

SCHEMES = ("http", "https", "http+unix")
TOKEN_VARIABLE = "SPOOLQ_TOKEN"
DEFAULT_QUEUE = "default"

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A queue of a server. server: its URL, as people know it. base: the URL that requests go to. socket: its path."""

    server: str
    base: str
    queue: str
    socket: str | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The queue's URL, without the token."""
        return f"{self.server}/queues/{self.queue}"

    @property
    def is_here(self) -> bool:
        """Whether the server is on this machine by its name, so that no proxy leads to it."""
        return self.socket is not None or urlsplit(self.base).hostname in _LOOPBACK


def is_address(text: str) -> bool:
    """Whether this is a server's URL, and no path."""
    return text.partition("://")[0].lower() in SCHEMES and "://" in text


def parse(url: str, queue: str | None, environ: Mapping[str, str]) -> Address:
    """Read a server's URL; `queue` counts more than what the URL says. ValueError for what is none."""
    shown = shown_url(url)
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError as error:
        raise ValueError(f"{shown!r} is no URL: host and port are not right") from error
    if split.username is not None or split.password is not None:
        raise ValueError(f"{shown!r}: a token is given as ?token=... or in {TOKEN_VARIABLE}, not before the host")
    if split.fragment:
        raise ValueError(f"{shown!r}: a queue's URL has no #")
    prefix, named = _path(split.path)
    asked = _query(split.query, shown)
    name = queue or asked.get("queue") or named or DEFAULT_QUEUE
    token = asked.get("token") or environ.get(TOKEN_VARIABLE) or None
    server, base, socket = _places(split, port, prefix, shown)
    return Address(
        server=server, base=base, socket=socket, queue=validate.check_queue_name(name), token=_checked_token(token)
    )


def shown_url(url: str) -> str:
    """A URL for people: without what may hold a token."""
    before, _, _ = url.partition("?")
    scheme, separator, rest = before.partition("#")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def _path(path: str) -> tuple[str, str | None]:
    """What stands before `/queues/NAME`, and the name."""
    prefix, found, name = path.rstrip("/").rpartition("/queues/")
    if found and "/" not in name:
        return prefix, unquote(name)
    return path.rstrip("/").removesuffix("/queues"), None


def _query(query: str, shown: str) -> dict[str, str]:
    asked = parse_qs(query, keep_blank_values=True)
    unknown = sorted(set(asked) - {"queue", "token"})
    if unknown:
        raise ValueError(f"unknown after {shown!r}: {', '.join(unknown)}; allowed are ?queue=NAME and ?token=TOKEN")
    return {key: values[-1] for key, values in asked.items()}


def _places(split: SplitResult, port: int | None, prefix: str, shown: str) -> tuple[str, str, str | None]:
    """The server's URL for people, the URL that requests go to, and the socket's path."""
    if split.scheme == "http+unix":
        socket = unquote(split.netloc)
        if not socket.startswith("/"):
            raise ValueError(f"{shown!r}: a socket's path begins with /, written %2F: http+unix://%2Frun%2Fs.sock")
        return f"http+unix://{split.netloc}{prefix}", f"http://localhost{prefix}", socket
    if not split.hostname:
        raise ValueError(f"{shown!r} names no host")
    host = f"[{split.hostname}]" if ":" in split.hostname else split.hostname
    server = f"{split.scheme}://{host}" + (f":{port}" if port is not None else "") + prefix
    return server, server, None


def _checked_token(token: str | None) -> str | None:
    if token is not None and _TOKEN.fullmatch(token) is None:
        raise ValueError("the token has characters that no token has; it is not shown here")
    return token
