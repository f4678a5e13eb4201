"""The page dead."""

import streamlit as st

from spoolq.console import parts


def page() -> None:
    """Draw it."""
    parts.frame("dead", lambda queue: st.text(queue.url))
