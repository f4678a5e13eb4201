"""The admin console: for whoever looks after queues. One module a page.

overview.py, queues.py, holders.py, disk.py, health.py, cleanup.py, drops.py, relay.py, processes.py, trail.py.
figures.py computes what they show, looks.py keeps what was seen before, acts.py writes the audit trail.
"""

from __future__ import annotations

from spoolq.console import parts
from spoolq.console.admin import cleanup, disk, drops, health, holders, overview, processes, queues, relay, trail
from spoolq.console.parts import Entry

PAGES = (
    Entry(overview.page, "Overview", "monitoring", ""),
    Entry(queues.page, "Queues", "settings", "queues"),
    Entry(holders.page, "Who holds what", "badge", "holders"),
    Entry(disk.page, "Disk", "hard_drive", "disk"),
    Entry(health.page, "Health", "ecg_heart", "health"),
    Entry(cleanup.page, "Cleanup", "mop", "cleanup"),
    Entry(drops.page, "Drops", "move_to_inbox", "drops"),
    Entry(relay.page, "Relay", "send", "relay"),
    Entry(processes.page, "Processes", "memory", "processes"),
    Entry(trail.page, "Audit", "history", "audit"),
)
"""Every page, in the order of the navigation; the first is shown where the address names none."""


def main() -> None:
    """Draw the page that the address names."""
    parts.console("admin", PAGES)
