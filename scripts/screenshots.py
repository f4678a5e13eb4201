"""Pictures of every page of both consoles: `make screenshots`, or with words: `--messages 10 --consoles ops`.

Light and dark, on a desktop and on a phone, with 0, 10 and 100,000 messages, in build/screenshots/. To be looked at:
nothing may be clipped, overlap, or be unreadable. The seconds are from asking for a page to its numbers, in this order.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from spoolq import NewMessage, open_queue
from spoolq.models import Attempt

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WIDTHS = {"desktop": (1280, 860), "phone": (390, 844)}
LIMIT_S = 60.0
REASONS = (
    ("exit status 65 (give up)", "no such customer: 1017\n"),
    ("ConnectionRefusedError: [Errno 111] mail.example.org", "Traceback (most recent call last): ...\n"),
    ("killed by signal 9", ""),
)
KINDS = (
    ("order-{}.json", "application/json", b'{"order": 17, "items": [{"sku": "tea-250", "count": 2}], "paid": true}'),
    ("stock-{}.csv", "text/csv", b"sku,count,place\ntea-250,14,A3\ntea-500,0,A4\n"),
    ("letter-{}.txt", "text/plain", "Dear Ms Müller,\nyour parcel is on its way.\n".encode()),
)


def fill(spool: Path, count: int) -> str:
    """A spool as one meets it: most wait, some are done, some gave up. The id of a message with a history, or ""."""
    shown = ""
    with open_queue(spool) as queue:
        for first in range(0, count, 500):
            queue.enqueue_many(_made(number) for number in range(first, min(first + 500, count)))
        for number in range(min(count // 2, 400)):
            message = queue.dequeue()
            if message is None:
                break
            reason, stderr = REASONS[number % 7 % 3]
            details = Attempt(
                attempt=1,
                outcome="",
                ended_at_ms=0,
                exit_status=65,
                stderr=stderr,
                duration_s=1.4,
                host="mill",
                pid=4711,
            )
            if number % 5 < 2:
                message.dead_letter(reason, details=details)
                shown = message.id
            elif number % 5 == 2:
                message.requeue(3600, reason, details=details)
            else:
                message.ack()
    return shown


def _made(number: int) -> NewMessage:
    name, kind, body = KINDS[number % 3]
    return NewMessage(
        body=body,
        name=name.format(number),
        content_type=kind,
        priority=5 + number % 3,
        delay_s=3600 if number % 10 == 9 else 0,
        headers={"source": "shop"},
    )


@contextmanager
def serving(kind: str, spool: Path) -> Iterator[str]:
    """A console of the spool; its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    line = [sys.executable, "-m", "spoolq", "console", kind, "--spool", str(spool), "--port", str(port)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url, process)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    ends_s = time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < ends_s:
        try:
            urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the console does not start")


def pages(browser: Any, url: str) -> list[str]:
    """The paths of a console's pages, as its navigation has them."""
    tab = browser.new_page(viewport={"width": 1600, "height": 900})
    tab.goto(url)
    links = tab.get_by_test_id("stTopNavLink")
    links.first.wait_for(timeout=LIMIT_S * 1000)
    found = [links.nth(at).get_attribute("href").rpartition("/")[2] for at in range(links.count())]
    tab.close()
    return found


def picture(tab: Any, address: str, path: Path) -> float:
    """Take it once the page is at rest; how long its numbers took."""
    began_s = time.monotonic()
    tab.goto(address)
    tab.get_by_text("As of").first.wait_for(timeout=LIMIT_S * 1000)
    took_s = time.monotonic() - began_s
    try:
        tab.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for(timeout=5000)
    except Exception as error:
        sys.stderr.write(f"{address}: {type(error).__name__}\n")
    tab.wait_for_timeout(900)
    # Streamlit scrolls inside of its page, so a taller window shows all of it.
    height = tab.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    size = tab.viewport_size
    tab.set_viewport_size({"width": size["width"], "height": max(size["height"], min(height + 20, 3000))})
    tab.wait_for_timeout(300)
    tab.screenshot(path=str(path))
    tab.set_viewport_size(size)
    return took_s


def main() -> None:
    """Take all that was asked for."""
    parser = argparse.ArgumentParser(prog="scripts/screenshots.py", description=__doc__)
    parser.add_argument("--messages", type=int, nargs="+", default=[0, 10, 100_000])
    parser.add_argument("--consoles", nargs="+", default=["ops", "admin"])
    parser.add_argument("--out", type=Path, default=Path("build/screenshots"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        for count in asked.messages:
            with tempfile.TemporaryDirectory() as directory:
                spool = Path(directory) / "spool"
                id = fill(spool, count)
                for kind in asked.consoles:
                    with serving(kind, spool) as url:
                        _console(browser, kind, url, asked.out, count, id)
        browser.close()


def _console(browser: Any, kind: str, url: str, out: Path, count: int, id: str) -> None:
    for path in pages(browser, url):
        for theme in ("light", "dark"):
            for device, (width, height) in WIDTHS.items():
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
                address = f"{url}/{path}?queue=default" + (f"&id={id}" if path == "message" and id else "")
                to = out / f"{kind}-{path or 'first'}-{count}-{theme}-{device}.png"
                took_s = picture(context.new_page(), address, to)
                sys.stdout.write(f"{to} {took_s:.2f} s\n")
                context.close()


if __name__ == "__main__":
    main()
