"""The worker's log: one line per change, a fixed name and its fields, never a body.

`message.acknowledged id=... attempt=1 duration_s=0.012`. The same in `record.event` and `record.fields`, for handlers
that write JSON.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

LOG = logging.getLogger("spoolq.worker")

Field = str | int | float | None


def emit(level: int, event: str, **fields: Field) -> None:
    """Log an event; fields that are None are left out."""
    if LOG.isEnabledFor(level):
        known = {key: value for key, value in fields.items() if value is not None}
        LOG.log(level, "%s", line(event, known), extra={"event": event, "fields": known})


def line(event: str, fields: Mapping[str, Field]) -> str:
    """The event as text, on one line whatever the values hold."""
    return " ".join([event, *(f"{key}={_shown(value)}" for key, value in fields.items())])


def _shown(value: Field) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    plain = text.isprintable() and text and not any(char in ' "=' for char in text)
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())
