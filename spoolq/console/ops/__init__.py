"""The ops console: for whoever works with messages. In the order of a message's life, one module a page.

send.py, take.py, browse.py, message.py (one message, its timeline and its body, shown by preview.py), dead.py;
listing.py is what browse and dead share. It cannot do what is the admin's: nothing here makes, deletes, pauses, purges
or sets a queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from spoolq.console import parts
from spoolq.console.ops import browse, dead, message, send, take


def main() -> None:
    """Draw the page that the address names."""
    parts.console("ops", _pages)


def _pages() -> Sequence[Any]:
    return [
        st.Page(browse.page, title="Browse", icon=":material/list:", url_path="browse", default=True),
        st.Page(send.page, title="Send", icon=":material/send:", url_path="send"),
        st.Page(take.page, title="Take", icon=":material/back_hand:", url_path="take"),
        st.Page(dead.page, title="Dead letters", icon=":material/report:", url_path="dead"),
        st.Page(message.page, title="Message", icon=":material/mail:", url_path="message"),
    ]
