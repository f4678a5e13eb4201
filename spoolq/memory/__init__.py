"""A queue in memory: the model of the contract that the other engines are held against, and a queue for unit tests.

In reading order: queue.py (the contract), consuming.py (claims, and waiting for them), store.py (every transition),
entries.py (the messages, in their orders), look.py and dead_letters.py (what is told of them).
"""

from spoolq.memory.queue import MemoryQueue
from spoolq.memory.store import MemoryStore

__all__ = ["MemoryQueue", "MemoryStore"]
