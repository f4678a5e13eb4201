"""For the tests of both consoles: one browser, one server a console, one spool; each test has a queue of its own.

Streamlit takes seconds to start, and its spool is set when it starts. So what is a test's own is the queue: made for
it, named in the address of its pages, checked at the end.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from spoolq.console import guard, parts, place
from spoolq.queue import create_queue
from spoolq.spool import queues
from spoolq.spool.queue import SpoolQueue
from tests.conftest import check_spool
from tests.helpers import needs, wait_for

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP evil.example 127.0.0.1",
)
PAGE_MS = 15_000
"""The longest that anything on a page may take. A page is loaded from nothing in about two seconds."""

START_S = 40.0
_NUMBERS = count(1)


# Logic: AppTest, in this process ---------------------------------------------------


@pytest.fixture(autouse=True)
def own_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """AppTest puts its script in the place of `__main__`, which a process that is spawned later would run."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, spool: Path) -> Iterator[Path]:
    """A spool for AppTest, which has no address and no Host; both are as on this machine."""
    for name in [name for name in os.environ if name.startswith("SPOOLQ_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SPOOLQ_SPOOL", str(spool))
    monkeypatch.setattr(guard, "host_header", lambda: "localhost:8501")
    monkeypatch.setattr(guard, "listens_beyond", lambda: False)
    opened = place.OpenQueues()
    monkeypatch.setattr(place, "_open_queues", lambda: opened)
    SpoolQueue.open(spool, "default").close()
    yield spool
    opened.close()


@pytest.fixture
def queue(
    here: Path, open_queue: Callable[..., SpoolQueue], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> SpoolQueue:
    """The spool's default queue; nothing is found in the present directory."""
    monkeypatch.chdir(tmp_path)
    return open_queue()


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that are selected in a table one can select in; AppTest cannot click into one."""
    selected: list[int] = []
    shown = parts.table

    def table(cells: parts.Cells, key: str, *, select: bool = False, height: int | None = None) -> Sequence[int]:
        shown(cells, key, height=height)
        # What was selected may have gone when the page is drawn again.
        return [row for row in selected if row < len(cells["id"])] if select else []

    monkeypatch.setattr(parts, "table", table)
    return selected


# In a browser ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def live_spool() -> Iterator[Path]:
    """The spool of the servers, in memory; with root a file system of its own, so that it can be filled."""
    memory = Path("/dev/shm")
    top = Path(tempfile.mkdtemp(prefix="spoolq-console-", dir=memory if memory.is_dir() else None))
    mounted = os.geteuid() == 0 and _mounts(top)
    path = top / "spool"
    SpoolQueue.open(path, "default").close()
    yield path
    check_spool(path)
    if mounted:
        subprocess.run(["umount", "--lazy", str(top)], check=True)
    shutil.rmtree(top, ignore_errors=True)


def _mounts(top: Path) -> bool:
    line = ["mount", "-t", "tmpfs", "-o", "size=256m,mode=700", "spoolq-console", str(top)]
    return subprocess.run(line, check=False, capture_output=True).returncode == 0


@pytest.fixture
def live(live_spool: Path, request: pytest.FixtureRequest) -> Iterator[SpoolQueue]:
    """A queue of its own in the spool of the servers, deleted at the end."""
    name = f"{re.sub(r'[^a-z0-9]+', '-', request.node.name.lower()).strip('-')[:40]}-{next(_NUMBERS)}"
    create_queue(live_spool, name).close()
    queue = SpoolQueue.open(live_spool, name, create=False)
    yield queue
    queue.close()
    if name in queues.list_queues(live_spool):
        queues.delete_queue(live_spool, name)


@pytest.fixture
def root(live: SpoolQueue, live_spool: Path) -> Path:
    """The directory of the test's queue."""
    return queues.queue_root(live_spool, live.name)


@pytest.fixture
def full_disk(live_spool: Path) -> Callable[[], AbstractContextManager[None]]:
    """What leaves a few MB of the spool's file system, less than the reserve, within `with`."""
    needs(os.path.ismount(live_spool.parent), "a file system of its own (root)")
    filler = live_spool.parent / "filler"

    @contextmanager
    def filled() -> Iterator[None]:
        disk = os.statvfs(live_spool)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - 8 * 1024 * 1024)
        try:
            yield
        finally:
            filler.unlink()

    return filled


class Console:
    """A console's server process."""

    def __init__(self, kind: str, spool: str, **environ: str) -> None:
        self.kind = kind
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 for as long as the process runs
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SPOOLQ_")}
        line = [sys.executable, "-m", "spoolq", "console", kind, "--spool", spool, "--port", str(self.port)]
        self.process = subprocess.Popen(line, env=clean | environ, stdout=self._log, stderr=self._log)
        wait_for(self._answers, START_S)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            time.sleep(0.05)
            return False

    def log(self) -> str:
        """What it wrote."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def address(self, page: str = "", queue: str = "default", **query: str) -> str:
        """The address of a page of a queue."""
        return f"{self.url}/{page}?{urlencode({'queue': queue, **query})}"

    def close(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()


@pytest.fixture(scope="session")
def consoles() -> Iterator[Callable[..., Console]]:
    """`consoles(kind, spool, **environ)`: a server, the same one for the same words; all end with the session."""
    made: dict[Any, Console] = {}

    def start(kind: str, spool: str, **environ: str) -> Console:
        key = (kind, spool, *sorted(environ.items()))
        if key not in made:
            made[key] = Console(kind, spool, **environ)
        return made[key]

    yield start
    for each in made.values():
        each.close()


@pytest.fixture
def ops(consoles: Callable[..., Console], live_spool: Path) -> Console:
    """The ops console of the live spool."""
    return consoles("ops", str(live_spool))


@pytest.fixture
def admin(consoles: Callable[..., Console], live_spool: Path) -> Console:
    """The admin console of the live spool."""
    return consoles("admin", str(live_spool))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, headless, one for all tests."""
    needs(os.access(CHROMIUM, os.X_OK), CHROMIUM)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        needs(False, "playwright")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def context(browser: Any) -> Iterator[Any]:
    """One for all tests: Streamlit's scripts are megabytes, read from its cache."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(PAGE_MS)
    yield context
    context.close()


@pytest.fixture
def page(context: Any) -> Iterator[Any]:
    """A tab, and a visit, of its own; what it throws fails the test."""
    tab = context.new_page()
    thrown: list[str] = []
    tab.on("pageerror", lambda error: thrown.append(str(error)))
    yield tab
    tab.close()
    assert thrown == []


@pytest.fixture
def work(live: SpoolQueue, live_spool: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """`work("sh", "-c", "...")`: a `spoolq work` process on the test's queue; ended with it."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, options: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", "spoolq", "work", "--spool", str(live_spool), "--queue", live.name]
        process = subprocess.Popen(
            [*line, *options, "--", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.wait(20)
