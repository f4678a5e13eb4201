"""Why a delivery ended, in one line: what lists show and what dead letters are grouped by. Pure.

The history keeps the whole text.
"""

from __future__ import annotations

SUMMARY_CHARS = 300


def summary(reason: str) -> str:
    """The last line of a traceback, the only line of the rest; whatever it was made of, UTF-8 can carry it."""
    lines = reason.strip().splitlines()
    if not lines:
        return ""
    return lines[-1].strip()[:SUMMARY_CHARS].encode("utf-8", "replace").decode()
