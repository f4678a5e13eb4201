"""The page send."""

import streamlit as st

from spoolq.console import parts


def page() -> None:
    """Draw it."""
    parts.frame("send", lambda queue: st.text(queue.url))
