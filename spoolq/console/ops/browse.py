"""Messages of every state, and what can be done with them."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from spoolq.console import parts, words
from spoolq.console.ops import listing, message
from spoolq.interfaces import Queue
from spoolq.models import STATES, MessageInfo, Page, State

_NOTHING = {
    "ready": "Send one on the page Send, or copy a file into the spool's new/.",
    "scheduled": "Messages with a delay, and failed ones until their next attempt, are here.",
    "claimed": "What a worker has, or you have on the page Take, is here.",
    "done": "Processed messages are kept here for as long as retention.done_s says.",
    "dead": "Nothing gave up. Good.",
}


def page() -> None:
    """Draw it."""
    parts.frame("Browse", _draw)


def _draw(queue: Queue) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        state = st.segmented_control("State", STATES, default="ready", required=True, wrap=True, key="browse-state")
        text = st.text_input("Search every state", key="browse-search", placeholder="id, name or reason", width=280)
    if text.strip():
        _search(queue, text.strip())
        return
    where = listing.filters("browse")
    listing.draw(
        "browse",
        (queue.name, state, where),
        lambda cursor, most: queue.list(state, where=where, limit=most, cursor=cursor),
        state=state,
        actions=lambda picked: _actions(queue, state, picked),
        nothing=(f"Nothing that fits is {state}." if where else f"Nothing is {state}.", _NOTHING[state]),
    )


def _search(queue: Queue, text: str) -> None:
    listing.draw(
        "search",
        (queue.name, text),
        lambda _, most: Page(messages=tuple(queue.search(text, limit=most)), cursor=None),
        state=None,
        actions=lambda picked: _open(queue, picked),
        nothing=("Nothing is found.", "An id is found by its beginning, a name or a reason by any part of it."),
    )


def _actions(queue: Queue, state: State, picked: Sequence[MessageInfo]) -> None:
    ids = [each.id for each in picked]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        _open(queue, picked)
        if state == "scheduled" and st.button("Run now", key="browse-run-now"):
            _act(lambda: listing.for_each(ids, queue.run_now, "made ready"))
        if state in {"ready", "scheduled"}:
            priority = int(st.number_input("Priority", 0, 9, picked[0].priority, key="browse-priority", width=120))
            if st.button("Set priority", key="browse-set-priority"):
                _act(
                    lambda: listing.for_each(
                        ids, lambda each: queue.set_priority(each, priority), f"set to priority {priority}"
                    )
                )
        if state == "done" and st.button("Replay", key="browse-replay"):
            _ask_replay(queue, ids)
        if state != "claimed" and st.button("Delete", key="browse-delete"):
            listing.ask_delete(queue, picked)
    if state == "claimed":
        st.caption("Somebody works on them. The admin console can give them back.")


def _open(queue: Queue, picked: Sequence[MessageInfo]) -> None:
    if len(picked) == 1 and st.button("Open", key="open", icon=":material/open_in_new:"):
        message.open_page(queue.name, picked[0].id)


def _act(act: parts.Act) -> None:
    if parts.attempt(act):
        st.rerun(scope="app")


def _ask_replay(queue: Queue, ids: Sequence[str]) -> None:
    many = words.counted(len(ids), "message")
    parts.confirm(
        "Deliver again?",
        what=f"{many} of the queue {queue.name} had been processed, and will be once more.",
        do=f"Replay {many}",
        act=lambda: listing.for_each(ids, queue.replay, "delivered again"),
    )
