"""The page take."""

import streamlit as st

from spoolq.console import parts


def page() -> None:
    """Draw it."""
    parts.frame("take", lambda queue: st.text(queue.url))
