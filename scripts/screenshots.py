"""Pictures of every page of both consoles: `make screenshots`, or with words: `--messages 10 --consoles ops`.

Light and dark, on a desktop and on a phone, with 0, 10 and 100,000 messages, of a whole stack at work, in
build/screenshots/; and of each dialog. To be looked at: nothing may be clipped, overlap, or be unreadable. The seconds
are from asking for a page to its numbers, in this order.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from benchmarks.consoles import CHROMIUM, FLAGS
from spoolq import NewMessage, audit, open_queue
from spoolq.console import admin, ops
from spoolq.models import Attempt
from spoolq.queue import create_queue
from spoolq.stack.running import own_ports, running

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
    if count:
        with create_queue(spool, "emails") as emails:
            emails.enqueue_many([b"a letter"] * 3)
            for message in emails.dequeue_many(3):
                message.ack()
        # Short enough to have passed when the console looks, and nobody else cleans up before.
        (spool / "queues" / "emails" / "queue.toml").write_text("[retention]\ndone_s = 0.001\n")
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


def _litter(spool: Path) -> None:
    """What else one meets: drops that are ignored or no message, a link in quarantine, an operator's acts, a claim."""
    (spool / "new" / "upload.part").write_bytes(b"half of it")
    (spool / "new" / "unpacked").mkdir()
    (spool / "new" / "latest.csv").symlink_to("/etc/hostname")
    now_ms = time.time_ns() // 1_000_000
    for ago_ms, what, count, outcome in (
        (86_400_000, "create", None, "The queue emails was made"),
        (7_200_000, "settings max_attempts, retry.base_s", None, "Changed: max_attempts, retry.base_s"),
        (60_000, "purge ready, scheduled", 1204, "1,204 messages purged"),
        (20_000, "delete queue", 3, "refused: The queue has claimed messages"),
    ):
        at_ms = now_ms - ago_ms
        audit.add(spool / audit.NAME, audit.Done(
            at_ms=at_ms, who="ada on this machine", what=what, queue="emails", count=count, outcome=outcome,
        ))  # fmt: skip
    with open_queue(spool, detached=True) as queue:
        while queue.maintain():
            pass
        queue.dequeue(lease_s=600)


@contextmanager
def at_work(spool: Path, count: int) -> Iterator[dict[str, str]]:
    """A stack of the spool whose consumer has one message in hand for long; the consoles' addresses."""
    environ = own_ports() | {"SPOOLQ_CONSUMERS": "0"}
    line = [sys.executable, "-m", "spoolq", "work", "--spool", str(spool), "--", "sleep", "3600"]
    with running(spool, environ) as stack:
        worker = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) if count else None
        try:
            yield dict(stack.addresses)
        finally:
            if worker is not None:
                worker.kill()
                worker.wait()


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


def dialog(tab: Any, address: str, presses: tuple[str, ...], path: Path) -> None:
    """The picture of what is asked after these buttons were pressed; one that is not there is passed over."""
    tab.goto(address)
    tab.get_by_text("As of").first.wait_for(timeout=LIMIT_S * 1000)
    for name in presses:
        button = tab.get_by_role("button", name=name).first
        try:
            button.wait_for(timeout=3000)
            button.click(timeout=3000)
        except Exception:
            return
    tab.get_by_test_id("stDialog").wait_for(timeout=10_000)
    tab.wait_for_timeout(700)
    tab.screenshot(path=str(path))


DIALOGS = (
    ("ops", "dead?queue=default", ("Redrive all that fit",)),
    ("ops", "dead?queue=default", ("Delete all that fit",)),
    ("admin", "queues?queue=default", ("Purge",)),
    ("admin", "queues?queue=emails", ("Delete the queue",)),
    ("admin", "health?queue=default", ("Rebuild the index",)),
    ("admin", "cleanup?queue=emails", ("Look what would go", "Clean up")),
)


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
                if count:
                    _litter(spool)
                with at_work(spool, count) as addresses:
                    for kind in asked.consoles:
                        _console(browser, kind, addresses[f"{kind}_console"], asked.out, count, id)
        browser.close()


def _console(browser: Any, kind: str, url: str, out: Path, count: int, id: str) -> None:
    for theme in ("light", "dark"):
        for device, (width, height) in WIDTHS.items():
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
            tab = context.new_page()
            for path in [each.path for each in {"ops": ops, "admin": admin}[kind].PAGES]:
                address = f"{url}/{path}?queue=default" + (f"&id={id}" if path == "message" and id else "")
                to = out / f"{kind}-{path or 'first'}-{count}-{theme}-{device}.png"
                sys.stdout.write(f"{to} {picture(tab, address, to):.2f} s\n")
            for number, (which, path, presses) in enumerate(DIALOGS):
                if which == kind and count:
                    to = out / f"{kind}-{path.partition('?')[0]}-dialog{number}-{count}-{theme}-{device}.png"
                    dialog(tab, f"{url}/{path}", presses, to)
            context.close()


if __name__ == "__main__":
    main()
