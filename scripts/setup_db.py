#!/usr/bin/env python3
"""Make a spool and its index, or make the index anew from the files.

    python scripts/setup_db.py                     # spool/
    python scripts/setup_db.py /var/spool/orders --queue emails
    python scripts/setup_db.py --rebuild

Missing directories on the way are made. What is there already is left as it is.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from spoolq import SpoolqError, open_queue
from spoolq.queue import create_queue, init_spool, list_queues


def main() -> int:
    """Run as a program."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("spool", nargs="?", type=Path, default=Path(os.environ.get("SPOOLQ_SPOOL", "spool")))
    reader.add_argument("--queue", action="append", default=[], help="a further queue to make; may be repeated")
    reader.add_argument("--rebuild", action="store_true", help="make every index anew from the files")
    asked = reader.parse_args()
    try:
        asked.spool.parent.mkdir(parents=True, exist_ok=True)
        made = init_spool(asked.spool)
        print(f"{asked.spool} {'is a spool now' if made else 'was a spool already'}")
        for name in set(asked.queue) - set(list_queues(asked.spool)):
            create_queue(asked.spool, name).close()
        for name in list_queues(asked.spool):
            with open_queue(asked.spool, queue=name) as queue:
                count = queue.rebuild() if asked.rebuild else queue.stats().ready
            print(f"  {name}: {count} messages {'indexed' if asked.rebuild else 'ready'}")
    except (SpoolqError, OSError, ValueError) as error:
        print(f"setup_db.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
