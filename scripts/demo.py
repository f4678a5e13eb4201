#!/usr/bin/env python3
"""The stack in a minute: bring it up on a temporary spool, drop files, enqueue over REST, kill a consumer, look, stop.

python scripts/demo.py                         # or: make demo
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spoolq import Queue, SpoolqError, open_queue
from spoolq.stack.running import Running, own_ports, running

HERE = Path(__file__).resolve().parents[1]
LIMIT_S = 30.0
# Its command takes a second a message, so that there is time to kill it with one in hand.
SLOW = """
[program:consumer]
command="{python}" -m spoolq work --queue slow -- sh -c 'echo "attempt $SPOOLQ_ATTEMPT: $SPOOLQ_NAME"; sleep 1'
"""


def wait_for(what: Callable[[], Any], meaning: str) -> Any:
    """The first true value of `what`; the demo fails where there is none in time."""
    ends_s = time.monotonic() + LIMIT_S
    while not (found := what()):
        if time.monotonic() > ends_s:
            sys.exit(f"demo.py: not within {LIMIT_S:g} s: {meaning}")
        time.sleep(0.02)
    return found


def drop_files(spool: Path, queue: Queue) -> None:
    """Real files, by the copy that anybody would use."""
    files = [HERE / "README.md", HERE / "LICENSE", Path(sys.executable)]
    print("\n1. Three files are copied into new/. No program of spoolq is involved:")
    for path in files:
        print(f"     cp {path} new/")
        shutil.copy(path, spool / "new")
    wait_for(lambda: queue.stats().done == len(files), "three files in done/")
    print((spool / "logs" / "consumer_00.log").read_text().rstrip())


def enqueue_over_rest(stack: Running, queue: Queue) -> None:
    """What curl would do."""
    url = f"{stack.addresses['api']}/enqueue"
    print(f"\n2. A message over REST:\n     curl --data-binary 'hello over HTTP' {url}")
    done = queue.stats().done
    with urllib.request.urlopen(urllib.request.Request(url, data=b"hello over HTTP")) as answer:
        print(f"   {answer.read().decode()}")
    wait_for(lambda: queue.stats().done > done, "the message in done/")


def kill_a_consumer(spool: Path) -> None:
    """Its message comes back, counted, to the one that takes its place."""
    print("\n3. A consumer is killed while it works on a message:")
    with running(spool, own_ports()) as stack, open_queue(spool, queue="slow") as queue:
        queue.enqueue(b"slow work", name="slow.txt")
        wait_for(lambda: queue.stats().claimed, "the message claimed")
        pid = next(each.pid for each in stack.programs.all() if each.name == "consumer_00")
        print(f"     kill -9 {pid}")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: queue.stats().done, "the message in done/")
        stack.stop()
    lines = (spool / "logs" / "consumer_00.log").read_text().splitlines()
    print("\n".join(line for line in lines if line.startswith("attempt")))


def main() -> int:
    """Run as a program."""
    os.environ["SPOOLQ_LOG"] = "error"
    with tempfile.TemporaryDirectory(prefix="spoolq-demo-") as directory:
        spool = Path(directory, "spool")
        with open_queue(spool) as queue:
            print("Starting API, consoles, watch, consumer and cleanup on a temporary spool ...")
            with running(spool, own_ports()) as stack:
                print("   healthy: " + ", ".join(each.label for each in stack.programs.all() if each.pid))
                drop_files(spool, queue)
                enqueue_over_rest(stack, queue)
                print("\n   While it runs, these pages show it:")
                for name, url in stack.addresses.items():
                    print(f"     {name.replace('_', ' '):14} {url}{'/docs' if name == 'api' else ''}")
                stack.stop()
            from spoolq.queue import create_queue

            create_queue(spool, "slow").close()
            (spool / "supervisord.local.conf").write_text(SLOW.format(python=sys.executable) + OFF)
            kill_a_consumer(spool)
            print("\n4. What is left, in done/:")
            for each in queue.list("done").messages:
                print(f"     {each.name or each.id}, {each.body_bytes} bytes")
            problems = queue.check()
            print(f"\nspoolq check: {len(problems)} problems. Everything is stopped; `make run` starts it on spool/.")
    return 1 if problems else 0


# The second part needs no pages.
OFF = "".join(f"[program:{name}]\nautostart=false\n" for name in ("ops_console", "admin_console", "api"))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpoolqError as error:
        sys.exit(f"demo.py: {error}")
