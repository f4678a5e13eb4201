"""spoolq: a persistent message queue whose messages are plain files.

`open_queue` is the way in; everything else hangs off the queue it returns.
Names are loaded on first use, so that a command that needs little starts fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "open_queue": "spoolq.queue",
    "Message": "spoolq.message",
    "Queue": "spoolq.interfaces",
    "NewMessage": "spoolq.models",
    "MessageInfo": "spoolq.models",
    "Stats": "spoolq.models",
    "SpoolqError": "spoolq.errors",
    "LeaseLost": "spoolq.errors",
}

__all__ = ["LeaseLost", "Message", "MessageInfo", "NewMessage", "Queue", "SpoolqError", "Stats", "open_queue"]

if TYPE_CHECKING:
    from spoolq.errors import LeaseLost, SpoolqError
    from spoolq.interfaces import Queue
    from spoolq.message import Message
    from spoolq.models import MessageInfo, NewMessage, Stats
    from spoolq.queue import open_queue


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'spoolq' has no attribute {name!r}")
    return getattr(import_module(home), name)
