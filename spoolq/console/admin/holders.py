"""Who holds what: the consumers whose process proves it, what is held by time, and giving it back now."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from spoolq.console import parts, place, words
from spoolq.console.admin import acts
from spoolq.errors import MessageNotFound
from spoolq.interfaces import Queue
from spoolq.models import HolderInfo, MessageInfo

EVERY_S = 2.0
MOST = 200


def page() -> None:
    """Draw it."""
    parts.frame("Who holds what", _draw)


@st.fragment(run_every=EVERY_S)
def _draw(queue: Queue) -> None:
    with parts.trouble():
        now_ms = place.now_ms()
        st.markdown("**Consumers**")
        if queue.capabilities.holders or place.is_server():
            _consumers(queue.holders(), now_ms)
        else:
            parts.empty("This engine knows no holders.", "Every claim here lives by time.")
        st.markdown("**Claimed messages**")
        _claims(queue, now_ms)
        st.caption(words.label(f"As of {words.clock(now_ms)}"))


def _consumers(found: Sequence[HolderInfo], now_ms: int) -> None:
    if not found:
        parts.empty("No consumer is there.", "Start one: spoolq work -- ./process.sh {}. It is shown while it lives.")
        return
    parts.table(
        {
            "pid": [str(each.pid or "") for each in found],
            "host": [each.host for each in found],
            "command": [each.command for each in found],
            "since (UTC)": [words.moment(each.since_at_ms or None, now_ms) for each in found],
            "alive": [_alive(each) for each in found],
            "claims": [each.claims for each in found],
            "holder": [each.holder for each in found],
        },
        "holders",
    )


def _alive(holder: HolderInfo) -> str:
    """Of a process on another host nobody can say more than its lease does."""
    if not holder.alive:
        return "no: its claims go back"
    return "its lease lasts" if place.is_database() else "yes"


def _claims(queue: Queue, now_ms: int) -> None:
    page = queue.list("claimed", limit=MOST)
    found = page.messages
    if not found:
        parts.empty("Nothing is claimed.", "What a consumer takes is shown here until it is settled.")
        return
    picked = [found[row] for row in parts.table(_cells(found, now_ms), f"claims-{queue.name}", select=True)]
    if page.cursor is not None:
        st.caption(f"The first {MOST}; there are more.")
    label = f"Give back {words.counted(len(picked), 'message')} now" if picked else "Give back now"
    if st.button(label, disabled=not picked, key="give-back", help="Select messages first"):
        ids = [each.id for each in picked]
        parts.confirm(
            "Give back?",
            what=f"The claim on {words.counted(len(ids), 'message')} of the queue {queue.name} ends now. The attempt "
            "counts, and it is delivered again, although whoever holds it may still be at work on it.",
            do=f"Give back {words.counted(len(ids), 'message')}",
            act=acts.kept("give back", lambda: _give_back(queue, ids), queue=queue.name, count=len(ids)),
        )


def _cells(found: Sequence[MessageInfo], now_ms: int) -> parts.Cells:
    return {
        "name": [each.name or "" for each in found],
        "attempt": [each.attempts for each in found],
        "held since (UTC)": [words.moment(each.changed_at_ms, now_ms) for each in found],
        "by": [f"holder {each.holder}" if each.holder else "time" for each in found],
        "until (UTC)": [words.moment(each.deadline_at_ms, now_ms) or "its process ends" for each in found],
        "bytes": [each.body_bytes for each in found],
        "id": [each.id for each in found],
    }


def _give_back(queue: Queue, ids: Sequence[str]) -> str:
    count = 0
    for id in ids:
        try:
            queue.give_back(id, reason="given back in the admin console")
        except MessageNotFound:  # settled meanwhile
            continue
        count += 1
    return f"{words.counted(count, 'message')} given back" + (
        f", {len(ids) - count} were settled before" if count < len(ids) else ""
    )
