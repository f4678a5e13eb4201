"""Columns of a batch in PostgreSQL's binary form, written at once; psycopg's own lists go element by element.

The form is that of array_send: dimensions, a flag for NULL, the element's type; size and lower bound; then each element
with its length, -1 for NULL (src/backend/utils/adt/arrayfuncs.c).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEAD = struct.Struct("!iiIii")
_LENGTH = struct.Struct("!i")
_UUID, _UUIDS = 2950, 2951
_BYTEA, _BYTEAS = 17, 1001
_TEXT, _TEXTS = 25, 1009


@dataclass(frozen=True, slots=True)
class Uuid:
    """One id, of the form that `Clock.new_id` makes."""

    id: str


@dataclass(frozen=True, slots=True)
class Uuids:
    """Ids."""

    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Byteas:
    """Bodies; None for one that is in chunks."""

    bodies: Sequence[bytes | None]


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts that the database takes: no NUL in them."""

    texts: Sequence[str]


class _UuidDumper(Dumper):
    format = Format.BINARY
    oid = _UUID

    def dump(self, obj: Uuid) -> bytes:
        return _of_uuid(obj.id)


class _UuidsDumper(Dumper):
    format = Format.BINARY
    oid = _UUIDS

    def dump(self, obj: Uuids) -> bytes:
        if not obj.ids:
            return _head(_UUID, 0)
        return _head(_UUID, len(obj.ids)) + _of_uuid("00000010" + "00000010".join(obj.ids))


class _ByteasDumper(Dumper):
    format = Format.BINARY
    oid = _BYTEAS

    def dump(self, obj: Byteas) -> bytes:
        return _array(_BYTEA, obj.bodies)


class _TextsDumper(Dumper):
    format = Format.BINARY
    oid = _TEXTS

    def dump(self, obj: Texts) -> bytes:
        return _array(_TEXT, [each.encode() for each in obj.texts])


def register(context: psycopg.Connection[Any] | psycopg.Cursor[Any]) -> None:
    """Let a connection, or a cursor alone, take these as parameters."""
    dumpers: dict[type, type[Dumper]] = {
        Uuid: _UuidDumper,
        Uuids: _UuidsDumper,
        Byteas: _ByteasDumper,
        Texts: _TextsDumper,
    }
    for kind, dumper in dumpers.items():
        context.adapters.register_dumper(kind, dumper)


def _of_uuid(text: str) -> bytes:
    return bytes.fromhex(text.replace("-", ""))


def _array(oid: int, elements: Sequence[bytes | None]) -> bytes:
    has_null = None in elements
    parts = [b""] * (2 * len(elements))
    parts[::2] = [_LENGTH.pack(-1 if each is None else len(each)) for each in elements]
    parts[1::2] = [each or b"" for each in elements] if has_null else elements  # type: ignore[assignment]
    return _head(oid, len(elements), has_null=has_null) + b"".join(parts)


def _head(oid: int, count: int, *, has_null: bool = False) -> bytes:
    return _HEAD.pack(1, has_null, oid, count, 1)
