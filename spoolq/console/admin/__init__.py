"""The admin console: for whoever looks after queues. One module a page.

overview.py, queues.py, holders.py, disk.py, health.py, cleanup.py, drops.py, relay.py, processes.py, trail.py.
figures.py computes what they show, looks.py keeps what was seen before, acts.py writes the audit trail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from spoolq.console import parts
from spoolq.console.admin import cleanup, disk, drops, health, holders, overview, processes, queues, relay, trail


def main() -> None:
    """Draw the page that the address names."""
    parts.console("admin", _pages)


def _pages() -> Sequence[Any]:
    return [
        st.Page(overview.page, title="Overview", icon=":material/monitoring:", url_path="overview", default=True),
        st.Page(queues.page, title="Queues", icon=":material/settings:", url_path="queues"),
        st.Page(holders.page, title="Who holds what", icon=":material/badge:", url_path="holders"),
        st.Page(disk.page, title="Disk", icon=":material/hard_drive:", url_path="disk"),
        st.Page(health.page, title="Health", icon=":material/ecg_heart:", url_path="health"),
        st.Page(cleanup.page, title="Cleanup", icon=":material/mop:", url_path="cleanup"),
        st.Page(drops.page, title="Drops", icon=":material/move_to_inbox:", url_path="drops"),
        st.Page(relay.page, title="Relay", icon=":material/send:", url_path="relay"),
        st.Page(processes.page, title="Processes", icon=":material/memory:", url_path="processes"),
        st.Page(trail.page, title="Audit", icon=":material/history:", url_path="audit"),
    ]
