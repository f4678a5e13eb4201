"""Both consoles of one spool: the first paint in a browser, and the server's time for a page, again and for a list."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.places import open_spool, place
from benchmarks.report import Figure

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
START_S = 60.0


def run(base: Path, rounds: int, count: int) -> list[Figure]:
    """With `count` messages, of which 1,000 are done and 1,000 dead."""
    logging.getLogger("streamlit").setLevel("ERROR")
    with place(base) as path:
        _fill(path, count)
        painted = [figure for kind in ("ops", "admin") for figure in _painted(kind, path, rounds)]
        return [*painted, *_listed(path, rounds), *_drawn(path, rounds)]


def _fill(path: Path, count: int) -> None:
    with open_spool(path, durability="process") as queue:
        queue.enqueue_many(b"x" * 20 for _ in range(count))
        for _ in range(min(1000, count // 4)):
            queue.dequeue().ack()  # type: ignore[union-attr]
            queue.dequeue().dead_letter("no")  # type: ignore[union-attr]


# In a browser -------------------------------------------------------------------------


def _painted(kind: str, path: Path, rounds: int) -> Iterator[Figure]:
    """From asking for the page, in a browser that knows nothing of it, to the queue's numbers in it."""
    from playwright.sync_api import sync_playwright

    with _serving(kind, path) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        times = []
        for _ in range(rounds + 1):
            context = browser.new_context()
            tab = context.new_page()
            times.append(_milliseconds(lambda tab=tab: _paint(tab, url)))  # type: ignore[misc]
            context.close()
        browser.close()
    yield Figure(f"{kind}, first paint in a browser, the server just started", "ms", times[:1])
    yield Figure(f"{kind}, first paint in a browser", "ms", times[1:], "under 2,000")


def _paint(tab: Any, url: str) -> None:
    tab.goto(url, wait_until="commit")
    tab.get_by_test_id("stMetric").first.wait_for()


@contextmanager
def _serving(kind: str, path: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    line = [sys.executable, "-m", "spoolq", "console", kind, "--spool", str(path), "--port", str(port)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait(url: str) -> None:
    ends_s = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
            return
        except OSError:
            if time.monotonic() > ends_s:
                raise
            time.sleep(0.1)


# Of the server alone ------------------------------------------------------------------


def _listed(path: Path, rounds: int) -> Iterator[Figure]:
    """What the ops console's first page of a list asks of the queue."""
    with open_spool(path, durability="process") as queue:
        for state in ("ready", "dead"):
            times = [_milliseconds(partial(queue.list, state, limit=100)) for _ in range(rounds)]
            yield Figure(f"ops, the first 100 of {state}", "ms", times, "under 200")
        times = [_milliseconds(partial(queue.list, "ready", limit=10_000)) for _ in range(rounds)]
        yield Figure("ops, the 10,000 that another order is made of", "ms", times, "under 500")
        times = []
        for _ in range(rounds):
            queue.enqueue(b"x")  # so that new/ is listed again
            times.append(_milliseconds(queue.drops))
        yield Figure("admin, the drops after new/ has changed", "ms", times, "under 500")
        times = [_milliseconds(lambda: queue.ages((60, 3600))) for _ in range(rounds)]
        yield Figure("admin, the ages of all that is ready", "ms", times)


def _drawn(path: Path, rounds: int) -> Iterator[Figure]:
    """A whole page again, more than what refreshes by itself, in this process."""
    from streamlit.testing.v1 import AppTest

    from spoolq.console import admin, guard, ops

    guard.enter = lambda: None  # it is asked by the browser's name, and there is none
    os.environ["SPOOLQ_SPOOL"] = str(path)
    pages = [each.page.__module__.split(".")[-2:] for of in (ops, admin) for each in of.PAGES]
    for kind, page in pages:
        app = AppTest.from_string(f"from spoolq.console.{kind} import {page}\n{page}.page()\n", default_timeout=60)
        times = [_milliseconds(app.run) for _ in range(rounds + 1)]
        assert not app.exception, app.exception
        yield Figure(f"{kind} {page}, drawn again", "ms", times[1:], "under 500")


def _milliseconds(act: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    act()
    return (time.perf_counter() - begun_s) * 1e3
