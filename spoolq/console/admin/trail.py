"""What was done in this console, by whom: the audit trail, newest first."""

from __future__ import annotations

from os import environ

import streamlit as st

from spoolq import audit
from spoolq.console import parts, place, words
from spoolq.interfaces import Queue

EVERY_S = 5.0
MOST = 300


def page() -> None:
    """Draw it."""
    parts.frame("Audit", _draw)


@st.fragment(run_every=EVERY_S)
def _draw(queue: Queue) -> None:
    with parts.trouble():
        path = audit.path_for(place.spool(), environ)
        found = audit.last(path, MOST)
        if not found:
            parts.empty("Nothing was done here yet.", f"What changes something is kept in {path}.")
            return
        parts.table(
            {
                "when": [words.instant(each.at_ms) for each in found],
                "who": [each.who for each in found],
                "what": [each.what for each in found],
                "queue": [each.queue for each in found],
                "count": [f"{each.count:,}" if each.count is not None else "" for each in found],
                "outcome": [each.outcome for each in found],
            },
            "trail",
            height=600,
        )
        st.caption(words.label(f"The last {MOST} of {path}, as of {words.clock(place.now_ms())}"))
