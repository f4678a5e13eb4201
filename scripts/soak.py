#!/usr/bin/env python3
"""Run the whole stack under load for long, kill a consumer again and again, and see that nothing grows or is lost.

    python scripts/soak.py --seconds 1800

Messages come over REST and as dropped files. consumer_00 is killed at random; of every other program, resident memory
and open descriptors are read every two seconds. Its median in the last fifth of the run may not be more than 5 % over
that in the second fifth (the first is for warming up). Exits with 1 if one is, or if a confirmed message is lost.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from spoolq import Message, Queue, SpoolqError, open_queue
from spoolq.stack.running import Running, own_ports, running

RECORD = "SPOOLQ_SOAK_RECORD"
VICTIM = "consumer_00"
SAMPLE_S = 2.0
LOCAL_CONF = """
[program:consumer]
command="{python}" -P -m spoolq work soak:note

[program:cleanup]
command="{python}" -P -m spoolq clean --every {every:g}
"""


def note(message: Message) -> None:
    """Handle a message: write its key down outside the spool. Runs in the stack's consumers."""
    fd = os.open(os.environ[RECORD], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, message.body.split(b"\n", 1)[0] + b"\n")
    finally:
        os.close(fd)


@dataclass
class Watched:
    """What one program's process needed, sample by sample."""

    pid: int
    rss_mb: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def look(self) -> None:
        """Take a sample."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        self.rss_mb.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
        self.descriptors.append(len(os.listdir(f"/proc/{self.pid}/fd")))


def early_and_late(values: list[float] | list[int]) -> tuple[float, float]:
    """The medians of the second and the last fifth."""
    fifth = max(1, len(values) // 5)
    return median(values[fifth : 2 * fifth] or values), median(values[-fifth:])


class Soak:
    """One run on the stack of a spool."""

    def __init__(self, spool: Path, stack: Running, rate: float) -> None:
        self.confirmed: set[str] = set()
        self.kills = 0
        self._spool = spool
        self._url = stack.addresses["api"]
        self._programs = stack.programs
        self._rate = rate
        self.watched = {
            each.name: Watched(each.pid) for each in self._programs.all() if each.pid and each.name != VICTIM
        }
        self.watched["supervisord"] = Watched(self._programs.pid() or 0)

    def run(self, seconds: float) -> None:
        """Send, kill and look, until so many seconds are over."""
        now_s = time.monotonic()
        ends_s, send_s, kill_s, look_s = now_s + seconds, now_s, now_s + 2, now_s
        number = 0
        with open_queue(self._url) as queue:
            while (now_s := time.monotonic()) < ends_s:
                if now_s >= send_s:
                    number += 1
                    self._send(queue, number)
                    send_s += 1 / self._rate
                if now_s >= kill_s:
                    self._kill()
                    kill_s = now_s + random.uniform(3, 10)
                if now_s >= look_s:
                    self._look()
                    look_s += SAMPLE_S
                time.sleep(max(0.0, min(send_s, kill_s, look_s) - time.monotonic()))

    def _send(self, queue: Queue, number: int) -> None:
        """Nine of ten over REST, the others as files that are moved into new/."""
        key = f"message-{number}"
        body = f"{key}\n".encode() + os.urandom(random.choice((100, 2000, 50_000)))
        if number % 10:
            queue.enqueue(body, name=f"{key}.bin")
        else:
            made = self._spool / "tmp" / f"drop-{number}"
            made.write_bytes(body)
            made.rename(self._spool / "new" / f"{key}.bin")
        self.confirmed.add(key)

    def _kill(self) -> None:
        victim = next(each for each in self._programs.all() if each.name == VICTIM)
        if victim.pid:
            os.kill(victim.pid, signal.SIGKILL)
            self.kills += 1

    def _look(self) -> None:
        with urllib.request.urlopen(f"{self._url}/metrics", timeout=10) as answer:
            answer.read()
        for each in self.watched.values():
            each.look()


def wait_until_empty(spool: Path, limit_s: float) -> None:
    """Until everything that was sent is processed."""
    ends_s = time.monotonic() + limit_s
    with open_queue(spool) as queue:
        while (stats := queue.stats()).ready + stats.scheduled + stats.claimed or any((spool / "new").iterdir()):
            if time.monotonic() > ends_s:
                raise SystemExit(f"after {limit_s:g} s there are still {stats.ready} ready, {stats.claimed} claimed")
            time.sleep(0.1)


def report(soak: Soak, record: Path, seconds: float, percent: float) -> tuple[list[str], bool]:
    """The tables, and whether all is well."""
    came = Counter(record.read_text().splitlines())
    lost = soak.confirmed - came.keys()
    lines = [
        f"| in {seconds:g} s | |", "|---|---|",
        f"| sent and confirmed | {len(soak.confirmed)} |",
        f"| kills of {VICTIM} | {soak.kills} |",
        f"| delivered again after a kill | {came.total() - len(came)} |",
        f"| lost | {len(lost)} |",
        "",
        "| program | resident, MB | at the end | change | descriptors | at the end | greatest |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    flat = True
    for name, each in sorted(soak.watched.items()):
        (rss, rss_late), (fds, fds_late) = early_and_late(each.rss_mb), early_and_late(each.descriptors)
        flat = flat and rss_late <= rss * (1 + percent / 100) and fds_late <= max(fds * (1 + percent / 100), fds + 1)
        change = 100 * (rss_late / rss - 1)
        numbers = f"{rss:.1f} | {rss_late:.1f} | {change:+.1f} % | {fds:g} | {fds_late:g} | {max(each.descriptors)}"
        lines.append(f"| {name} | {numbers} |")
    return lines, flat and not lost


def environment(record: Path) -> dict[str, str]:
    """Ports of its own, two consumers, and handlers that find this module."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return own_ports() | {"SPOOLQ_CONSUMERS": "2", "SPOOLQ_LOG": "warning", RECORD: str(record), "PYTHONPATH": path}


