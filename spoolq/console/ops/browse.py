"""The page browse."""

import streamlit as st

from spoolq.console import parts


def page() -> None:
    """Draw it."""
    parts.frame("browse", lambda queue: st.text(queue.url))
