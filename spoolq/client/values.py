"""The values of spoolq/models.py and settings, as a server's JSON has them: both ways.

Fields and settings that this version does not know are passed over: a server may be newer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, cast

from spoolq.models import Attempt, Filter, MessageInfo, Page, Stats
from spoolq.settings import Settings, parse

_T = TypeVar("_T")
_DETAILS = ("exit_status", "signal", "stderr", "duration_s", "host", "pid")
_REASON_CHARS = 4000
"""Of a longer reason its end is sent: there a traceback says what it was."""


# From the server


def record(kind: type[_T], data: Mapping[str, Any]) -> _T:
    """A dataclass made of the fields it knows."""
    names = _names(cast("Hashable", kind))
    return kind(**{name: data[name] for name in names if name in data})


def records(kind: type[_T], key: str) -> Callable[[Mapping[str, Any]], Sequence[_T]]:
    """A reader of the list under `key`."""
    return lambda data: [record(kind, each) for each in data[key]]


def message_info(data: Mapping[str, Any]) -> MessageInfo:
    """What is known of a message."""
    history = tuple(record(Attempt, each) for each in data.get("history", ()))
    return record(MessageInfo, {**data, "history": history})


def messages(data: Mapping[str, Any]) -> Sequence[MessageInfo]:
    """A list of messages."""
    return [message_info(each) for each in data["messages"]]


def page(data: Mapping[str, Any]) -> Page:
    """A page of a list."""
    return Page(messages=tuple(messages(data)), cursor=data["cursor"])


def stats(data: Mapping[str, Any]) -> Stats:
    """Counts, bytes and totals."""
    pairs = {
        name: tuple((bound, count) for bound, count in data.get(name, ()))
        for name in ("wait_histogram", "process_histogram")
    }
    return record(Stats, {**data, **pairs})


def settings(data: Mapping[str, Any]) -> Settings:
    """A queue's settings."""
    return parse(_known(Settings(), data))


def count(data: Mapping[str, Any]) -> int:
    """How many it was."""
    return int(data["count"])


def _known(table: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in fields(table):
        if each.name in data:
            default = getattr(table, each.name)
            found[each.name] = _known(default, data[each.name]) if is_dataclass(default) else data[each.name]
    return found


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind))


# To the server


def given(**values: Any) -> dict[str, Any]:
    """Those that are not None: the server has its own defaults."""
    return {name: value for name, value in values.items() if value is not None}


def filter_parts(where: Filter | None) -> dict[str, Any]:
    """The parts of a filter that are given."""
    return {} if where is None else given(**asdict(where))


def failure(reason: str, details: Attempt | None) -> dict[str, Any]:
    """Why a delivery failed, and what a worker knows of it."""
    if details is None:
        return {"reason": tail(reason)}
    known = {name: value for name in _DETAILS if (value := getattr(details, name)) not in (None, "")}
    if "stderr" in known:
        known["stderr"] = tail(known["stderr"])
    if not details.pid:
        known.pop("pid")
    return {"reason": tail(reason or details.reason), "details": known}


def tail(text: str, chars: int = _REASON_CHARS) -> str:
    """The end of a text, as UTF-8 can carry it: what a program printed may hold half of a surrogate pair."""
    return text[-chars:].encode("utf-8", "replace").decode()


def plain(settings: Settings) -> dict[str, Any]:
    """Settings, checked, as JSON has them. SettingsError."""
    data: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    parse(data)
    return data
