"""A list of messages: filters, pages, a selection. It refreshes by itself, and stands still while rows are selected.

The engine lists by state in one order and pages by cursor, so a page costs the same at any size. Another order is made
here, from all that fit the filter, up to MOST_SORTED of them; where there are more, the page says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from spoolq.cli.values import duration
from spoolq.console import parts, place, words
from spoolq.errors import MessageNotFound
from spoolq.interfaces import Queue
from spoolq.models import Filter, MessageInfo, Page, State

PAGE = 100
MOST_SORTED = 10_000
_HEIGHT = 420

Fetch = Callable[[str | None, int], Page]
"""A page of the list, from a cursor on, of at most so many."""

Draw = Callable[[Sequence[MessageInfo]], object]
"""What can be done with what is selected."""


Sort = Callable[[MessageInfo], Any]

ORDERS: Mapping[str, tuple[Sort, bool]] = {
    "name": (lambda each: (each.name or "").lower(), False),
    "newest first": (lambda each: each.changed_at_ms, True),
    "oldest first": (lambda each: each.changed_at_ms, False),
    "most attempts first": (lambda each: each.attempts, True),
    "highest priority first": (lambda each: each.priority, True),
    "largest first": (lambda each: each.body_bytes, True),
    "smallest first": (lambda each: each.body_bytes, False),
    "reason": (lambda each: each.reason.lower(), False),
    "group": (lambda each: each.group or "", False),
}
"""The orders one can choose, each with what is compared, and whether the largest is first."""

_OWN_ORDER: Mapping[State | None, str] = {
    "ready": "in the order of delivery",
    "scheduled": "what is due next first",
    "claimed": "the oldest first",
    "done": "the oldest first",
    "dead": "the oldest first",
    None: "as found",
}
"""How the engine lists."""


@dataclass
class _Shown:
    """What a list shows now: `query` says of what, `cursors` how one came here. partial: not all of it was sorted."""

    query: object
    cursors: list[str | None]
    page: Page | None = None
    key: str = ""
    acts: int = -1
    partial: bool = False


def filters(key: str, *, reason: bool = True) -> Filter | None:
    """The fields of a filter; None where nothing is asked for. What cannot be read is said, and left out."""
    with st.expander("Filter", icon=":material/filter_list:"):
        with st.container(horizontal=True):
            name = _text("Name contains", f"{key}-name")
            why = _text("Reason contains", f"{key}-reason") if reason else None
            group = _text("Group", f"{key}-group")
            youngest = _text("At least this old", f"{key}-min-age", "10m, 2h, 7d")
            oldest = _text("At most this old", f"{key}-max-age", "10m, 2h, 7d")
            attempts = st.number_input("Attempts, at least", min_value=0, value=0, key=f"{key}-attempts", width=160)
        try:
            made = Filter(
                name=name,
                reason=why,
                group=group,
                min_age_s=duration(youngest) if youngest else None,
                max_age_s=duration(oldest) if oldest else None,
                min_attempts=int(attempts) or None,
            )
        except ValueError as error:
            parts.show(error)
            return None
    return None if made == Filter() else made


def _text(label: str, key: str, placeholder: str = "") -> str | None:
    return st.text_input(label, key=key, placeholder=placeholder, width=160).strip() or None


def draw(
    key: str, query: object, fetch: Fetch, *, state: State | None, actions: Draw, nothing: tuple[str, str]
) -> None:
    """The list. query: what it is a list of; another one begins at its first page. nothing: for an empty one."""
    place_key = f"list-{key}"
    order = _order(key, state)
    shown = st.session_state.get(place_key)
    if shown is None or shown.query != (query, order):
        shown = st.session_state[place_key] = _Shown((query, order), [None])

    @st.fragment(run_every=parts.REFRESH_S)
    def refreshing() -> None:
        with parts.trouble():
            _draw(key, shown, fetch, order, state, actions, nothing)

    refreshing()


def _order(key: str, state: State | None) -> str | None:
    """The order that was chosen; None for the engine's."""
    own = _OWN_ORDER[state]
    chosen = st.selectbox("Sorted", [own, *ORDERS], key=f"{key}-sorted-{state}", width=240)
    return None if chosen == own else chosen


def _fetched(shown: _Shown, fetch: Fetch, order: str | None) -> Page:
    """The page that is shown now. In an order of ours a cursor is a place among all that were sorted."""
    if order is None:
        return fetch(shown.cursors[-1], PAGE)
    found = fetch(None, MOST_SORTED)
    shown.partial = found.cursor is not None
    compared, reverse = ORDERS[order]
    messages = sorted(found.messages, key=compared, reverse=reverse)
    first = int(shown.cursors[-1] or 0)
    following = str(first + PAGE) if len(messages) > first + PAGE else None
    return Page(messages=tuple(messages[first : first + PAGE]), cursor=following)


