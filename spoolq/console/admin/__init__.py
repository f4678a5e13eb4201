"""The admin console: for whoever looks after queues. One module a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from spoolq.console import parts


def main() -> None:
    """Draw the page that the address names."""
    parts.console("admin", _pages)


def _pages() -> Sequence[Any]:
    return [st.Page(_numbers, title="Queues", default=True)]


def _numbers() -> None:
    parts.frame("Queues", lambda queue: st.text(queue.url))
