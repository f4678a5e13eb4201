"""What every page is made of: its frame with the queue's numbers, notes and errors, tables, dialogs that ask first.

The numbers refresh in a fragment of their own, so that nothing one is typing is touched. A page that failed is drawn
again once the queue answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import streamlit as st

from spoolq.cli import logs
from spoolq.console import guard, place, words
from spoolq.errors import NotFound, QueueNotFound, SpoolqError
from spoolq.interfaces import Queue
from spoolq.models import STATES, Stats

REFRESH_S = 2.0
STALE_MS = 1500
"""Numbers older than this say how old they are."""

Cells = Mapping[str, Sequence[object]]
"""A table: each column's name with its values."""

Act = Callable[[], str]
"""Does something, and returns what was done."""

_FAILED = "console.failed"
_SAID = "console.said"
_ACTS = "console.acts"
_LAST = "console.last"
_ASKED = "console.asked"


class Entry(NamedTuple):
    """A page as the navigation has it: what draws it, title, icon, path in the address (the first page's is empty)."""

    page: Callable[[], None]
    title: str
    icon: str
    path: str


def console(title: str, entries: Sequence[Entry]) -> None:
    """A whole console: who may see it, then the page that the address names; the first one where it names none."""
    st.set_page_config(page_title=f"spoolq {title}", page_icon=":material/inbox:", layout="wide")
    guard.enter()
    logs.quiet()
    pages = [
        st.Page(each.page, title=each.title, icon=f":material/{each.icon}:", url_path=each.path, default=not each.path)
        for each in entries
    ]
    st.navigation(pages, position="top").run()


def frame(title: str, draw: Callable[[Queue], object]) -> None:
    """A page of the chosen queue: title, chooser, numbers, what was done last, then `draw`."""
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        st.subheader(title, anchor=False, width="content")
        failed = _chooser()
    at_once = st.empty()
    if failed is not None:  # said already while the numbers ask again, which for a database takes half a minute
        at_once.error(words.label(words.trouble(failed)[0]))
    numbers()
    at_once.empty()
    _draw_said(title)
    if _ASKED in st.session_state:
        _ask(**st.session_state[_ASKED])
    if st.session_state.get(_FAILED):  # the numbers have said why, and draw the page once they are there
        return
    with trouble():
        draw(place.queue())


@contextmanager
def trouble() -> Iterator[None]:
    """What an engine refuses is said in plain words, and the page goes on; it is drawn again when that is over."""
    try:
        yield
    except SpoolqError as error:
        # What is not there does not come back by itself; everything else may.
        st.session_state[_FAILED] = not isinstance(error, NotFound) or isinstance(error, QueueNotFound)
        show(error)


def show(error: Exception) -> None:
    """An error, with what to do about it."""
    what, hint = words.trouble(error)
    st.error(words.label(what))
    if hint:
        st.text(hint)


def attempt(act: Act) -> bool:
    """Do something; what it returns is said at the top of the page, what it raises is shown here."""
    try:
        done = act()
    except (SpoolqError, ValueError, TypeError) as error:
        show(error)
        return False
    say(done)
    return True


def say(done: str) -> None:
    """Keep a note of what was done, for the top of the page."""
    st.session_state[_SAID] = (place.now_ms(), done)
    st.session_state[_ACTS] = acts() + 1


def acts() -> int:
    """How much was done in this visit: what was shown before the last of it may be no more."""
    return int(st.session_state.get(_ACTS, 0))


def _draw_said(title: str) -> None:
    """The last note, until another page is opened."""
    if st.session_state.get("console.page") != title:
        st.session_state["console.page"] = title
        st.session_state.pop(_ASKED, None)
        if place.now_ms() - st.session_state.get(_SAID, (0, ""))[0] > 5000:
            st.session_state.pop(_SAID, None)
    if _SAID in st.session_state:
        at_ms, done = st.session_state[_SAID]
        st.success(f"{words.label(done)} · {words.label(words.clock(at_ms))}", icon=":material/check:")


def _chooser() -> SpoolqError | None:
    """Which queue. Names are those of `list_queues`, and the one of the address if it is gone; why there are none."""
    name, names, failed = place.chosen(), list[str](), None
    try:
        names = place.queues()
    except SpoolqError as error:
        failed = error
    names = names if name in names else [*names, name]
    picked = st.selectbox("Queue", names, index=names.index(name), key=f"queue-of-{name}", width=190)
    if picked and picked != name:
        place.choose(picked)
        st.session_state.pop(_SAID, None)
        st.rerun()
    return failed


