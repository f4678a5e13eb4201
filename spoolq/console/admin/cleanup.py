"""Delete what retention says, now: first what would go, then do it."""

from __future__ import annotations

import streamlit as st

from spoolq.console import parts, place, words
from spoolq.console.admin import acts
from spoolq.interfaces import Queue

_PREVIEW = "cleanup.preview"


def page() -> None:
    """Draw it."""
    parts.frame("Cleanup", _draw)


def _draw(queue: Queue) -> None:
    st.text(kept_words(queue.settings.retention.done_s, queue.settings.retention.dead_s))
    if st.button("Look what would go", key="preview", type="primary"):
        with parts.trouble():
            st.session_state[_PREVIEW] = (queue.name, place.now_ms(), queue.clean(dry_run=True))
    found = st.session_state.get(_PREVIEW)
    if found is None or found[0] != queue.name:
        st.caption("Looking deletes nothing. Cleanup also runs by itself, once a minute, wherever the queue is used.")
        return
    counts: dict[str, int] = found[2]
    st.caption(words.label(f"As of {words.clock(found[1])}"))
    count = in_all(counts)
    if not count:
        parts.empty("Nothing would go.", "Nothing here is older than retention keeps it.")
        return
    parts.table(cells(counts), "preview-table")
    if st.button(f"Clean up {words.counted(count, 'item')} now", key="clean"):
        parts.confirm(
            "Clean up?",
            what=f"{words.counted(count, 'item')} of the queue {queue.name}, to be deleted for good by retention.",
            do=f"Delete {words.counted(count, 'item')}",
            act=acts.kept("clean", lambda: _clean(queue), queue=queue.name, count=count),
        )


def kept_words(done_s: float, dead_s: float) -> str:
    """What retention keeps, in words. Pure."""
    done = f"Done messages are kept for {words.span(done_s)}" if done_s else "Done messages are deleted at once"
    dead = f"dead letters for {words.span(dead_s)}" if dead_s else "dead letters until somebody acts"
    return f"{done}, {dead}. The settings are on the page Queues."


def in_all(counts: dict[str, int]) -> int:
    """How many things, of counts that have bytes among them. Pure."""
    return sum(count for what, count in counts.items() if not what.endswith("_bytes"))


def cells(counts: dict[str, int]) -> dict[str, list[object]]:
    """What would go, how many, how large. Pure."""
    kinds = [what for what, count in counts.items() if count and not what.endswith("_bytes")]
    return {
        "what": [kind.replace("_", " ") for kind in kinds],
        "how many": [counts[kind] for kind in kinds],
        "size": [words.size(counts[f"{kind}_bytes"]) if f"{kind}_bytes" in counts else "" for kind in kinds],
    }


def _clean(queue: Queue) -> str:
    counts = queue.clean(progress=parts.progress("Cleaning up"))
    st.session_state.pop(_PREVIEW, None)
    return f"{words.counted(in_all(counts), 'item')} deleted"
