"""How the consoles say things: ages, sizes, counts, instants; and text from messages, which is never trusted. Pure.

Whatever came with a message goes through `line` or `lines` into an element that shows text (st.text, st.code, a
table). Where Streamlit knows only markdown, a label or a note, it goes through `label`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from spoolq.cli import text
from spoolq.models import State

counted = text.counted
size = text.size

JOINER = "\u2060"
"""Invisible, and no part of any word: it keeps Streamlit from making a link or a picture of what stands around it."""

STATE_WORDS: Mapping[State, str] = {
    "ready": "waits to be taken",
    "scheduled": "waits for its time",
    "claimed": "is being worked on",
    "done": "was processed",
    "dead": "gave up",
}

_MARKS = re.compile(r"([!-/:-@\[-`{-~])")
# Streamlit makes emoji, links and arrows of text whose marks are escaped, too: it looks for them after markdown.
_JOINED = re.compile(r"(:(?=\S)|@|www|->|<-|--)", re.IGNORECASE)


def line(words: object) -> str:
    """One line of text: controls, terminal escapes and marks of direction are shown, not done."""
    return text.safe(str(words))


def lines(words: str) -> str:
    """The same for text of several lines."""
    return text.safe_lines(words.replace("\r\n", "\n"))


def label(words: object, most: int = 300) -> str:
    """One line for where markdown is read: it shows as it is, and nothing in it is markdown, HTML, emoji or a link."""
    shown = short(line(words), most)
    joined = _JOINED.sub(lambda found: JOINER.join((*found[0], "")), shown)
    return _MARKS.sub(r"\\\1", joined)


def short(words: str, most: int) -> str:
    """The beginning, where it is longer."""
    return words if len(words) <= most else words[: most - 1] + "…"


def span(seconds: float) -> str:
    """A duration: `12s`, `5m 12s`, `3h 20m`."""
    return text.span(seconds)


def age(at_ms: int | None, now_ms: int) -> str:
    """How long ago: `12s ago`, `in 5m` for what is ahead, "" for never."""
    if at_ms is None:
        return ""
    seconds = (now_ms - at_ms) / 1000
    if abs(seconds) < 1:
        return "now"
    return f"{span(int(seconds))} ago" if seconds > 0 else f"in {span(int(-seconds))}"


def instant(at_ms: int | None) -> str:
    """A time for people: `2031-05-01 08:00:00 UTC`, "" for none."""
    return f"{text.instant(at_ms)[:19].replace('T', ' ')} UTC" if at_ms is not None else ""


def moment(at_ms: int | None, now_ms: int | None = None) -> str:
    """A time for a table that says UTC, with how long ago: `2031-05-01 08:00:00 · 12s ago`. Sorts by time."""
    if at_ms is None:
        return ""
    return instant(at_ms).removesuffix(" UTC") + (f" · {age(at_ms, now_ms)}" if now_ms is not None else "")


def clock(at_ms: int) -> str:
    """The time of day: `08:00:00 UTC`."""
    return f"{text.instant(at_ms)[11:19]} UTC"


def trouble(error: BaseException) -> tuple[str, str]:
    """What went wrong, and what to do about it, as plain text."""
    said = getattr(error, "message", "") or str(error) or type(error).__name__
    return lines(said[:1].upper() + said[1:]), lines(getattr(error, "hint", "") or "")
