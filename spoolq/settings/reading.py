"""Settings from `queue.toml` and the SPOOLQ_ variables, checked. Never creates or writes a file.

pydantic, tomllib and the words of a refusal are imported when there is something to read, or to refuse.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from spoolq.errors import SettingsError, storage_error
from spoolq.plain_check import accepted
from spoolq.settings.declared import PREFIX, Settings, adapter, defaults, variable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of a queue: `queue.toml` at `path`, then the SPOOLQ_ variables of `environ` over it.

    No path, or no file there, means defaults. Variables are SPOOLQ_<KEY> and SPOOLQ_<TABLE>_<KEY>, lists as JSON;
    other SPOOLQ_ variables (SPOOLQ_SPOOL, SPOOLQ_ID, ...) are none of settings' business. A SettingsError has the first
    wrong key in `key`, `value` and `path`, and all of them in its message. StorageError: the file cannot be read.
    """
    found = read_toml(path) if path else {}
    origins: dict[str, str] = {}
    for key, value in _from_environment(environ):
        origins[key] = variable(key)
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

    from spoolq.settings.refusing import refusal

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
        return adapter().validate_json(text, strict=True)
    except ValidationError as error:
        raise refusal(error, data, source, origins) from None


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
    for key, default in defaults().items():
        text = environ.get(variable(key))
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
        raise SettingsError(f"{variable(key)} = {value!r}: must be UTF-8", key=key, value=value) from error
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
