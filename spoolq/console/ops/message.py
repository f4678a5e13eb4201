"""The page message."""

import streamlit as st

from spoolq.console import parts


def page() -> None:
    """Draw it."""
    parts.frame("message", lambda queue: st.text(queue.url))