def _draw(
    key: str, shown: _Shown, fetch: Fetch, order: str | None, state: State | None, actions: Draw,
    nothing: tuple[str, str],
) -> None:  # fmt: skip
    held = shown.page and _selected(shown.key) and shown.acts == parts.acts()
    if not held:
        shown.acts = parts.acts()
        shown.page = _fetched(shown, fetch, order)
        # Rows are told apart by their place: a list of other messages is another table, in which nothing is selected.
        shown.key = f"{key}-{shown.acts}-{hash(tuple(each.id for each in shown.page.messages))}"
    page = shown.page
    assert page is not None
    if not page.messages and len(shown.cursors) == 1:
        parts.empty(*nothing)
        return
    rows = parts.table(columns(page.messages, state), shown.key, select=True, height=_HEIGHT)
    picked = [page.messages[row] for row in rows]
    if shown.partial:
        st.caption(f"Of the first {MOST_SORTED:,}, {_OWN_ORDER[state]}: there are more, so ask for less in the filter.")
    _pager(key, shown, page)
    if picked:
        st.caption(f"{words.counted(len(picked), 'message')} selected. The list stands still meanwhile.")
        actions(picked)
    else:
        st.caption("Select rows to act on them. A click on a column's head sorts only the rows that are shown.")


def _selected(key: str) -> bool:
    state = st.session_state.get(key)
    return bool(state and state["selection"]["rows"])


def _pager(key: str, shown: _Shown, page: Page) -> None:
    number = len(shown.cursors)
    if number == 1 and page.cursor is None:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Previous",
            key=f"{key}-previous",
            icon=":material/chevron_left:",
            disabled=number == 1,
            on_click=_turn_back,
            args=(shown,),
        )
        st.text(f"Page {number}")
        st.button(
            "Next",
            key=f"{key}-next",
            icon=":material/chevron_right:",
            disabled=page.cursor is None,
            on_click=_turn_on,
            args=(shown, page.cursor),
        )


def _turn_back(shown: _Shown) -> None:
    shown.cursors.pop()
    shown.page = None


def _turn_on(shown: _Shown, cursor: str) -> None:
    shown.cursors.append(cursor)
    shown.page = None


def columns(messages: Sequence[MessageInfo], state: State | None) -> parts.Cells:
    """The cells of a table of messages; with their states where they are of several."""
    now_ms = place.now_ms()
    cells: dict[str, list[object]] = {"name": [words.short(each.name or "", 80) for each in messages]}
    if state is None:
        cells["state"] = [each.state for each in messages]
    if state == "dead" or any(each.reason for each in messages):
        cells["reason"] = [words.short(each.reason, 200) for each in messages]
    cells["since (UTC)"] = [words.moment(each.changed_at_ms, now_ms) for each in messages]
    if state == "scheduled":
        cells["due (UTC)"] = [words.moment(each.due_at_ms, now_ms) for each in messages]
    if state == "claimed":
        cells["lease ends (UTC)"] = [
            words.moment(each.deadline_at_ms, now_ms) or "with its process" for each in messages
        ]
    cells["attempts"] = [each.attempts for each in messages]
    cells["priority"] = [each.priority for each in messages]
    cells["bytes"] = [each.body_bytes for each in messages]
    if any(each.group for each in messages):
        cells["group"] = [f"{each.group or ''}{' (held)' if each.held else ''}" for each in messages]
    cells["enqueued (UTC)"] = [words.moment(each.enqueued_at_ms) for each in messages]
    cells["id"] = [each.id for each in messages]
    return cells


def for_each(ids: Iterable[str], act: Callable[[str], None], done: str) -> str:
    """Do it to each; what others moved meanwhile is left out, and said."""
    count = gone = 0
    for each in ids:
        try:
            act(each)
            count += 1
        except MessageNotFound:
            gone += 1
    left = f"; {words.counted(gone, 'message')} had moved on meanwhile" if gone else ""
    return f"{words.counted(count, 'message')} {done}{left}"


def ask_delete(queue: Queue, picked: Sequence[MessageInfo]) -> None:
    """Delete these, after asking."""
    many = words.counted(len(picked), "message")
    parts.confirm(
        "Delete for good?",
        what=f"{many} of the queue {queue.name}: file and history go, and do not come back.",
        do=f"Delete {many}",
        act=lambda: for_each([each.id for each in picked], queue.delete, "deleted"),
    )