def main() -> int:
    """Run as a program."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--seconds", type=float, default=1800)
    reader.add_argument("--rate", type=float, default=20, help="messages a second")
    reader.add_argument("--percent", type=float, default=5, help="what memory and descriptors may grow by")
    reader.add_argument("--save", type=Path, metavar="FILE", help="write the figures there too, as a page")
    asked = reader.parse_args()
    with tempfile.TemporaryDirectory(prefix="spoolq-soak-") as directory:
        spool, record = Path(directory, "spool"), Path(directory, "record")
        with open_queue(spool) as queue:
            kept = queue.stored_settings()
            # All that is done now and then must have been done before the second fifth, or it would look like growth.
            every_s = min(60.0, asked.seconds / 20)
            retention = replace(kept.retention, done_s=every_s)
            queue.change_settings(replace(kept, max_attempts=1000, retention=retention))
        (spool / "supervisord.local.conf").write_text(LOCAL_CONF.format(python=sys.executable, every=every_s))
        with running(spool, environment(record)) as stack:
            soak = Soak(spool, stack, asked.rate)
            soak.run(asked.seconds)
            wait_until_empty(spool, 60)
            status = stack.stop()
        lines, good = report(soak, record, asked.seconds, asked.percent)
        with open_queue(spool) as queue:
            wrong = [problem.what for problem in queue.check() if problem.kind != "dead_holder"]
        print("\n".join([*lines, *wrong]))
        if asked.save:
            command = f"python scripts/soak.py --seconds {asked.seconds:g} --rate {asked.rate:g}"
            asked.save.write_text("\n".join(["# The stack for long", "", f"`{command}`", "", *lines, ""]))
    return 0 if good and not wrong and status == 0 else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpoolqError as error:
        sys.exit(f"soak.py: {error}")
