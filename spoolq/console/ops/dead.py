"""Dead letters by reason; send them back, some or all, at once, at a pace, or one first; delete them.

A redrive of many is done in slices, one with each refresh, so that the page can stop it. It goes on for as long as the
page is open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import streamlit as st

from spoolq.console import parts, place, words
from spoolq.console.ops import listing, message
from spoolq.errors import MessageNotFound
from spoolq.interfaces import Queue
from spoolq.models import Filter, MessageInfo

SLICE = 500
EVERY_S = 1.0

_JOB = "dead.job"
_TRIAL = "dead.trial"
_HOW = ("At once", "At a pace", "One first")


@dataclass
class Chosen:
    """Dead letters: these ids, or all that `where` admits."""

    ids: tuple[str, ...] | None
    where: Filter | None
    count: int

    @property
    def words(self) -> str:
        """`3 dead letters`."""
        return words.counted(self.count, "dead letter")


@dataclass
class Job:
    """A redrive under way. rate: so many a second, None as fast as it goes."""

    queue: str
    chosen: Chosen
    rate: float | None
    began_at_ms: int
    done: int = 0


@dataclass
class Trial:
    """One that was sent first, and the others that wait for what becomes of it."""

    queue: str
    id: str
    rest: Chosen


def page() -> None:
    """Draw it."""
    parts.frame("Dead letters", _draw)


def _draw(queue: Queue) -> None:
    _under_way(queue)
    reasons = queue.dead_letters.reasons()
    in_all = sum(count for _, count in reasons)
    if not in_all and queue.stats().dead == 0:
        parts.empty("No message gave up.", "What fails more often than max_attempts, or is buried, comes here.")
        return
    reason = _reasons(reasons, in_all)
    where = listing.filters("dead", reason=False)
    if reason:
        where = replace(where or Filter(), reason=reason)
    _all(queue, where)
    listing.draw(
        "dead",
        (queue.name, where),
        lambda cursor, most: queue.dead_letters.list(where=where, limit=most, cursor=cursor),
        state="dead",
        actions=lambda picked: _some(queue, picked),
        nothing=("No dead letter fits.", "Ask for less in the filter."),
    )


def _reasons(reasons: Sequence[tuple[str, int]], in_all: int) -> str | None:
    """The reason that was chosen; None for all."""
    counts = {"": in_all, **dict(reasons)}

    def shown(reason: str) -> str:
        return f"{counts.get(reason, 0):,} · {words.short(words.line(reason), 150) or 'all reasons'}"

    chosen = st.selectbox("Reason", list(counts), format_func=shown, key="dead-reason") or None
    if chosen is None and len(reasons) > 1:
        parts.table({"dead": [count for _, count in reasons], "reason": [text for text, _ in reasons]}, "dead-reasons")
    return chosen


def _all(queue: Queue, where: Filter | None) -> None:
    """What can be done with all that fit, on every page of the list."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        how, rate = _how("all")
        if st.button("Redrive all that fit", key="redrive-all"):
            _ask_redrive(queue, _counted(queue, where), how, rate)
        if st.button("Delete all that fit", key="delete-all"):
            _ask_delete(queue, _counted(queue, where))


def _some(queue: Queue, picked: Sequence[MessageInfo]) -> None:
    """What can be done with those that are selected."""
    chosen = Chosen(tuple(each.id for each in picked), None, len(picked))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if len(picked) == 1 and st.button("Open", key="dead-open", icon=":material/open_in_new:"):
            message.open_page(queue.name, picked[0].id)
        if st.button(f"Redrive {chosen.count:,} selected", key="redrive-some", type="primary"):
            _ask_redrive(queue, chosen, *_how_chosen("all"))
        if st.button(f"Delete {chosen.count:,} selected", key="delete-some"):
            _ask_delete(queue, chosen)


def _how(key: str) -> tuple[str, float]:
    st.segmented_control("How", _HOW, default=_HOW[0], required=True, wrap=True, key=f"how-{key}")
    if st.session_state[f"how-{key}"] == "At a pace":
        st.number_input("A second", min_value=0.1, value=10.0, key=f"rate-{key}", width=120)
    return _how_chosen(key)


def _how_chosen(key: str) -> tuple[str, float]:
    return st.session_state.get(f"how-{key}") or _HOW[0], float(st.session_state.get(f"rate-{key}") or 10.0)


def _counted(queue: Queue, where: Filter | None) -> Chosen:
    return Chosen(None, where, queue.dead_letters.redrive(where=where, dry_run=True))


# Asking -----------------------------------------------------------------------------


