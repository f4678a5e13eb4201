"""Pids and boots of a test's own: pids that are given out again, and a machine that seems to have been started anew."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.mounts import MS_BIND, alone, mount
from tests.helpers import needs
from tests.spool.helpers import in_fork

CLONE_NEWPID = 0x20000000
CLONE_NEWTIME = 0x80
PR_SET_PDEATHSIG = 1
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NEW_BOOT_AGE_S = 60
"""So long ago the new boot was."""

_libc = ctypes.CDLL(None, use_errno=True)


def needs_namespaces() -> None:
    """Skip where there are none; a failure where CI is set."""
    needs(os.geteuid() == 0, "root")
    needs(LAST_PID.exists() and Path("/proc/self/ns/time").exists(), "namespaces of pids and of time")


def _unshare(flags: int) -> None:
    if _libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def with_pids_of_its_own(act: Callable[[], None]) -> None:
    """Run it as the first process of a namespace: what it starts is numbered from 2 on."""

    def first() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        mount("proc", "/proc", "proc")
        act()

    def outside() -> None:
        _unshare(CLONE_NEWPID)
        in_fork(first)

    alone(outside)


def start_as(pid: int, start: Callable[[], Any]) -> Any:
    """What `start` makes, a process of this pid, once nobody else has it."""
    for _ in range(20):
        LAST_PID.write_text(str(pid - 1))
        made = start()
        if made.pid == pid:
            return made
        made.kill()
    raise AssertionError(f"pid {pid} cannot be had")


def in_another_boot(home: Path, act: Callable[[], Any]) -> Any:
    """Run it in a child for which the machine has another boot id and was started a minute ago; its value.

    For a process with mounts of its own, within `alone`; it is for all it starts from now on that the id is another.
    """
    fake = home / "boot id"
    fake.write_text("00000000-0000-4000-8000-000000000000\n")
    mount(os.fspath(fake), BOOT_ID, flags=MS_BIND)
    _unshare(CLONE_NEWTIME)
    back_s = int(time.clock_gettime(time.CLOCK_BOOTTIME)) - NEW_BOOT_AGE_S
    Path("/proc/self/timens_offsets").write_text(f"monotonic {-back_s} 0\nboottime {-back_s} 0\n")
    return in_fork(act)
