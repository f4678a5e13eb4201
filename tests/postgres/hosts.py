"""Hosts of a test's own: network namespaces, each with a veth to here, which can be cut off like a pulled cable.

Nothing here needs cleaning up. A namespace is gone with its last process and takes its veth along, and the kernel kills
each process when the one that started it is gone. Where there can be none (no root, no iproute2) a host is
`127.0.0.1`, its processes are plain ones, and `is_real` says so.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from tests.helpers import wait_for

_TOOLS = ("ip", "nsenter", "setpriv", "unshare")
_ADDRESSES = ipaddress.ip_network("198.18.0.0/15")  # reserved for tests of networks, so nobody is there
_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")


class Host:
    """Where processes run. server: the address at which it finds what listens here."""

    def __init__(
        self, server: str = "127.0.0.1", link: str = "", holder: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.server = server
        self._link = link
        self._holder = holder

    @property
    def is_real(self) -> bool:
        return self._holder is not None

    def command(self, *words: str) -> Sequence[str]:
        """What runs these words there."""
        if self._holder is None:
            return words
        return (*_DIES_WITH_US, "nsenter", "-t", str(self._holder.pid), "-n", *words)

    def cut_off(self) -> None:
        """From now on neither side hears anything of the other, not even that it is away."""
        _run("ip", "link", "set", self._link, "down")

    def connect(self) -> None:
        _run("ip", "link", "set", self._link, "up")

    def end(self) -> None:
        if self._holder is not None:
            self._holder.kill()
            self._holder.communicate()


@contextlib.contextmanager
def hosts(count: int) -> Iterator[Sequence[Host]]:
    """So many hosts; plain ones where this machine allows no others."""
    with contextlib.ExitStack() as stack:
        try:
            made = [_host(number, stack) for number in range(count)]
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"hosts are plain processes: no network namespaces here ({error})")
            made = [Host()] * count
        yield made


def _host(number: int, stack: contextlib.ExitStack) -> Host:
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        raise FileNotFoundError(f"no {missing[0]}" if missing else "not root")
    place = (os.getpid() * 4 + number) * 4 % _ADDRESSES.num_addresses  # four hosts a process, four addresses a host
    here, there = _ADDRESSES[place + 1], _ADDRESSES[place + 2]
    link = f"sq{os.getpid()}-{number}"
    holder = subprocess.Popen([*_DIES_WITH_US, "unshare", "--net", "sleep", "infinity"], stderr=subprocess.PIPE)
    host = Host(str(here), link, holder)
    stack.callback(host.end)
    wait_for(lambda: _has_its_own_network(holder))
    _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
    _run("ip", "addr", "add", f"{here}/30", "dev", link)
    host.connect()
    _run(*host.command("ip", "addr", "add", f"{there}/30", "dev", "eth0"))
    _run(*host.command("ip", "link", "set", "eth0", "up"))
    return host


def _has_its_own_network(holder: subprocess.Popen[bytes]) -> bool:
    if holder.poll() is not None:
        assert holder.stderr is not None
        raise PermissionError(holder.stderr.read().decode().strip())
    return os.readlink(f"/proc/{holder.pid}/ns/net") != os.readlink("/proc/self/ns/net")


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
