"""One line a request: `http.request` and its fields, never the body, the query or a token."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from spoolq.web.metrics import Counters
from spoolq.web.security import Call

log = logging.getLogger("spoolq.access")

_PATH_CHARS = 200


class Done:
    """What is told of every request at its end."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def __call__(self, scope: Any, call: Call) -> None:
        """Count it and log it."""
        seconds = time.perf_counter() - call.started_s
        self._counters.count(scope["method"] if scope["method"] in _METHODS else "other", call.status, seconds)
        if log.isEnabledFor(logging.INFO):
            client = scope.get("client")
            log.info(
                "http.request request_id=%s method=%s path=%s status=%d duration_ms=%.1f sent_bytes=%d client=%s "
                "token=%s",
                call.request_id,
                scope["method"],
                _shown(scope),
                call.status,
                seconds * 1000,
                call.sent_bytes,
                client[0] if client else "unix",
                call.who or "-",
            )


_METHODS = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"))


def _shown(scope: Any) -> str:
    """The path as it was sent, so that nothing in it breaks the line."""
    raw = scope.get("raw_path")
    text = raw.decode("latin-1") if raw else scope["path"]
    text = text if len(text) <= _PATH_CHARS else text[:_PATH_CHARS] + "..."
    return text if text.isascii() and text.isprintable() and " " not in text else json.dumps(text)
