"""The guard's own program: kill the commands of a worker that died. `guard` starts it; nothing imports it.

Run as `python -I -S guard_process.py SESSION`, so it may import nothing of spoolq, and only light modules. It inherits
that the signals which stop programs are blocked. Standard input is a pipe that only the worker holds open. Lines on it,
KEY being the inode of the command's standard error:

    + KEY RECEIPT   a command is about to start, for this delivery
    = KEY PID       it runs, and leads the process group PID
    - KEY           nothing is left of it, or it did not start
    q               the worker ends in order: leave at once

The end of the pipe without a `q` means that the worker is dead.
"""

import os
import signal
import sys
import time

_LOOKS = 50
_LOOK_EVERY_S = 0.01
_NO_FD = -1
_PROCESS_GROUP = 4  # PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9


class Commands:
    """What is known of the commands that run: a pidfd and the pid of each, so that a reused pid is never killed."""

    def __init__(self, session: int) -> None:
        self._session = session
        self._starting: dict[int, bytes] = {}
        self._running: dict[int, tuple[int, int]] = {}

    def hear(self, line: bytes) -> bool:
        """Take in a line; False for the one that says that all is over."""
        word, *rest = line.split()
        if word == b"q":
            return False
        key = int(rest[0])
        if word == b"+":
            self._starting[key] = rest[1]
        elif word == b"=":
            self._starting.pop(key, None)
            pid = int(rest[1])
            self._running[key] = (pid, open_pidfd(pid))
        else:
            self._starting.pop(key, None)
            self._forget(key)
        return True

    def _forget(self, key: int) -> None:
        close_pidfd(self._running.pop(key, (0, _NO_FD))[1])

    def kill(self) -> None:
        """Kill them all."""
        for pid, pidfd in self._running.values():
            kill_group(pid, pidfd, self._session)
        looks = _LOOKS
        while self._starting and looks and kill_started(self._starting):
            looks -= 1
            time.sleep(_LOOK_EVERY_S)


def open_pidfd(pid: int) -> int:
    """A handle on a process that no later process of the same number can inherit; -1 where there is none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return _NO_FD


def close_pidfd(pidfd: int) -> None:
    """Let go of a handle, or of none."""
    if pidfd != _NO_FD:
        os.close(pidfd)


def kill_group(pid: int, pidfd: int, session: int) -> None:
    """Kill the process group that this process leads, or led, unless the number means another by now."""
    if pidfd != _NO_FD:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL, None, _PROCESS_GROUP)
            return
        except ProcessLookupError:
            return
        except OSError:  # EINVAL: an older kernel. EPERM: below says the same
            pass
    if is_leader(pid, pidfd) or is_left(pid, session):
        try:
            os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # RACE: gone by itself; or not ours to kill
            pass


def is_leader(pid: int, pidfd: int) -> bool:
    """Whether the very process is there still, and leads its group."""
    try:
        if pidfd != _NO_FD:
            signal.pidfd_send_signal(pidfd, 0)
        elif hasattr(os, "pidfd_open"):  # it had gone when we were told, and its number may mean another
            return False
        return os.getpgid(pid) == pid
    except OSError:
        return False


def is_left(group: int, session: int) -> bool:
    """Whether something is left of a group whose leader has gone: while it is, no process gets the leader's number."""
    found = [read_stat(pid) for pid in pids()]
    reused = any(pid == group for pid, _, _ in found)
    return not reused and any((of_group, of_session) == (group, session) for _, of_group, of_session in found)


def read_stat(pid: int) -> tuple[int, int, int]:
    """Pid, process group and session; zeros where it has gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return pid, int(fields[2]), int(fields[3])
    except OSError:  # RACE: it ended
        return 0, 0, 0


def pids() -> list[int]:
    """All processes, where the system shows them."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def kill_started(starting: dict[int, bytes]) -> bool:
    """Kill what a worker started in its last instant and could not tell us of; whether there was any.

    It is known by its standard error, a pipe made for it alone, and by the receipt in its environment: it has the one
    before it executes the command, and cannot lose the other by closing what it inherited.
    """
    pipes = {f"pipe:[{key}]" for key in starting}
    receipts = [b"SPOOLQ_RECEIPT=%s\0" % receipt for receipt in starting.values()]
    found = False
    for pid in pids():
        pidfd = open_pidfd(pid)  # first, so that what is looked at and what is killed are the same process
        try:
            if pidfd != _NO_FD and is_of(pid, pipes, receipts):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                found = True
        except OSError:  # RACE: it ended; or it is not ours
            pass
        finally:
            close_pidfd(pidfd)
    return found


def is_of(pid: int, pipes: set[str], receipts: list[bytes]) -> bool:
    """Whether a process has one of these pipes as its standard error, or one of these lines in its environment."""
    try:
        if os.readlink(f"/proc/{pid}/fd/2") in pipes:
            return True
    except FileNotFoundError:  # it has none
        pass
    with open(f"/proc/{pid}/environ", "rb") as file:
        environ = file.read()
    return any(receipt in environ for receipt in receipts)


def main() -> None:
    """Listen until the pipe ends."""
    commands = Commands(int(sys.argv[1]))
    rest = b""
    while piece := os.read(0, 65536):
        *lines, rest = (rest + piece).split(b"\n")
        if not all(map(commands.hear, lines)):
            return
    commands.kill()


if __name__ == "__main__":
    main()
