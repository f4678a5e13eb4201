"""A queue's settings: their names, defaults and limits, `queue.toml` and the SPOOLQ_ variables.

Layer 0: imports nothing of spoolq but its errors and `plain_check`. Never creates or writes a file; whoever makes a
queue writes what `dump` returns.

Most commands run on defaults, and `spoolq put` has 150 ms for everything, so `Settings()` is a plain dataclass that
nothing has to validate: pydantic, annotated_types and tomllib are imported when there is something to read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from spoolq.errors import SettingsError, storage_error
from spoolq.plain_check import accepted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from annotated_types import Interval, MinLen
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import ErrorDetails

Durability = Literal["process", "power", "full"]

SECONDS_MAX = 3_153_600_000  # 100 years: past it, instants in ms and the system's timeouts overflow
COUNT_MAX = 2**63 - 1  # what the index can hold
ATTEMPTS_MAX = 999_999  # what a file name has room for
PREFIX = "SPOOLQ_"
_UNKNOWN = "unexpected_keyword_argument"  # pydantic's name for a key that no field has


def _setting(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


def _table(kind: type) -> Any:
    return field(default_factory=kind)


class _Checked:
    """How pydantic reads the dataclasses below, once it is asked to."""

    __slots__ = ()
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 pydantic wants a plain dict


@dataclass(frozen=True, slots=True)
class Retry(_Checked):
    """`[retry]`: how long a message that failed waits for its next attempt."""

    base_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(5.0, "seconds before the second attempt")
    factor: Annotated[float, Interval(ge=1, le=1000)] = _setting(2.0, "each further wait is this many times longer")
    cap_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(3600.0, "no wait is longer, in seconds")
    jitter: Annotated[float, Interval(ge=0, le=1)] = _setting(0.2, "the share of a wait that is left to chance")
    list_s: tuple[Annotated[float, Interval(ge=0, le=SECONDS_MAX)], ...] = _setting(
        (), "the waits one by one, in seconds, the last one repeated; instead of base_s and factor"
    )


@dataclass(frozen=True, slots=True)
class Retention(_Checked):
    """`[retention]`: how long settled messages are kept."""

    done_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(
        86400.0, "seconds an acknowledged message is kept; 0 deletes it at once"
    )
    dead_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(
        0.0, "seconds a dead letter is kept; 0 keeps it until somebody acts"
    )
    expired: Literal["dead", "delete"] = _setting("dead", "where a message goes whose time to live is over")


@dataclass(frozen=True, slots=True)
class Limits(_Checked):
    """`[limits]`: what the queue accepts."""

    body_bytes: Annotated[int, Interval(ge=0, le=COUNT_MAX)] = _setting(0, "largest body, in bytes; 0 is no limit")
    messages: Annotated[int, Interval(ge=0, le=COUNT_MAX)] = _setting(0, "most messages waiting; 0 is no limit")
    bytes: Annotated[int, Interval(ge=0, le=COUNT_MAX)] = _setting(0, "most bytes waiting; 0 is no limit")


@dataclass(frozen=True, slots=True)
class Reserve(_Checked):
    """`[reserve]`: what stays free on the disk, so that claims and acknowledgements still work."""

    bytes: Annotated[int, Interval(ge=0, le=COUNT_MAX)] = _setting(64 * 1024 * 1024, "bytes left free")
    percent: Annotated[float, Interval(ge=0, le=100)] = _setting(1.0, "percent of the disk left free")
    inodes: Annotated[int, Interval(ge=0, le=COUNT_MAX)] = _setting(1000, "inodes left free")


@dataclass(frozen=True, slots=True)
class Drops(_Checked):
    """`[drops]`: files that somebody puts into `new/` by hand."""

    settle_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(
        5.0, "seconds a file must be at rest where its writers cannot be seen"
    )
    ignore: tuple[Annotated[str, MinLen(1)], ...] = _setting(
        ("*.tmp", "*.part", "*.crdownload", "*~"), "name patterns left alone until the file is renamed"
    )
    schedule_max_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(
        2678400.0, "a modification time further ahead than this many seconds does not schedule"
    )


@dataclass(frozen=True, slots=True)
class Settings(_Checked):
    """All settings of one queue. Made by hand they are not checked: `parse` and `load` do that."""

    durability: Durability = _setting(
        "power", "what an enqueue survives: process kills, also power cuts, or full: claims and moves are synced too"
    )
    lease_s: Annotated[float, Interval(gt=0, le=SECONDS_MAX)] = _setting(
        60.0, "seconds a claim lasts that no live process proves"
    )
    max_hold_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(
        0.0, "seconds after which a live process loses its claim too; 0 is never"
    )
    max_attempts: Annotated[int, Interval(ge=1, le=ATTEMPTS_MAX)] = _setting(
        5, "deliveries started before a message is given up"
    )
    ttl_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(
        0.0, "seconds a message may wait before it expires; 0 is for ever"
    )
    dedup_window_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(
        300.0, "seconds a deduplication key is remembered after its enqueue"
    )
    busy_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(
        10.0, "seconds to wait for the write lock before giving up as busy"
    )
    retry: Retry = _table(Retry)
    retention: Retention = _table(Retention)
    limits: Limits = _table(Limits)
    reserve: Reserve = _table(Reserve)
    drops: Drops = _table(Drops)


class Described(NamedTuple):
    """One setting as the documentation and `--help` show it."""

    key: str
    """As in `queue.toml`, with its table: `retry.base_s`."""
    default: str
    """As TOML."""
    allowed: str
    """In words: "a number from 0 to 1"."""
    meaning: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return _variable(self.key)


# Reading ----------------------------------------------------------------------


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of a queue: `queue.toml` at `path`, then the SPOOLQ_ variables of `environ` over it.

    No path, or no file there, means defaults. Variables are SPOOLQ_<KEY> and SPOOLQ_<TABLE>_<KEY>, lists as JSON;
    other SPOOLQ_ variables (SPOOLQ_SPOOL, SPOOLQ_ID, ...) are none of settings' business. A SettingsError has the first
    wrong key in `key`, `value` and `path`, and all of them in its message. StorageError: the file cannot be read.
    """
    found = read_toml(path) if path else {}
    origins: dict[str, str] = {}
    for key, value in _from_environment(environ):
        origins[key] = _variable(key)
        _put(found, key, value)
    if not found:
        return Settings()
    return parse(found, source=str(path or ""), origins=origins)


