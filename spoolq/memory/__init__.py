"""A queue in memory: the model of the contract that the other engines are held against, and a queue for unit tests."""

from spoolq.memory.queue import MemoryQueue
from spoolq.memory.store import MemoryStore

__all__ = ["MemoryQueue", "MemoryStore"]