@st.fragment(run_every=REFRESH_S)
def numbers() -> None:
    """How many in each state, and as of when. Draws the page again once what had failed works."""
    name = place.chosen()
    try:
        stats: Stats | None = place.looked_at(name)[1]
        st.session_state[_LAST] = (name, place.now_ms(), stats)
    except SpoolqError as error:
        stats = None
        st.session_state[_FAILED] = True
        show(error)
    if stats is not None and st.session_state.pop(_FAILED, False):
        st.rerun(scope="app")
    _tiles()


def _tiles() -> None:
    name, at_ms, stats = st.session_state.get(_LAST, ("", 0, None))
    if stats is None or name != place.chosen():
        st.caption("Nothing is known of this queue yet. This page tries again by itself.")
        return
    with st.container(horizontal=True, gap="small", key="numbers"):
        for state in STATES:
            st.metric(state, f"{getattr(stats, state):,}", width=104, border=True)
    st.caption(words.label(_as_of(at_ms, stats)))


def _as_of(at_ms: int, stats: Stats) -> str:
    now_ms = place.now_ms()
    parts = [f"As of {words.clock(at_ms)}"]
    if now_ms - at_ms > STALE_MS:
        parts.append(f"{words.age(at_ms, now_ms)}; trying again")
    if stats.oldest_ready_at_ms is not None:
        parts.append(f"the oldest has waited {words.span(max(0, int((now_ms - stats.oldest_ready_at_ms) / 1000)))}")
    if stats.paused:
        parts.append("paused: nothing is delivered")
    return " · ".join(parts)


# What pages are made of -----------------------------------------------------------


def empty(what: str, then: str) -> None:
    """There is nothing here, and what to do."""
    with st.container(border=True):
        st.text(what)
        st.caption(words.label(then))


def table(cells: Cells, key: str, *, select: bool = False, height: int | None = None) -> list[int]:
    """A table of text; which rows are selected. A key that changes with the rows forgets a selection of other rows."""
    shown = {
        name: [words.line(value) if isinstance(value, str) else value for value in of] for name, of in cells.items()
    }
    options: dict[str, Any] = {"column_config": _formats(shown)} | _height(height, shown)
    if not select:
        st.dataframe(shown, key=key, hide_index=True, **options)
        return []
    made = st.dataframe(shown, key=key, hide_index=True, on_select="rerun", selection_mode="multi-row", **options)
    rows = made["selection"]["rows"]
    count = max((len(of) for of in shown.values()), default=0)
    return [row for row in rows if row < count]


def _height(most: int | None, shown: Cells) -> dict[str, int]:
    """No more than this, and no rows without anything in them."""
    return {"height": min(most, 38 + 35 * max(1, *map(len, shown.values())))} if most else {}


def _formats(shown: Cells) -> dict[str, Any]:
    """Numbers as the tiles have them: 100,000."""
    counts = [name for name, of in shown.items() if any(isinstance(value, int) for value in of)]
    return {name: st.column_config.NumberColumn(format="%,d") for name in counts}


def confirm(title: str, *, what: str, do: str, act: Act, typed: str = "") -> None:
    """Ask in a dialog before `act`, which returns what was done. typed: a word that must be typed to go on.

    The frame opens the dialog, and again whenever the page is drawn, until it is answered: one that a refreshing
    fragment had opened would close with its next refresh.
    """
    st.session_state[_ASKED] = {"title": title, "what": what, "do": do, "act": act, "typed": typed}
    st.rerun(scope="app")


def _ask(*, title: str, what: str, do: str, act: Act, typed: str) -> None:
    def closed() -> None:
        st.session_state.pop(_ASKED, None)

    @st.dialog(title, on_dismiss=closed)
    def ask() -> None:
        st.text(what)
        given = st.text_input(f"To confirm, type {words.label(typed)}", key="confirm-typed") if typed else ""
        with st.container(horizontal=True):
            sure = st.button(do, type="primary", key="confirm-do")
            back = st.button("Cancel", key="confirm-cancel")
        if sure and given.strip() != typed:
            st.error("That is not what is to be typed.")
        elif back or (sure and attempt(act)):
            closed()
            st.rerun()

    ask()


def progress(what: str) -> Callable[[int, int], None]:
    """A bar, as the `progress` of an engine's long calls. Leaving the page stops the work between two messages."""
    bar = st.progress(0.0, words.label(what))

    def show_progress(done: int, of: int) -> None:
        bar.progress(min(1.0, done / of) if of else 1.0, words.label(f"{what}: {done:,} of {of:,}"))

    return show_progress
