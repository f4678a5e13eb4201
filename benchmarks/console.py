"""The ops console: what its server takes to draw a page of a queue, first and again, without the browser."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from benchmarks.places import open_spool, place
from benchmarks.report import Figure

PAGES = ("browse", "dead", "send", "take", "message")


def run(base: Path, rounds: int, count: int) -> list[Figure]:
    """A figure a page, of a queue with `count` messages."""
    from streamlit.testing.v1 import AppTest

    from spoolq.console import guard

    logging.getLogger("streamlit").setLevel("ERROR")
    guard.enter = lambda: None  # it is asked by the browser's name, and there is none
    figures: list[Figure] = []
    with place(base) as path:
        with open_spool(path, durability="process") as queue:
            queue.enqueue_many(b"x" * 20 for _ in range(count))
        os.environ["SPOOLQ_SPOOL"] = str(path)
        for page in ("browse", *PAGES):
            script = f"from spoolq.console.ops import {page}\n{page}.page()\n"
            app = AppTest.from_string(script, default_timeout=60)
            times: list[float] = []
            for _ in range(rounds + 1):
                begun = time.perf_counter()
                app.run()
                times.append((time.perf_counter() - begun) * 1e3)
                assert not app.exception
            if not figures:  # the first one of all loads pandas and pyarrow
                figures.append(Figure("the first page after a start", "ms", times[:1]))
                continue
            figures.append(Figure(f"{page}, the first time", "ms", times[:1], "under 2,000"))
            figures.append(Figure(f"{page}, again", "ms", times[1:], "under 500"))
    return figures
