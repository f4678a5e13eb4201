"""What people write on a command line, read: durations, instants, headers. Pure; ValueError says what fits."""

from __future__ import annotations

import re
from collections.abc import Callable

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhdw])")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_PLAIN = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def duration(text: str) -> float:
    """Seconds: `90`, `1.5`, `90s`, `10m`, `2h`, `7d`, `1h30m`, `250ms`."""
    if _PLAIN.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise ValueError(f"must be seconds, or a duration such as 90s, 10m, 2h or 7d, not {text!r}")
    return sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))


def whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"must be a whole number, not {text!r}") from None


def number(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"must be a number, not {text!r}") from None


def instant(text: str) -> int:
    """UTC milliseconds of an ISO 8601 time; without an offset it is local time."""
    from datetime import datetime

    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise ValueError(f"must be an ISO 8601 time such as 2031-05-01T08:00:00Z, not {text!r}") from None


def pair(text: str) -> tuple[str, str]:
    """`KEY=VALUE`."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(f"must be KEY=VALUE, not {text!r}")
    return key, value


def one_of(*choices: str) -> Callable[[str], str]:
    """A reader of one of some words."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {text!r}")
        return text

    return read
