"""Every setting in words, for the documentation, `--help`, the consoles and who is told that one is not allowed."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from spoolq.settings.declared import COUNT_MAX, Settings, adapter, variable
from spoolq.settings.writing import toml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from annotated_types import Interval


class Described(NamedTuple):
    """One setting as the documentation and `--help` show it."""

    key: str
    """As in the file, with its table: `retry.base_s`."""
    default: str
    """As TOML."""
    allowed: str
    """In words: "a number from 0 to 1"."""
    meaning: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return variable(self.key)


def describe(settings: Settings | None = None) -> list[Described]:
    """Every setting in the order of the file: key, default (its value in `settings`), what is allowed and meant."""
    return list(_described(settings or Settings(), ""))


def _described(table: Any, prefix: str) -> Iterator[Described]:
    from typing import get_type_hints

    adapter()  # makes the annotations readable
    hints = get_type_hints(type(table), include_extras=True)
    for each in fields(table):
        value = getattr(table, each.name)
        if is_dataclass(value):
            yield from _described(value, f"{each.name}.")
        else:
            allowed = _allowed(hints[each.name])
            yield Described(f"{prefix}{each.name}", toml(value), allowed, each.metadata["meaning"])


def _allowed(hint: Any) -> str:
    """The annotation in words."""
    from typing import get_args, get_origin

    if get_origin(hint) is Literal:
        return "one of " + ", ".join(toml(choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a list; each {_allowed(get_args(hint)[0])}"
    kind, limit = get_args(hint)
    if kind is str:
        return "text, not empty"
    return ("a whole number " if kind is int else "a number ") + _range(limit)


def _range(limit: Interval) -> str:
    low = f"above {limit.gt}" if limit.gt is not None else f"from {limit.ge}"
    if limit.le == COUNT_MAX:
        return f"{low} up"
    return f"{low} to {limit.le}" if limit.gt is None else f"{low}, at most {limit.le}"
