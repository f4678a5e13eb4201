"""Files that were dropped and are no messages: those that nobody looks at, those that wait, those in quarantine."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from spoolq.console import parts, place, words
from spoolq.errors import NotCapable
from spoolq.interfaces import Queue
from spoolq.models import DropInfo, Filter

EVERY_S = 5.0
MOST = 200
QUARANTINED = Filter(reason="not a regular file")
"""Links, FIFOs, sockets and devices go to dead/ unopened, with a reason that begins so."""


def page() -> None:
    """Draw it."""
    parts.frame("Drops", _draw)


@st.fragment(run_every=EVERY_S)
def _draw(queue: Queue) -> None:
    with parts.trouble():
        now_ms = place.now_ms()
        try:
            found = queue.drops(limit=MOST)
        except NotCapable:
            parts.empty(
                "Nothing can be dropped here.",
                "Only a spool is a directory. Send files on the ops console, by spoolq put, or through a relay.",
            )
            return
        st.markdown("**Waiting in new/**")
        _table([each for each in found if not each.ignored], now_ms, "waiting",
               ("No dropped file waits.", "Copy a file into new/ and it becomes a message."))  # fmt: skip
        st.markdown("**Ignored in new/**")
        _table([each for each in found if each.ignored], now_ms, "ignored",
               ("Nothing is ignored.", "Names of drops.ignore are left alone until renamed."))  # fmt: skip
        if len(found) == MOST:
            st.caption(f"The first {MOST} by name; there may be more.")
        st.markdown("**In quarantine**")
        _quarantine(queue, now_ms)
        st.caption(words.label(f"As of {words.clock(now_ms)}"))


def _table(found: Sequence[DropInfo], now_ms: int, key: str, nothing: tuple[str, str]) -> None:
    if not found:
        parts.empty(*nothing)
        return
    parts.table(
        {
            "name": [each.name for each in found],
            "why": [each.why for each in found],
            "bytes": [each.body_bytes for each in found],
            "changed (UTC)": [words.moment(each.changed_at_ms, now_ms) for each in found],
        },
        key,
    )


def _quarantine(queue: Queue, now_ms: int) -> None:
    page = queue.dead_letters.list(where=QUARANTINED, limit=MOST)
    if not page.messages:
        parts.empty("Nothing is in quarantine.", "Links, FIFOs, sockets and devices come here, unopened.")
        return
    parts.table(
        {
            "name": [each.name or "" for each in page.messages],
            "why": [each.reason for each in page.messages],
            "since (UTC)": [words.moment(each.changed_at_ms, now_ms) for each in page.messages],
            "id": [each.id for each in page.messages],
        },
        "quarantine",
    )
