"""Settings as the text of a `queue.toml`."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any

from spoolq.settings.declared import Settings


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
            lines.append(f"{each.name} = {toml(value)}\n")
    return head + "".join(lines) if lines else ""


def toml(value: object) -> str:
    """One value as TOML."""
    if isinstance(value, str):
        # A JSON string is a TOML string, except that TOML wants DEL escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # 60, not 60.0: read back as a number of seconds all the same
    return repr(value)