def _ask_redrive(queue: Queue, chosen: Chosen, how: str, rate: float) -> None:
    if how == "One first":
        what = f"The oldest of {chosen.words} of the queue {queue.name} goes back to be delivered. The others wait."
        parts.confirm("Redrive one first?", what=what, do="Redrive 1 dead letter", act=lambda: _try_one(queue, chosen))
        return
    pace = f", {rate:g} a second, while this page is open" if how == "At a pace" else ""
    parts.confirm(
        "Redrive?",
        what=f"{chosen.words} of the queue {queue.name}: back to be delivered{pace}, attempts at 0.",
        do=f"Redrive {chosen.words}",
        act=lambda: _begin(queue, chosen, rate if pace else None),
    )


def _ask_delete(queue: Queue, chosen: Chosen) -> None:
    parts.confirm(
        "Delete for good?",
        what=f"{chosen.words} of the queue {queue.name}: file and history go, and do not come back.",
        do=f"Delete {chosen.words}",
        act=lambda: _delete(queue, chosen),
    )


def _delete(queue: Queue, chosen: Chosen) -> str:
    if chosen.ids is not None:
        return listing.for_each(chosen.ids, queue.delete, "deleted")
    count = queue.dead_letters.purge(where=chosen.where, progress=parts.progress("Deleting"))
    return f"{words.counted(count, 'dead letter')} deleted"


# Redriving --------------------------------------------------------------------------


def _begin(queue: Queue, chosen: Chosen, rate: float | None) -> str:
    job = Job(queue.name, chosen, rate, place.now_ms())
    _slice(queue, job)
    if job.done >= chosen.count:
        return _redriven(job)
    st.session_state[_JOB] = job
    return "The redrive has begun"


def _redriven(job: Job) -> str:
    return f"{words.counted(job.done, 'dead letter')} redriven"


def due(job: Job, now_ms: int) -> int:
    """How many are to be redriven now: no more than chosen, no faster than the rate. Pure."""
    left = job.chosen.count - job.done
    if job.rate is None:
        return min(left, SLICE)
    earned = math.floor((now_ms - job.began_at_ms) / 1000 * job.rate) + 1
    return max(0, min(left, SLICE, earned - job.done))


def _slice(queue: Queue, job: Job) -> None:
    """The next part. What somebody else redrove or deleted meanwhile counts as done."""
    count = due(job, place.now_ms())
    if not count:
        return
    if job.chosen.ids is None:
        moved = queue.dead_letters.redrive(where=job.chosen.where, limit=count)
        job.done += moved
        if moved < count:
            job.chosen = replace(job.chosen, count=job.done)
        return
    for id in job.chosen.ids[job.done : job.done + count]:
        job.done += 1
        try:
            queue.dead_letters.redrive([id])
        except MessageNotFound:
            continue


def _try_one(queue: Queue, chosen: Chosen) -> str:
    if chosen.ids is not None:
        first, rest = chosen.ids[0], Chosen(chosen.ids[1:], None, chosen.count - 1)
    else:
        oldest = queue.dead_letters.list(where=chosen.where, limit=1).messages
        if not oldest:
            return "There is none any more"
        first, rest = oldest[0].id, replace(chosen, count=chosen.count - 1)
    queue.dead_letters.redrive([first])
    st.session_state[_TRIAL] = Trial(queue.name, first, rest)
    return "One was redriven"


def _under_way(queue: Queue) -> None:
    """What goes on now, above all else."""
    job, trial = st.session_state.get(_JOB), st.session_state.get(_TRIAL)
    if job is not None and job.queue == queue.name:
        _redriving(queue, job)
    if trial is not None and trial.queue == queue.name:
        _trying(queue, trial)


@st.fragment(run_every=EVERY_S)
def _redriving(queue: Queue, job: Job) -> None:
    with st.container(border=True), parts.trouble():
        _slice(queue, job)
        of = job.chosen.count
        st.progress(job.done / of if of else 1.0, words.label(f"Redriven: {job.done:,} of {of:,}"))
        if st.button("Stop", key="redrive-stop") or job.done >= of:
            st.session_state.pop(_JOB, None)
            parts.say(_redriven(job))
            st.rerun(scope="app")


@st.fragment(run_every=EVERY_S)
def _trying(queue: Queue, trial: Trial) -> None:
    with st.container(border=True), parts.trouble():
        try:
            info: MessageInfo | None = queue.get(trial.id)
        except MessageNotFound:  # acknowledged, and not kept
            info = None
        state = info.state if info else "gone: processed and not kept, or deleted"
        st.text(f"The first one is {state} now. {trial.rest.words} wait for it.")
        if info is not None and info.reason and info.state in {"dead", "scheduled", "ready"}:
            st.code(words.lines(info.reason), language=None, wrap_lines=True)
        with st.container(horizontal=True):
            rest = trial.rest.count > 0 and st.button("Redrive the rest", key="trial-rest")
            leave = st.button("Leave them", key="trial-leave")
        if rest or leave:
            st.session_state.pop(_TRIAL, None)
        if rest:
            _ask_redrive(queue, trial.rest, "At once", 0)
        if leave:
            st.rerun(scope="app")
