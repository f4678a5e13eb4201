#!/usr/bin/env python3
r"""Enqueue lines, files, or synthetic messages at a rate.

    printf 'one\ntwo\n' | python scripts/producer.py --lines
    python scripts/producer.py --files *.pdf
    python scripts/producer.py --rate 20 --count 100

One id a line on standard output: what was printed is safe, whatever is killed.
"""

from __future__ import annotations

import argparse
import mimetypes
import os
import sys
from pathlib import Path

from spoolq import SpoolqError, open_queue
from spoolq.cli.stopping import stopping
from spoolq.interfaces import Queue
from spoolq.samples import produce


def send_lines(queue: Queue) -> None:
    """Each line of standard input, without its end, is a message."""
    for line in sys.stdin.buffer:
        print(queue.enqueue(line.rstrip(b"\r\n")), flush=True)


def send_files(queue: Queue, paths: list[Path]) -> None:
    """Each file is a message: copied piece by piece, so its size does not matter."""
    for path in paths:
        with path.open("rb") as body:
            kind = mimetypes.guess_type(path.name)[0]
            print(queue.enqueue(body, name=path.name, content_type=kind), flush=True)


def send_samples(queue: Queue, rate: float, count: int | None) -> None:
    """Synthetic messages until TERM or Ctrl-C, or until there are enough."""
    with stopping() as stop:
        print(f"enqueued {produce(queue, rate, stop, limit=count)} messages")


def main() -> int:
    """Run as a program."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = reader.add_mutually_exclusive_group(required=True)
    what.add_argument("--lines", action="store_true", help="lines of standard input")
    what.add_argument("--files", nargs="+", type=Path, metavar="FILE")
    what.add_argument("--rate", type=float, help="so many synthetic messages a second")
    reader.add_argument("--count", type=int, help="of --rate: stop after so many")
    reader.add_argument("--spool", default=os.environ.get("SPOOLQ_SPOOL", "spool"), help="a directory, or http://...")
    reader.add_argument("--queue", default=None)
    asked = reader.parse_args()
    if asked.rate is not None and not 0 < asked.rate <= 1000:
        reader.error("--rate must be over 0, and at most 1000")
    try:
        with open_queue(asked.spool, queue=asked.queue) as queue:
            if asked.lines:
                send_lines(queue)
            elif asked.files:
                send_files(queue, asked.files)
            else:
                send_samples(queue, asked.rate, asked.count)
    except (SpoolqError, OSError, ValueError) as error:
        print(f"producer.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
