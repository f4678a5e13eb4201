#!/usr/bin/env python3
"""Process messages: print each one's name, size, type, number of lines and SHA-256.

    python scripts/consumer.py
    python scripts/consumer.py --drain --concurrency 4

The same as `spoolq work spoolq.samples:describe`. Put a function of your own in the place of `handle`: what it returns
is not looked at; when it returns, the message is acknowledged; when it raises, the message comes again later.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys

from spoolq import SpoolqError, open_queue
from spoolq.message import Message
from spoolq.samples import describe
from spoolq.worker import PythonHandler, Worker


def handle(message: Message) -> None:
    """Process one message; `message.path` is its file, `message.body` its bytes."""
    describe(message)


def main() -> int:
    """Run as a program, until TERM or Ctrl-C: the message in hand is finished first."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--spool", default=os.environ.get("SPOOLQ_SPOOL", "spool"))
    reader.add_argument("--queue", default=None)
    reader.add_argument("--concurrency", type=int, default=1, help="so many messages at the same time")
    reader.add_argument("--drain", action="store_true", help="leave when the queue is empty")
    asked = reader.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        with open_queue(asked.spool, queue=asked.queue) as queue:
            return Worker(queue, PythonHandler(handle), concurrency=asked.concurrency, drain=asked.drain).run()
    except (SpoolqError, OSError, ValueError) as error:
        print(f"consumer.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
