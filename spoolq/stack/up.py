"""Starting the stack in the foreground, and stopping it from elsewhere.

`up` stays supervisord's parent: it waits until all is healthy, says where, and passes on what it is told to stop with.
"""

from __future__ import annotations

import configparser
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from spoolq import queue as entry
from spoolq.errors import SpoolqError
from spoolq.stack import ports, settings
from spoolq.stack.place import Place
from spoolq.stack.programs import Program, Programs, lives, wait_until_healthy

HEALTHY_S = 120.0
"""Two Streamlit servers on a slow machine with a cold disk take most of it."""

DOWN_S = 120.0


class AlreadyRunning(SpoolqError):
    """There is a supervisord for this place."""


class StillRunning(SpoolqError):
    """supervisord has not ended in time."""


def up(place: Place, wanted: settings.StackSettings, ready: Callable[[list[Program]], None]) -> int:
    """Start everything and wait for its end; supervisord's exit status. `ready` is called once, when all is healthy.

    Nothing is started where it runs already (AlreadyRunning), or a port is taken (PortTaken).
    """
    _become(place)
    programs = Programs(place.socket)
    pid = programs.pid()
    if pid is not None:
        hint = "'spoolq programs' shows what runs; 'spoolq down' stops it"
        raise AlreadyRunning(f"it runs already, as pid {pid}", op="up", hint=hint)
    check_ports(place, wanted)
    entry.open_queue(place.spool).close()  # make the spool, or say at once why it cannot be used
    place.write(wanted)
    with _passed_on() as told:
        process = _start(place, wanted)
        told(process)
        try:
            ready(wait_until_healthy(programs, wanted, alive=lambda: process.poll() is None, limit_s=HEALTHY_S))
        except SpoolqError:
            if told.stopping:  # what was told to stop is not healthy, and need not be
                return process.wait()
            process.terminate()
            process.wait()
            raise
        return process.wait()


def check_ports(place: Place, wanted: settings.StackSettings) -> None:
    """Raise PortTaken for the first port, of a program that will be started, on which nothing can listen."""
    local = _read(place)
    for program, host, port, variable in (
        ("api", wanted.api_host, wanted.api_port, "SPOOLQ_API_PORT"),
        ("ops_console", wanted.console_host, wanted.ops_port, "SPOOLQ_OPS_PORT"),
        ("admin_console", wanted.console_host, wanted.admin_port, "SPOOLQ_ADMIN_PORT"),
    ):
        if local.get(f"program:{program}", "autostart", fallback="true").lower() not in {"false", "0", "no", "off"}:
            ports.check_free(host, port, variable)


def down(place: Place) -> bool:
    """Stop everything and wait for its end; False where nothing ran. StillRunning when it takes too long."""
    programs = Programs(place.socket)
    pid = programs.pid()
    if pid is None:
        return False
    programs.shut_down()
    ends_s = time.monotonic() + DOWN_S
    while lives(pid):
        if time.monotonic() > ends_s:
            raise StillRunning(f"supervisord, pid {pid}, still runs", op="down", hint="A worker may have a long grace")
        time.sleep(0.05)
    return True


def control(place: Place, arguments: list[str]) -> int:
    """Run supervisorctl; its exit status."""
    argv = [sys.executable, "-P", "-m", "supervisor.supervisorctl", "-c", str(place.conf), *arguments]
    return subprocess.run(argv, check=False).returncode


def _read(place: Place) -> configparser.RawConfigParser:
    found = configparser.RawConfigParser(strict=False, inline_comment_prefixes=(";",))
    found.read(place.local_conf)
    return found


def _become(place: Place) -> None:
    """The user that supervisord.local.conf names, for good: what we make from here on must be that user's too."""
    user = _read(place).get("supervisord", "user", fallback="")
    if os.getuid() != 0 or user in {"", "root", "0"}:
        return
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise ValueError(f"{place.local_conf}: user = {user}: there is no such user") from None
    os.initgroups(user, found.pw_gid)
    os.setgid(found.pw_gid)
    os.setuid(found.pw_uid)
    os.environ |= {"HOME": found.pw_dir, "USER": user, "LOGNAME": user}


def _start(place: Place, wanted: settings.StackSettings) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-P", "-m", "supervisor.supervisord", "--nodaemon", "--silent", "-c", str(place.conf)]
    if os.getuid() == 0 and not _read(place).has_option("supervisord", "user"):
        argv.append("--user=root")  # it complains unless it is told that this is meant
    # Programs run in the stack's directory; a path that somebody gave is from where it was given.
    source, target = (_from_here(url) for url in (wanted.relay_source, wanted.relay_target))
    environ = os.environ | settings.variables(replace(wanted, relay_source=source, relay_target=target))
    environ |= {"SPOOLQ_SPOOL": str(place.spool), "SPOOLQ_SUPERVISOR_SOCKET": str(place.socket)}
    return subprocess.Popen(argv, env=environ, cwd=place.home)


def _from_here(url: str) -> str:
    return url if not url or "://" in url else os.path.abspath(url)


class _Told:
    """Who gets the signals. One that comes before there is anybody is kept for it."""

    def __init__(self) -> None:
        self.stopping = False
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        if self.stopping:
            process.terminate()

    def hear(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        # Ctrl-C goes to supervisord as well; twice is no more than once to it.
        if self._process is not None:
            self._process.terminate()


@contextmanager
def _passed_on() -> Iterator[_Told]:
    """TERM, INT and HUP, which mean: stop everything."""
    told = _Told()
    before = {number: signal.signal(number, told.hear) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
