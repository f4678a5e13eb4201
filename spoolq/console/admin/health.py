"""Whether index and spool are well: what check finds and mends, making the index anew, when things last happened."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from spoolq.console import parts, place, words
from spoolq.console.admin import acts
from spoolq.errors import NotCapable
from spoolq.interfaces import Queue
from spoolq.models import Health, Problem

EVERY_S = 3.0
_FOUND = "health.found"
_NEVER = "not yet"


def page() -> None:
    """Draw it."""
    parts.frame("Health", _draw)


def _draw(queue: Queue) -> None:
    _facts(queue.name)
    if not queue.capabilities.check:
        parts.empty("This engine has no index to check.", "The local spool has one, and its server.")
        return
    with st.container(horizontal=True):
        if st.button("Check now", key="check", type="primary"):
            _check(queue)
        if st.button("Count anew" if place.is_database() else "Rebuild the index", key="rebuild"):
            _ask_rebuild(queue)
    found = st.session_state.get(_FOUND)
    if found is not None and found[0] == queue.name:
        _findings(queue, found[1], found[2])
    else:
        compared = "counts with messages" if place.is_database() else "files and index, both ways"
        st.caption(f"A check compares {compared}. It can run while others work.")


@st.fragment(run_every=EVERY_S)
def _facts(name: str) -> None:
    with parts.trouble():
        try:
            health = place.queue(name).health()
        except NotCapable:
            kept = "A database has no index beside it, and its disk is its server's."
            st.caption(kept if place.is_database() else "The engine tells nothing of a disk or an index.")
            return
        now_ms = place.now_ms()
        with st.container(horizontal=True, gap="small", key="facts"):
            for label, value in facts(health, now_ms):
                st.metric(label, value, width=168, border=True)
        st.caption(
            words.label(
                f"As of {words.clock(now_ms)}. The index is made anew after damage, a loss, or an unclean end of the "
                "machine; nothing of a message is lost with it."
            )
        )
        if not health.has_room:
            st.error("The disk's reserve is reached: nothing more is enqueued.")


def facts(health: Health, now_ms: int) -> list[tuple[str, str]]:
    """When what last happened. Pure."""
    return [
        ("index made", words.age(health.index_made_at_ms or None, now_ms) or _NEVER),
        ("index size", words.size(health.index_bytes)),
        ("last cleanup", words.age(health.last_clean_at_ms or None, now_ms) or _NEVER),
        ("last scan of new/", words.age(health.last_scan_at_ms or None, now_ms) or _NEVER),
        ("the scan took", f"{health.last_scan_ms} ms"),
        ("room to enqueue", "yes" if health.has_room else "no"),
    ]


# Checking ---------------------------------------------------------------------------


def _check(queue: Queue) -> None:
    with parts.trouble():
        found = queue.check(progress=parts.progress("Checking"))
        st.session_state[_FOUND] = (queue.name, place.now_ms(), list(found))
        st.rerun()


def _findings(queue: Queue, at_ms: int, found: Sequence[Problem]) -> None:
    if not found:
        st.success(words.label(f"Nothing is wrong, as of {words.clock(at_ms)}"), icon=":material/check:")
        return
    mendable = [each for each in found if each.fix and not each.fixed]
    st.warning(f"{words.label(words.counted(len(found), 'finding'))} as of {words.label(words.clock(at_ms))}")
    parts.table(
        {
            "kind": [each.kind for each in found],
            "what": [each.what for each in found],
            "fixing does": [each.fix for each in found],
            "fixed": ["yes" if each.fixed else "" for each in found],
            "message": [each.message_id for each in found],
            "path": [each.path for each in found],
        },
        "findings",
    )
    if mendable and st.button(f"Fix {words.counted(len(mendable), 'finding')}", key="fix"):
        parts.confirm(
            "Fix what was found?",
            what=f"{words.counted(len(mendable), 'finding')} of the queue {queue.name}, to be mended as is said. "
            "Nothing is deleted on doubt.",
            do=f"Fix {words.counted(len(mendable), 'finding')}",
            act=acts.kept("fix", lambda: _fix(queue), queue=queue.name, count=len(mendable)),
        )


def _fix(queue: Queue) -> str:
    found = queue.check(fix=True, progress=parts.progress("Fixing"))
    st.session_state[_FOUND] = (queue.name, place.now_ms(), list(found))
    return f"{words.counted(sum(each.fixed for each in found), 'finding')} fixed"


# Rebuilding -------------------------------------------------------------------------


def _ask_rebuild(queue: Queue) -> None:
    stats = queue.stats()
    count = stats.ready + stats.scheduled + stats.claimed + stats.done + stats.dead
    if place.is_database():
        title = do = "Count anew"
        what = f"The messages of the queue {queue.name}, about {count:,}, are counted, and each group's first is found."
        loses = ""
    else:
        title, do = "Make the index anew", "Rebuild the index"
        what = f"The index of the queue {queue.name} is made from its files, about {words.counted(count, 'message')}."
        loses = " Totals and the history by minutes begin anew."
    parts.confirm(
        f"{title}?",
        what=f"{what} Meanwhile nothing can be claimed or settled.{loses}",
        do=do,
        act=acts.kept("rebuild", lambda: _rebuild(queue), queue=queue.name, count=count),
    )


def _rebuild(queue: Queue) -> str:
    count = queue.rebuild(progress=parts.progress("Rebuilding"))
    st.session_state.pop(_FOUND, None)
    if place.is_database():
        return f"{words.counted(count, 'message')} counted"
    return f"The index was made anew, with {words.counted(count, 'message')}"
