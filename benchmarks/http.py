"""The REST API beside an empty FastAPI handler on the same server, by wrk at 16 connections; and a body of 2 GB.

Both are uvicorn with httptools and uvloop, one worker, without an access log. Rounds are interleaved, and what counts
is the ratio within a round: the client shares the machine's cores with the server.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
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

from benchmarks.places import place
from benchmarks.report import Figure
from spoolq.queue import open_queue
from spoolq.settings import Settings

CONNECTIONS = 16
BODY_BYTES = 200
ROUND_S = 4.0
LARGE_BYTES = 2 * 1024**3

POST = """
wrk.method = "POST"
wrk.body = string.rep("x", {size})
wrk.headers["Content-Type"] = "application/octet-stream"
"""

CYCLE = """
local receipts = {}
local empty = 0
request = function()
  local receipt = table.remove(receipts)
  if receipt then
    return wrk.format("POST", "/queues/default/claims/" .. receipt .. "/acknowledge")
  end
  return wrk.format("GET", "/dequeue")
end
response = function(status, headers, body)
  local receipt = string.match(body, '"receipt":"([^"]+)"')
  if receipt then table.insert(receipts, receipt) end
end
"""


def run(base: Path, rounds: int, factor: float) -> list[Figure]:
    """All figures. factor: of the time and the sizes."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    base.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Figure] = {}

    def add(name: str, unit: str, value: float, target: str = "") -> None:
        figures.setdefault(name, Figure(name, unit, [], target)).values.append(value)

    for _ in range(rounds):
        with _empty() as url:
            nothing = _wrk(url, "/enqueue", POST.format(size=BODY_BYTES), factor)
            no_cycle = _wrk(url, "/dequeue", CYCLE, factor)
        add("empty handlers, enqueue", "requests/s", nothing)
        add("empty handlers, dequeue and acknowledge", "requests/s", no_cycle)
        for durability in ("process", "power"):
            with place(base) as where, _served(where, durability) as url:
                put = _wrk(url, "/enqueue", POST.format(size=BODY_BYTES), factor)
                add(f"enqueue, {durability}", "requests/s", put)
                goal = "0.5" if durability == "process" else ""
                add(f"enqueue, {durability}, of empty handlers'", "ratio", put / nothing, goal)
            with place(base) as where, _served(where, durability, fill=60_000) as url:
                cycle = _wrk(url, "/dequeue", CYCLE, factor)
                add(f"dequeue and acknowledge, {durability}", "requests/s", cycle)
                add(f"dequeue and acknowledge, {durability}, of empty handlers'", "ratio", cycle / no_cycle, "0.5")
    for name, value in _large(base, int(LARGE_BYTES * factor)):
        add(name, "MB" if "memory" in name else "MB/s", value, "30" if "memory" in name else "")
    return list(figures.values())


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _process(url: str, path: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(url + path, timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield process
        finally:
            process.terminate()


@contextmanager
def _empty() -> Iterator[str]:
    port = _port()
    flags = ("--http", "httptools", "--loop", "uvloop", "--no-access-log", "--log-level", "warning")
    command = ("-m", "uvicorn", "benchmarks.empty_app:app", "--port", str(port), *flags)
    with _process(f"http://127.0.0.1:{port}", "/dequeue", *command):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _served(where: Path, durability: Any, *, fill: int = 0) -> Iterator[str]:
    with _server(where, durability, fill) as (url, _):
        yield url


@contextmanager
def _server(where: Path, durability: Any, fill: int = 0) -> Iterator[tuple[str, int]]:
    spool = str(where / "spool")
    with open_queue(spool) as queue:
        queue.change_settings(Settings(durability="process"))
        queue.enqueue_many([b"x" * BODY_BYTES] * fill)
        queue.change_settings(Settings(durability=durability))
    port = _port()
    command = ("-m", "spoolq", "serve", "--no-access-log", "--spool", spool, "--port", str(port))
    with _process(f"http://127.0.0.1:{port}", "/healthz", *command) as process:
        yield f"http://127.0.0.1:{port}", process.pid


def _wrk(url: str, path: str, script: str, factor: float) -> float:
    """Requests a second that were answered well."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        said = ""
        for seconds in (1, max(1, round(ROUND_S * factor))):  # the first warms up
            flags = ("-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", file.name)
            said = subprocess.run(["wrk", *flags, url + path], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if found is None or "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"wrk failed:\n{said}")
    return float(found[1])


def _resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _large(base: Path, size: int) -> Iterator[tuple[str, float]]:
    """A large body up and down by curl, and by how much the server grew."""
    with place(base) as where, _server(where, "process") as (url, pid):
        body = where / "body"
        with open(body, "wb") as file:
            os.truncate(file.fileno(), size)
        before = _resident_bytes(pid)
        began = time.perf_counter()
        subprocess.run(["curl", "-sSf", "-o", "/dev/null", "-X", "POST", "-T", body, f"{url}/enqueue"], check=True)
        yield f"upload of {size / 1e6:,.0f} MB", size / 1e6 / (time.perf_counter() - began)
        grown = _resident_bytes(pid)
        octets = "Accept: application/octet-stream"
        began = time.perf_counter()
        subprocess.run(["curl", "-sSf", "-o", "/dev/null", "-H", octets, f"{url}/dequeue"], check=True)
        yield f"download of {size / 1e6:,.0f} MB", size / 1e6 / (time.perf_counter() - began)
        yield "the server's memory grew by", (max(grown, _resident_bytes(pid)) - before) / 1e6
