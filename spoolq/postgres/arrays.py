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
_BIGINT, _BIGINTS = 20, 1016
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
class Bodies:
    """Bodies; None for one that is in chunks."""

    bodies: Sequence[bytes | None]


@dataclass(frozen=True, slots=True)
class Instants:
    """UTC milliseconds."""

    at_ms: Sequence[int]


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
        return _head(_UUID, len(obj.ids)) + b"".join([b"\0\0\0\x10" + _of_uuid(each) for each in obj.ids])


class _BodiesDumper(Dumper):
    format = Format.BINARY
    oid = _BYTEAS

    def dump(self, obj: Bodies) -> bytes:
        return _array(_BYTEA, obj.bodies)


class _InstantsDumper(Dumper):
    format = Format.BINARY
    oid = _BIGINTS

    def dump(self, obj: Instants) -> bytes:
        count = len(obj.at_ms)
        parts = [8] * (2 * count)
        parts[1::2] = obj.at_ms
        return _head(_BIGINT, count) + struct.pack("!" + "iq" * count, *parts)


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
        Bodies: _BodiesDumper,
        Instants: _InstantsDumper,
        Texts: _TextsDumper,
    }
    for kind, dumper in dumpers.items():
        context.adapters.register_dumper(kind, dumper)


def _of_uuid(text: str) -> bytes:
    return bytes.fromhex(text.replace("-", ""))


def _array(oid: int, elements: Sequence[bytes | None]) -> bytes:
    parts: list[Any] = [_head(oid, len(elements), has_null=None in elements)]
    for each in elements:
        parts.append(_LENGTH.pack(-1 if each is None else len(each)))
        if each is not None:
            parts.append(each)
    return b"".join(parts)


def _head(oid: int, count: int, *, has_null: bool = False) -> bytes:
    return _HEAD.pack(1, has_null, oid, count, 1)
