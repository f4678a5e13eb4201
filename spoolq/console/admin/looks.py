"""What was seen before, for all visitors: the last minute's looks at each queue, the last hours' free space."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import streamlit as st

from spoolq.console import place
from spoolq.console.admin.figures import Look, kept, sampled
from spoolq.errors import QueueNotFound
from spoolq.interfaces import Queue
from spoolq.models import Health

LOOK_EVERY_MS = 1000
SAMPLE_EVERY_MS = 5000
HISTORY_S = 15.0
AGES_S = 5.0


@dataclass
class Seen:
    """Thread-safe."""

    mutex: threading.Lock = field(default_factory=threading.Lock)
    looks: dict[tuple[str, str], list[Look]] = field(default_factory=dict)
    bytes_free: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    inodes_free: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def look(self, queue: str, new: Look) -> list[Look]:
        """Keep a look at a queue; those of the last minute."""
        with self.mutex:
            before = self.looks.get((place.spool(), queue), [])
            found = kept(before, new)
            if not before or new.at_ms - before[-1].at_ms >= LOOK_EVERY_MS:
                self.looks[place.spool(), queue] = found
            return found

    def sample(self, at_ms: int, health: Health) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Keep a sample of the free space; all of bytes and of inodes."""
        found = []
        with self.mutex:
            for samples, value in (
                (self.bytes_free, health.disk_free_bytes),
                (self.inodes_free, health.disk_free_inodes),
            ):
                before = samples.get(place.spool(), [])
                if not before or at_ms - before[-1][0] >= SAMPLE_EVERY_MS:
                    before = samples[place.spool()] = sampled(before, (at_ms, value))
                found.append(before)
        return found[0], found[1]


@st.cache_resource(show_spinner=False)
def seen() -> Seen:
    """The one of this server."""
    return Seen()


def everything() -> list[tuple[Queue, list[Look]]]:
    """Each queue with its looks of the last minute. One that is deleted meanwhile is left out."""
    found = []
    for name in place.queues():
        try:
            queue, stats = place.looked_at(name)
        except QueueNotFound:
            continue
        found.append((queue, seen().look(name, Look(place.now_ms(), stats))))
    return found
