"""Take the next message, look at it, and say what becomes of it.

What was taken is remembered for this visit only; if the page is left, the lease ends and the message comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from spoolq.cli.values import duration
from spoolq.console import parts, place, words
from spoolq.console.ops import preview
from spoolq.errors import LeaseLost
from spoolq.interfaces import Queue

DEFAULT_LEASE = "5m"

_TAKEN = "take.taken"


@dataclass
class Taken:
    """A message in one's hands. ends_at_ms: when its lease does."""

    queue: str
    id: str
    receipt: str
    name: str
    attempts: int
    ends_at_ms: int


def page() -> None:
    """Draw it."""
    parts.frame("Take", _draw)


def _draw(queue: Queue) -> None:
    hands: list[Taken] = st.session_state.setdefault(_TAKEN, [])
    with st.container(horizontal=True, vertical_alignment="bottom"):
        lease = st.text_input("For how long", DEFAULT_LEASE, key="take-lease", width=120)
        asked = st.button("Take the next message", type="primary", key="take", icon=":material/back_hand:")
    if asked and parts.attempt(lambda: _take(queue, duration(lease.strip()), hands)):
        st.rerun()
    mine = [each for each in hands if each.queue == queue.name]
    if not mine:
        parts.empty(
            "You hold no message of this queue.",
            "Take the next one: it is yours until its lease ends, and its attempt counts unless you release it.",
        )
    for each in mine:
        _hold(queue, each, hands)


def _take(queue: Queue, lease_s: float, hands: list[Taken]) -> str:
    message = queue.dequeue(lease_s=lease_s)
    if message is None:
        return "There is nothing to take"
    ends_at_ms = place.now_ms() + round(lease_s * 1000)
    name = message.name or message.id
    hands.insert(0, Taken(queue.name, message.id, message.receipt, name, message.attempts, ends_at_ms))
    return f"Taken: {name}"


def _hold(queue: Queue, taken: Taken, hands: list[Taken]) -> None:
    with st.container(border=True):
        st.text(words.short(words.line(taken.name), 120))
        _clock(taken)
        _settle(queue, taken, hands)
        with parts.trouble():
            preview.draw(queue, queue.get(taken.id))


@st.fragment(run_every=1.0)
def _clock(taken: Taken) -> None:
    """The lease, running down."""
    left_s = (taken.ends_at_ms - place.now_ms()) // 1000
    ends = f"the lease ends in {words.span(left_s)}" if left_s > 0 else "the lease has ended: somebody else may have it"
    st.caption(words.label(f"{taken.id} · attempt {taken.attempts} · {ends}"))


def _settle(queue: Queue, taken: Taken, hands: list[Taken]) -> None:
    key = taken.receipt

    def button(label: str, what: str, act: Callable[[], str], *, primary: bool = False) -> None:
        asked = st.button(label, key=f"{what}-{key}", type="primary" if primary else "secondary")
        if asked and parts.attempt(lambda: _settled(taken, hands, act)):
            st.rerun()

    with st.container(horizontal=True, vertical_alignment="bottom"):
        button("Acknowledge", "ack", lambda: _acknowledge(queue, taken), primary=True)
        button("Release", "release", lambda: _release(queue, taken))
        more = st.text_input("More time", DEFAULT_LEASE, key=f"more-{key}", width=100)
        if st.button("Extend", key=f"extend-{key}") and parts.attempt(lambda: _extend(queue, taken, more)):
            st.rerun()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        reason = st.text_input("Reason", key=f"reason-{key}", placeholder="why it failed", width=260)
        delay = st.text_input("Delay", key=f"delay-{key}", placeholder="backoff; 10m", width=120)
        button("Requeue", "requeue", lambda: _requeue(queue, taken, delay, reason))
        button("Bury", "bury", lambda: _bury(queue, taken, reason))


def _settled(taken: Taken, hands: list[Taken], act: Callable[[], str]) -> str:
    """It is out of one's hands, also where the claim had ended."""
    try:
        done = act()
    except LeaseLost:
        hands.remove(taken)
        return f"{taken.name}: the lease had ended, so nothing was changed; it is delivered again"
    hands.remove(taken)
    return f"{taken.name}: {done}"


def _acknowledge(queue: Queue, taken: Taken) -> str:
    queue.acknowledge(taken.receipt)
    return "acknowledged, now done"


def _release(queue: Queue, taken: Taken) -> str:
    queue.release(taken.receipt)
    return "released, ready again, the attempt does not count"


def _requeue(queue: Queue, taken: Taken, delay: str, reason: str) -> str:
    delay_s = duration(delay.strip()) if delay.strip() else None
    state = queue.requeue(taken.receipt, delay_s=delay_s, reason=reason.strip() or "requeued in the console")
    return f"requeued, now {state}"


def _bury(queue: Queue, taken: Taken, reason: str) -> str:
    if not reason.strip():
        raise ValueError("say why it is buried: the reason is what the page Dead letters groups by")
    queue.move_to_dead_letter_queue(taken.receipt, reason.strip())
    return "buried, now dead"


def _extend(queue: Queue, taken: Taken, more: str) -> str:
    more_s = duration(more.strip())
    queue.extend(taken.receipt, more_s)
    taken.ends_at_ms = place.now_ms() + round(more_s * 1000)
    return f"{taken.name}: {words.span(more_s)} from now"
