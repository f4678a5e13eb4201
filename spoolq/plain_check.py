"""The good case of reading settings, without pydantic: its import alone takes longer than a whole `spoolq put` may.

`accepted` fills a dataclass from plain data where every value plainly fits its annotation, and answers None on any
doubt; pydantic then judges, and words the refusal. It reads the same annotations, as the text that they are, with
stand-ins for `Annotated`, `Interval` and the like. tests/test_settings.py holds it to pydantic's judgement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_args

_Fits = Callable[[Any], bool]


class _Of:
    """`Annotated[...]`, `Literal[...]`, `tuple[...]`: whatever stands in the brackets."""

    def __init__(self, make: Callable[[Any], _Fits]) -> None:
        self._make = make

    def __getitem__(self, inside: Any) -> _Fits:
        return self._make(inside)


def _interval(ge: float = -math.inf, gt: float = -math.inf, le: float = math.inf) -> _Fits:
    return lambda value: ge <= value <= le and value > gt


def _min_length(least: int) -> _Fits:
    return lambda value: len(value) >= least


_WORDS: dict[str, Any] = {
    "Annotated": _Of(lambda inside: lambda value: all(fits(value) for fits in inside)),
    "Literal": _Of(lambda inside: lambda value: isinstance(value, str) and value in inside),
    "tuple": _Of(lambda inside: lambda value: isinstance(value, list) and all(map(inside[0], value))),
    "float": lambda value: type(value) in (int, float),
    "int": lambda value: type(value) is int,
    "str": lambda value: type(value) is str,
    "Interval": _interval,
    "MinLen": _min_length,
}


@cache
def _checks(kind: type, module: str) -> dict[str, Any]:
    """For each field its check, or the dataclass that its table fills."""
    import sys

    names = {**vars(sys.modules[module]), **_WORDS}
    return {field.name: _check(eval(str(field.type), names)) for field in fields(kind)}  # our own annotations


def _check(read: Any) -> Any:
    """What was read of an annotation as a check; a name may stand for a real `Literal`."""
    words = get_args(read)
    return (lambda value: isinstance(value, str) and value in words) if words else read


def accepted(kind: type, data: Mapping[str, Any]) -> Any:
    """An instance of the dataclass `kind` with this data, or None where somebody else must judge."""
    checks = _checks(kind, kind.__module__)
    values: dict[str, Any] = {}
    for key, value in data.items():
        check = checks.get(key)
        if check is None:
            return None
        if is_dataclass(check):
            values[key] = accepted(check, value) if isinstance(value, Mapping) else None  # type: ignore[arg-type]
            if values[key] is None:
                return None
        elif check(value):
            values[key] = _as_field(value, getattr(kind(), key))
        else:
            return None
    return kind(**values)


def _as_field(value: Any, default: Any) -> Any:
    """An integer where a float belongs, an array where a tuple does."""
    if isinstance(default, float):
        return float(value)
    if isinstance(value, list):
        return tuple(map(float, value)) if not isinstance(next(iter(value), ""), str) else tuple(value)
    return value
