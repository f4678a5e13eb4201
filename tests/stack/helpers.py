"""Helpers of these tests: somebody without privileges, and processes seen from outside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import spoolq

ROOT = Path(__file__).parents[2]
NOBODY = 65534
OFF = "".join(f"[program:{name}]\nautostart=false\n" for name in ("api", "ops_console", "admin_console", "cleanup"))
"""For tests of something else: starting these takes seconds."""


@dataclass(frozen=True)
class Person:
    """Who runs a stack: by which Python, in which environment, and where there is room."""

    uid: int
    python: tuple[str, ...]
    environ: dict[str, str]
    room: Path


@contextmanager
def unprivileged() -> Iterator[Person]:
    """Somebody with few rights, a home that cannot be written, and a directory whose path has spaces."""
    as_nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")
    python, path = python_for_everybody(as_nobody)
    if not python:  # we are nobody special, or nobody else can get at this checkout: then as ourselves
        home = Path(tempfile.mkdtemp(prefix="spoolq-home-"))
        home.chmod(0o500)
        with tempfile.TemporaryDirectory(prefix="a path with spaces ") as room:
            yield Person(os.getuid(), (sys.executable,), {"HOME": str(home)}, Path(room))
        home.rmdir()
        return
    home = Path(tempfile.mkdtemp(prefix="spoolq-home-"))  # root's, so that nobody may only look
    home.chmod(0o755)
    with tempfile.TemporaryDirectory(prefix="a path with spaces ") as room:
        os.chown(room, NOBODY, NOBODY)
        yield Person(NOBODY, (*as_nobody, python), {"HOME": str(home), "PYTHONPATH": path}, Path(room))
    home.rmdir()


def python_for_everybody(as_nobody: tuple[str, ...]) -> tuple[str, str]:
    """An interpreter that another user may run, of this version, and the path on which it finds what we have; else "".

    An interpreter in root's home is not one; Debian's own is.
    """
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        return "", ""
    site = Path(next(path for path in sys.path if path.endswith("site-packages")))
    path = os.pathsep.join((str(Path(spoolq.__file__).parents[1]), str(site)))
    for python in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        # Started by a shell of that user: what setpriv itself starts is still looked up with the rights of root.
        argv = [*as_nobody, "sh", "-c", '"$0" -c "import pydantic_core, spoolq.queue"', python]
        environ = os.environ | {"PYTHONPATH": path}
        if subprocess.run(argv, env=environ, capture_output=True, check=False).returncode == 0:
            return python, path
    return "", ""


def descendants(pid: int) -> set[int]:
    """All processes below one."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*"):
        line = parents(int(path.name))
        if pid in line:
            found.add(int(path.name))
    return found


def parents(pid: int) -> list[int]:
    """The processes above one, the nearest first."""
    found: list[int] = []
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            break
        found.append(pid)
    return found


def lives(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False
