"""One message: what is known of it, its timeline, its body, and what can be done with it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import NamedTuple

import streamlit as st

from spoolq.console import parts, place, words
from spoolq.console.ops import listing, preview
from spoolq.interfaces import Queue
from spoolq.models import Attempt, MessageInfo

_ID = "message.id"


def open_page(queue: str, id: str) -> None:
    """Go to the page of this message."""
    st.session_state[_ID] = id
    st.switch_page(st.Page(page, title="Message", url_path="message"), query_params={"queue": queue, "id": id})


def page() -> None:
    """Draw it."""
    parts.frame("Message", _draw)


def _draw(queue: Queue) -> None:
    known = st.query_params.get("id") or st.session_state.get(_ID, "")
    given = st.text_input("Id", known, key=f"message-id-{known}", placeholder="or the beginning of one", width=420)
    if not given.strip():
        parts.empty("No message is chosen.", "Open one on the page Browse, or give its id here.")
        return
    id = _found(queue, given.strip())
    st.session_state[_ID] = st.query_params["id"] = id
    info = queue.get(id)
    _facts(info)
    _actions(queue, info)
    timeline, body = st.columns(2, gap="medium")
    with timeline:
        st.markdown("#### Timeline")
        _timeline(queue, id)
    with body:
        st.markdown("#### Body")
        with parts.trouble():
            preview.draw(queue, info)


def _found(queue: Queue, text: str) -> str:
    """The id that begins so, if there is one only."""
    found = [each.id for each in queue.search(text, limit=2) if each.id.startswith(text)]
    return found[0] if len(found) == 1 else text


def _facts(info: MessageInfo) -> None:
    st.text(words.short(words.line(info.name or "(no name)"), 300))
    facts = [
        f"{info.state}: {words.STATE_WORDS[info.state]}",
        f"priority {info.priority}",
        words.counted(info.attempts, "attempt"),
        words.size(info.body_bytes),
    ]
    st.caption(words.label(" · ".join(facts)))
    rows = {
        "sent as": info.original_name,
        "content type": info.content_type,
        "group": f"{info.group}{', waits for an earlier one' if info.held else ''}" if info.group else None,
        "key": info.dedup_key,
        "reason": info.reason,
        "held by": info.holder,
        "expires": words.instant(info.expires_at_ms),
        **{f"header {name}": value for name, value in info.headers.items()},
    }
    rows = {name: value for name, value in rows.items() if value}
    if rows:
        # Text that wraps: a table would cut what is long on a phone.
        st.code(
            "\n".join(f"{words.line(name)}: {words.line(value)}" for name, value in rows.items()), None, wrap_lines=True
        )


def _actions(queue: Queue, info: MessageInfo) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if info.state == "scheduled":
            _do("Run now", lambda: _run_now(queue, info.id))
        if info.state in {"ready", "scheduled"}:
            priority = int(st.number_input("Priority", 0, 9, info.priority, key=f"priority-{info.id}", width=120))
            _do("Set priority", lambda: _prioritize(queue, info.id, priority))
        if info.state == "done" and st.button("Replay", key="message-replay"):
            parts.confirm(
                "Deliver again?",
                what="1 message had been processed, and will be once more.",
                do="Replay 1 message",
                act=lambda: listing.for_each([info.id], queue.replay, "delivered again"),
            )
        if info.state == "dead" and st.button("Redrive", key="message-redrive"):
            parts.confirm(
                "Redrive?",
                what="1 dead letter goes back to be delivered, its attempts at 0.",
                do="Redrive 1 message",
                act=lambda: f"{words.counted(queue.dead_letters.redrive([info.id]), 'dead letter')} redriven",
            )
        if info.state != "claimed" and st.button("Delete", key="message-delete"):
            listing.ask_delete(queue, [info])


def _do(label: str, act: parts.Act) -> None:
    if st.button(label, key=f"message-{label}") and parts.attempt(act):
        st.rerun()


def _run_now(queue: Queue, id: str) -> str:
    queue.run_now(id)
    return "Made ready"


def _prioritize(queue: Queue, id: str, priority: int) -> str:
    queue.set_priority(id, priority)
    return f"Priority {priority}"


# Timeline -------------------------------------------------------------------------


class Event(NamedTuple):
    """One line of the timeline, with what was said there."""

    at_ms: int
    what: str
    reason: str = ""
    stderr: str = ""


def events(info: MessageInfo) -> Iterator[Event]:
    """What happened to a message, from its enqueue to now. Pure."""
    yield Event(info.enqueued_at_ms, "enqueued")
    for attempt in info.history:
        yield Event(attempt.ended_at_ms, ended(attempt), attempt.reason, attempt.stderr)
    told = info.history and info.history[-1].ended_at_ms >= info.changed_at_ms - 1000
    if info.state == "claimed":
        yield Event(info.changed_at_ms, f"claimed, attempt {info.attempts}")
    elif info.state == "done" or (info.state == "dead" and not told):
        yield Event(info.changed_at_ms, "acknowledged: done" if info.state == "done" else "dead", info.reason)


def ended(attempt: Attempt) -> str:
    """How a delivery ended, in one line. Pure."""
    parts = [f"attempt {attempt.attempt} {attempt.outcome}" if attempt.attempt else attempt.outcome]
    if attempt.exit_status is not None:
        parts.append(f"exit status {attempt.exit_status}")
    if attempt.signal is not None:
        parts.append(f"signal {signal_name(attempt.signal)}")
    if attempt.duration_s is not None:
        parts.append(f"after {words.span(attempt.duration_s)}")
    if attempt.host:
        parts.append(f"on {attempt.host}" + (f", pid {attempt.pid}" if attempt.pid else ""))
    return ", ".join(parts)


def signal_name(number: int) -> str:
    """`KILL (9)`. Pure."""
    try:
        return f"{signal.Signals(number).name.removeprefix('SIG')} ({number})"
    except ValueError:
        return str(number)


@st.fragment(run_every=parts.REFRESH_S)
def _timeline(queue: Queue, id: str) -> None:
    with parts.trouble():
        info = queue.get(id)
        now_ms = place.now_ms()
        for event in events(info):
            st.caption(words.label(f"{words.instant(event.at_ms)} · {words.age(event.at_ms, now_ms)}"))
            st.text(words.line(event.what))
            if event.reason:
                st.code(words.lines(event.reason), language=None, wrap_lines=True)
            if event.stderr and event.stderr.strip() != event.reason.strip():
                st.code(words.lines(event.stderr), language=None, wrap_lines=True)
        if info.state == "scheduled":
            st.caption(words.label(f"due {words.age(info.due_at_ms, now_ms)}"))
        elif info.state == "claimed" and info.deadline_at_ms is not None:
            st.caption(words.label(f"the lease ends {words.age(info.deadline_at_ms, now_ms)}"))