def parse(data: Mapping[str, Any], *, source: str = "", origins: Mapping[str, str] | None = None) -> Settings:
    """Check `data`, laid out as `queue.toml` is, and make Settings of it.

    `source` is the file it came from, for the error; `origins` names the variable a single key came from instead.
    """
    quick: Settings | None = accepted(Settings, data)
    if quick is not None:
        return quick
    return _judged(data, source, origins or {})


def _judged(data: Mapping[str, Any], source: str, origins: Mapping[str, str]) -> Settings:
    """What pydantic says of it."""
    from pydantic import ValidationError

    adapter = _adapter()
    # As JSON, because only there "strict" means what TOML means: 5 is a number, "5" and true are not, an array fills
    # a tuple, a table fills a dataclass.
    try:
        text = json.dumps(data, default=str)
        json.dumps(data, default=str, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise SettingsError("the settings must be UTF-8; half a surrogate pair is not", path=source) from None
    except (ValueError, RecursionError):  # a number in hexadecimal, or tables in tables: TOML has no limits
        raise SettingsError(
            f"{source}: a number has too many digits, or tables are nested too deep", path=source
        ) from None
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        raise _refusal(error, data, source, origins) from None


def read_toml(path: Path) -> dict[str, Any]:
    """What a file says; {} where there is none. SettingsError: it is no TOML; StorageError: it cannot be read."""
    import tomllib

    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise storage_error(error, "read settings", str(path)) from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        hint = "Mend the file; without it there are the defaults"
        raise SettingsError(f"{path}: not TOML: {error}", path=path, hint=hint) from error


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    if not any(name.startswith(PREFIX) for name in environ):
        return
    for key, default in _defaults().items():
        text = environ.get(_variable(key))
        if text is not None:
            yield key, _decode(key, text, default)


def _decode(key: str, text: str, default: Any) -> Any:
    """The value in a variable; one that does not fit stays text, and is refused as such."""
    try:
        value = _convert(text, default)
    except (ValueError, RecursionError):
        value = text
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise SettingsError(f"{_variable(key)} = {value!r}: must be UTF-8", key=key, value=value) from error
    return value


def _convert(text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    if isinstance(default, tuple):
        return json.loads(text)
    return int(text) if isinstance(default, int) else float(text)


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    table, _, name = key.rpartition(".")
    if not table:
        data[name] = value
    elif isinstance(data.setdefault(table, {}), dict):
        data[table][name] = value
    # else the file has a plain value where the table belongs, and is refused for it


@cache
def _adapter() -> TypeAdapter[Settings]:
    import annotated_types
    from pydantic import TypeAdapter

    # The annotations above are text, looked up here for the first time: at the top, this import costs every command
    # 20 ms.
    globals().update(Interval=annotated_types.Interval, MinLen=annotated_types.MinLen)
    return TypeAdapter(Settings)


# Refusing ---------------------------------------------------------------------


def _refusal(error: ValidationError, data: Mapping[str, Any], source: str, origins: Mapping[str, str]) -> SettingsError:
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
        return f"Did you mean {' or '.join(close)}?" if close else f"Settings are {', '.join(_defaults())}"
    known = _known(key)
    return f"It means: {known.meaning}" if known else ""


def _known(key: str) -> Described | None:
    return next((each for each in describe() if each.key == key), None)


def _suggest(key: str) -> list[str]:
    """Known keys that somebody who wrote `key` may have meant: in another table first, then those spelled alike."""
    from difflib import get_close_matches

    names: dict[str, list[str]] = {}
    for known in _defaults(tables=True):
        names.setdefault(known.rpartition(".")[2], []).append(known)
    last = key.rpartition(".")[2]
    if last in names:
        return names[last]
    alike = get_close_matches(key, _defaults(tables=True), n=1, cutoff=0.75)
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
    text = _toml(value) if isinstance(value, (str, bool, list)) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


# Describing -------------------------------------------------------------------


def describe(settings: Settings | None = None) -> list[Described]:
    """Every setting in the order of the file: key, default (its value in `settings`), what is allowed and meant."""
    return list(_described(settings or Settings(), ""))


def _described(table: Any, prefix: str) -> Iterator[Described]:
    from typing import get_type_hints

    _adapter()
    hints = get_type_hints(type(table), include_extras=True)
    for each in fields(table):
        value = getattr(table, each.name)
        if is_dataclass(value):
            yield from _described(value, f"{each.name}.")
        else:
            allowed = _allowed(hints[each.name])
            yield Described(f"{prefix}{each.name}", _toml(value), allowed, each.metadata["meaning"])


def _allowed(hint: Any) -> str:
    """The annotation in words."""
    from typing import get_args, get_origin

    if get_origin(hint) is Literal:
        return "one of " + ", ".join(_toml(choice) for choice in get_args(hint))
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


def _variable(key: str) -> str:
    return PREFIX + key.replace(".", "_").upper()


def _defaults(*, tables: bool = False) -> dict[str, Any]:
    """Each key with its default; with `tables`, the tables too."""
    found: dict[str, Any] = {}
    settings = Settings()
    for each in fields(settings):
        value: Any = getattr(settings, each.name)
        if not is_dataclass(value) or tables:
            found[each.name] = value
        if is_dataclass(value):
            found.update({f"{each.name}.{inner.name}": getattr(value, inner.name) for inner in fields(value)})
    return found


# Writing ----------------------------------------------------------------------


def dump(settings: Settings, *, only_changed: bool = True) -> str:
    """The settings as the text of a `queue.toml`; by default only what differs from the defaults.

    "" where nothing differs. `load` reads the same settings back.
    """
    blocks = [_block(settings, Settings(), "", only_changed)]
    for each in fields(settings):
        value: Any = getattr(settings, each.name)
        if is_dataclass(value):
            blocks.append(_block(value, getattr(Settings(), each.name), f"[{each.name}]\n", only_changed))
    return "\n".join(block for block in blocks if block)


def _block(table: Any, defaults: Any, head: str, only_changed: bool) -> str:
    lines = []
    for each in fields(table):
        value = getattr(table, each.name)
        if not is_dataclass(value) and not (only_changed and value == getattr(defaults, each.name)):
            lines.append(f"{each.name} = {_toml(value)}\n")
    return head + "".join(lines) if lines else ""


def _toml(value: object) -> str:
    """One value as TOML."""
    if isinstance(value, str):
        # A JSON string is a TOML string, except that TOML wants DEL escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # 60, not 60.0: read back as a number of seconds all the same
    return repr(value)
