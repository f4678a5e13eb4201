#!/usr/bin/env python3
"""Delete processed messages that have been kept long enough, once or periodically.

    python scripts/cleanup.py --dry-run            # what it would delete
    python scripts/cleanup.py
    python scripts/cleanup.py --every 60

How long is long enough is a setting of each queue: retention.done_s (a day) and retention.dead_s (for ever).
"""

from __future__ import annotations

import argparse
import os
import sys

from spoolq import SpoolqError, open_queue
from spoolq.cli.stopping import until_stopped
from spoolq.queue import list_queues


def clean(spool: str, *, dry_run: bool) -> bool:
    """Clean every queue of a spool, and say what was deleted; False where one could not be."""
    done = True
    for name in list_queues(spool):
        try:
            with open_queue(spool, queue=name, create=False) as queue:
                found = queue.clean(dry_run=dry_run)
        except SpoolqError as error:
            print(f"{name}: {error}", file=sys.stderr)
            done = False
            continue
        words = ", ".join(f"{count} {what}" for what, count in found.items() if count) or "nothing"
        print(f"{name}: {words} {'to delete' if dry_run else 'deleted'}", flush=True)
    return done


def main() -> int:
    """Run as a program."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--spool", default=os.environ.get("SPOOLQ_SPOOL", "spool"))
    reader.add_argument("--every", type=float, metavar="SECONDS", help="again and again, until TERM or Ctrl-C")
    reader.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    asked = reader.parse_args()
    if asked.every is not None and asked.every <= 0:
        reader.error("--every must be over 0")
    try:
        if asked.every is None:
            return 0 if clean(asked.spool, dry_run=asked.dry_run) else 1
        for _ in until_stopped(asked.every):
            clean(asked.spool, dry_run=asked.dry_run)
    except (SpoolqError, OSError) as error:
        print(f"cleanup.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
