"""The ops console: for whoever works with messages. In the order of a message's life, one module a page.

send.py, take.py, browse.py, message.py (one message, its timeline and its body, shown by preview.py), dead.py;
listing.py is what browse and dead share. It cannot do what is the admin's: nothing here makes, deletes, pauses, purges
or sets a queue.
"""

from __future__ import annotations

from spoolq.console import parts
from spoolq.console.ops import browse, dead, message, send, take
from spoolq.console.parts import Entry

PAGES = (
    Entry(browse.page, "Browse", "list", ""),
    Entry(send.page, "Send", "send", "send"),
    Entry(take.page, "Take", "back_hand", "take"),
    Entry(dead.page, "Dead letters", "report", "dead"),
    Entry(message.page, "Message", "mail", "message"),
)
"""Every page, in the order of the navigation; the first is shown where the address names none."""


def main() -> None:
    """Draw the page that the address names."""
    parts.console("ops", PAGES)
