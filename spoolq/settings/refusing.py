"""What a person is told about settings that are not allowed: which, where each was set, what is, and what was meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spoolq.errors import SettingsError
from spoolq.settings.declared import defaults
from spoolq.settings.describing import Described, describe
from spoolq.settings.writing import toml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_UNKNOWN = "unexpected_keyword_argument"  # pydantic's name for a key that no field has


def refusal(error: ValidationError, data: Mapping[str, Any], source: str, origins: Mapping[str, str]) -> SettingsError:
    """The error for what pydantic found wrong; see `parse`."""
    wrong = {_key(detail): detail["type"] for detail in reversed(error.errors(include_url=False))}
    problems = [
        f"{_where(key, source, origins)} = {_shown(_value(data, key))}: {_complaint(key, kind)}"
        for key, kind in reversed(wrong.items())
    ]
    first = list(wrong)[-1]
    return SettingsError(
        "; ".join(problems),
        key=first,
        value=_value(data, first),
        path="" if first in origins else source,
        hint=_hint(first, wrong[first]),
    )


def _where(key: str, source: str, origins: Mapping[str, str]) -> str:
    return origins.get(key) or (f"{source}: {key}" if source else key)


def _complaint(key: str, kind: str) -> str:
    if kind == _UNKNOWN:
        return "there is no such setting"
    known = _known(key)
    return f"must be {known.allowed}" if known else f"must be a table, [{key}]"


def _hint(key: str, kind: str) -> str:
    if kind == _UNKNOWN:
        close = _suggest(key)
        return f"Did you mean {' or '.join(close)}?" if close else f"Settings are {', '.join(defaults())}"
    known = _known(key)
    return f"It means: {known.meaning}" if known else ""


def _known(key: str) -> Described | None:
    return next((each for each in describe() if each.key == key), None)


def _suggest(key: str) -> list[str]:
    """Known keys that somebody who wrote `key` may have meant: in another table first, then those spelled alike."""
    from difflib import get_close_matches

    names: dict[str, list[str]] = {}
    for known in defaults(tables=True):
        names.setdefault(known.rpartition(".")[2], []).append(known)
    last = key.rpartition(".")[2]
    if last in names:
        return names[last]
    alike = get_close_matches(key, defaults(tables=True), n=1, cutoff=0.75)
    return alike or names.get(next(iter(get_close_matches(last, names, n=1)), ""), [])


def _key(detail: ErrorDetails) -> str:
    return ".".join(part for part in detail["loc"] if isinstance(part, str))


def _value(data: Mapping[str, Any], key: str) -> Any:
    table, _, name = key.rpartition(".")
    try:
        return data[table][name] if table else data[name]
    except (KeyError, TypeError):
        return data.get(key)  # the key itself has a point


def _shown(value: object) -> str:
    text = toml(value) if isinstance(value, (str, bool, list)) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
