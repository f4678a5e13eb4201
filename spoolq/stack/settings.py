"""The settings of the stack: SPOOLQ_ variables, else `spoolq.toml` in the current directory, else the defaults.

Settings of a queue are not among them: those are in its `queue.toml` (spoolq/settings.py), of which the reading of a
file is shared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, fields
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

from spoolq.errors import SettingsError
from spoolq.settings import PREFIX, Described, read_toml

FILE = "spoolq.toml"
_LEVELS = ("debug", "info", "warning", "error")


def _text(default: str, meaning: str) -> Any:
    return dataclass_field(default=default, metadata={"meaning": meaning, "range": None})


def _number(default: float, least: float, most: float, meaning: str) -> Any:
    return dataclass_field(default=default, metadata={"meaning": meaning, "range": (least, most)})


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """What may be set. The variable of `api_port` is SPOOLQ_API_PORT, and so on."""

    spool: str = _text("spool", "the spool's directory")
    log: str = _text("info", "how much is logged: debug, info, warning or error")
    api_host: str = _text("127.0.0.1", "the address of the REST API; another than this machine's own needs a token")
    api_port: int = _number(8000, 1, 65_535, "the port of the REST API")
    console_host: str = _text(
        "127.0.0.1", "the address of both consoles; another than this machine's own needs a token"
    )
    console_token: str = _text("", "what both consoles ask for before they show anything; empty: nothing")
    ops_port: int = _number(8501, 1, 65_535, "the port of the operations console")
    admin_port: int = _number(8502, 1, 65_535, "the port of the administration console")
    consumers: int = _number(1, 0, 256, "processes that consume")
    grace_s: float = _number(30.0, 0, 3600, "seconds that a consumer which is told to stop may go on with its message")
    producer_rate: float = _number(1.0, 0.001, 1000, "messages a second of the sample producer")
    relay_source: str = _text("", "the queue that the relay takes from, spool?queue=NAME; empty: the spool's first")
    relay_target: str = _text("", "the queue that the relay puts into, a URL; empty: it is not started")
    relay_rate: float = _number(0.0, 0, 1_000_000, "messages a second that the relay sends at most; 0: no limit")


def describe() -> list[Described]:
    """Every setting, in the order above."""
    return [
        Described(each.name, json.dumps(_plain(each.default)), _allowed(each), each.metadata["meaning"])
        for each in fields(StackSettings)
    ]


def load(environ: Mapping[str, str], directory: Path | None = None) -> StackSettings:
    """The settings in force: `environ`, over spoolq.toml in `directory` (the current one). SettingsError names what is
    wrong, and where it was set.
    """
    path = (directory or Path()) / FILE
    found, where = read_toml(path), {}
    for each in describe():
        if environ.get(each.variable):
            found[each.key], where[each.key] = environ[each.variable], each.variable
    known = {each.name: each for each in fields(StackSettings)}
    for key in found:
        if key not in known:
            raise SettingsError(
                f"{path}: {key}: there is no such setting", key=key, path=path, hint=f"Settings are {', '.join(known)}"
            )
    return StackSettings(
        **{key: _checked(known[key], value, where.get(key) or f"{path}: {key}") for key, value in found.items()}
    )


def adopt(environ: MutableMapping[str, str], directory: Path | None = None) -> None:
    """Let spoolq.toml speak through the environment, so that every command and every program it starts hears it."""
    if not ((directory or Path()) / FILE).exists():
        return
    settings = load(environ, directory)
    for key in read_toml((directory or Path()) / FILE):
        environ.setdefault(PREFIX + key.upper(), str(_plain(getattr(settings, key))))


def variables(settings: StackSettings) -> dict[str, str]:
    """The settings as the environment of what is started."""
    return {each.variable: str(_plain(getattr(settings, each.key))) for each in describe()}


def _checked(field: Any, value: Any, where: str) -> Any:
    try:
        return _converted(field, value)
    except ValueError:
        raise SettingsError(
            f"{where} = {value!r}: must be {_allowed(field)}",
            key=field.name,
            value=value,
            hint=f"It means: {field.metadata['meaning']}",
        ) from None


def _converted(field: Any, value: Any) -> Any:
    limits = field.metadata["range"]
    if limits is None:
        if not isinstance(value, str) or "\n" in value or "\0" in value:
            raise ValueError
        if field.name == "log" and value.lower() not in _LEVELS:
            raise ValueError
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError
    number = int(str(value)) if isinstance(field.default, int) else float(value)
    if not limits[0] <= number <= limits[1]:
        raise ValueError
    return number


def _allowed(field: Any) -> str:
    if field.name == "log":
        return f"one of {', '.join(_LEVELS)}"
    if field.metadata["range"] is None:
        return "text"
    least, most = field.metadata["range"]
    return f"a {'whole number' if isinstance(field.default, int) else 'number'} from {least} to {most}"


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
