"""Tokens for the REST API: `tokens.toml` in the spool, mode 0600, which keeps hashes and no token.

While the file is there every request needs a token; revoking the last one leaves the file, so that it opens nothing. A
token is 32 bytes of chance, so a plain SHA-256 of it is enough: there is nothing to guess. Compared in constant time,
on bytes, with all that are known.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import time
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spoolq.clock import Clock
from spoolq.errors import NotFound, SpoolqError, UnsafeSpool
from spoolq.queue import is_url
from spoolq.spool import queues
from spoolq.spool.lock import WriteLock
from spoolq.spool.session import check_place, translated

SCOPES = ("enqueue", "consume", "admin")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_BUSY_S = 10.0
_LOOK_S = 0.5


class TokenExists(SpoolqError):
    """A token of this name is there already."""


class TokenNotFound(NotFound):
    """No token has this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What is known of a token. queues: these only, or all where there is none."""

    name: str
    scopes: tuple[str, ...]
    queues: tuple[str, ...] = ()
    sha256: str
    made_at_ms: int = 0

    def has(self, scope: str) -> bool:
        """Whether it may do what needs this scope; "any" is met by every token."""
        return scope == "any" or scope in self.scopes or "admin" in self.scopes

    def admits(self, queue: str) -> bool:
        """Whether it is for this queue."""
        return not self.queues or queue in self.queues


class Tokens:
    """The tokens of a spool, as its file has them."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        self.all = tuple(tokens)

    def find(self, given: bytes) -> Token | None:
        """The token of this text, or None."""
        digest = hashlib.sha256(given).hexdigest().encode()
        found = None
        for token in self.all:
            if hmac.compare_digest(token.sha256.encode(), digest):
                found = token
        return found


class TokenFile:
    """`tokens.toml` of a spool, read again where it has changed, at most twice a second. A database has none."""

    def __init__(self, spool: str | os.PathLike[str]) -> None:
        self._path = None if is_url(spool) else Path(spool) / "tokens.toml"
        self._seen: tuple[int, int] | None = None
        self._next_s = float("-inf")
        self._tokens: Tokens | None = None

    def current(self) -> Tokens | None:
        """The tokens, or None where there is no file. UnsafeSpool where others may write to it."""
        now = time.monotonic()
        if self._path is None or now < self._next_s:
            return self._tokens
        stamp = self._stamp(self._path)
        if stamp is None or stamp != self._seen:
            self._tokens = None if stamp is None else Tokens(_read(self._path))
            self._seen = stamp
        self._next_s = now + _LOOK_S
        return self._tokens

    @staticmethod
    def _stamp(path: Path) -> tuple[int, int] | None:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return None
        return found.st_ctime_ns, found.st_ino  # which a chmod changes too


def list_tokens(spool: str | os.PathLike[str]) -> list[Token]:
    """The tokens of a spool, in the order in which they were made. ValueError for what is no path: it keeps none."""
    path = _file_of(spool)
    check_place(queues.directory_of(Path(spool), queues.DEFAULT))
    return list(_read(path)) if path.exists() else []


def _file_of(spool: str | os.PathLike[str]) -> Path:
    if is_url(spool):
        raise ValueError("tokens are kept in a spool's directory, and this is a URL")
    return Path(spool) / "tokens.toml"


def create_token(spool: str | os.PathLike[str], name: str, *, scopes: Iterable[str], queues: Iterable[str] = ()) -> str:
    """Make a token, and return its text, which is kept nowhere. TokenExists where there is one of this name."""
    token = _checked(name, tuple(scopes), tuple(queues))
    text = f"spoolq_{secrets.token_urlsafe(32)}"
    made = Token(
        name=token.name,
        scopes=token.scopes,
        queues=token.queues,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        made_at_ms=Clock().wall_ms(),
    )
    with _changing(spool) as known:
        if any(each.name == name for each in known):
            raise TokenExists(f"there is a token {name!r} already", op="token", hint="Revoke it first")
        known.append(made)
    return text


def revoke_token(spool: str | os.PathLike[str], name: str) -> None:
    """Make a token worthless, within a second in every server. TokenNotFound where there is none of this name."""
    with _changing(spool) as known:
        left = [each for each in known if each.name != name]
        if len(left) == len(known):
            raise TokenNotFound(f"there is no token {name!r}", op="token", hint="spoolq token list shows them")
        known[:] = left


def _checked(name: str, scopes: tuple[str, ...], admitted: tuple[str, ...]) -> Token:
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"a token's name is 1 to 64 of a-z, 0-9, '.', '_' and '-', not {name!r}")
    for scope in scopes:
        if scope not in SCOPES:
            raise ValueError(f"scope must be one of {', '.join(SCOPES)}, not {scope!r}")
    if not scopes:
        raise ValueError("a token needs a scope")
    for each in admitted:
        queues.check_queue_name(each)
    return Token(name=name, scopes=scopes, queues=admitted, sha256="")


@contextmanager
def _changing(spool: str | os.PathLike[str]) -> Iterator[list[Token]]:
    """The tokens, to be changed in place, and written as a whole at the end; one at a time, by the write lock."""
    path = _file_of(spool).parent
    directory = queues.directory_of(path, queues.DEFAULT)
    check_place(directory)
    target = os.fspath(path / "tokens.toml")
    with translated("token", target):
        lock = WriteLock(directory.lock, directory.files.open_lock(directory.lock))
        try:
            lock.acquire(_BUSY_S)
            try:
                known = list(_read(path / "tokens.toml")) if os.path.exists(target) else []
                yield known
                text = "".join(map(_table, known)) or "# Every token was revoked.\n"
                aside = directory.aside("tokens.toml")
                directory.files.write_whole(aside, target, text.encode(), sync=True, mode=0o600)
            finally:
                lock.release()
        finally:
            lock.close()


def _table(token: Token) -> str:
    """A token as TOML; JSON's strings and arrays are TOML's."""
    fields: dict[str, Any] = {
        "name": token.name,
        "scopes": list(token.scopes),
        "queues": list(token.queues),
        "sha256": token.sha256,
        "made_at_ms": token.made_at_ms,
    }
    return "[[token]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items()) + "\n"


def _read(path: Path) -> Iterator[Token]:
    with translated("token", os.fspath(path)), open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UnsafeSpool("others may write to tokens.toml", op="token", path=path, hint=f"chmod 600 '{path}'")
        try:
            data = tomllib.load(file)
            tables = data.get("token", [])
            made = [_token(table) for table in tables]
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:  # ValueError: TOML's too
            raise SpoolqError("tokens.toml cannot be read", op="token", path=path, hint=f"Mend it: {error}") from error
    return iter(made)


def _token(table: dict[str, Any]) -> Token:
    return Token(
        name=str(table["name"]),
        scopes=tuple(map(str, table["scopes"])),
        queues=tuple(map(str, table.get("queues", ()))),
        sha256=str(table["sha256"]),
        made_at_ms=int(table.get("made_at_ms", 0)),
    )
