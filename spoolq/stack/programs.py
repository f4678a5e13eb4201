"""Asking supervisord, by its socket: what runs, and whether what runs is healthy."""

from __future__ import annotations

import http.client
import ipaddress
import os
import time
import urllib.error
import urllib.request
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spoolq.errors import NotCapable, SpoolqError
from spoolq.stack.settings import StackSettings

_UNREACHABLE = (OSError, http.client.HTTPException, xmlrpc.client.Fault)


@dataclass(frozen=True, slots=True)
class Program:
    """A program of supervisord's. state: as supervisord calls it, RUNNING, STOPPED, BACKOFF, FATAL..."""

    name: str
    group: str
    state: str
    pid: int
    description: str
    log: str

    @property
    def label(self) -> str:
        """What supervisorctl calls it."""
        return self.name if self.name == self.group else f"{self.group}:{self.name}"


class Programs:
    """The programs of one stack."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def pid(self) -> int | None:
        """The pid of supervisord; None where none answers."""
        try:
            return int(self._call("getPID"))
        except _UNREACHABLE:
            return None

    def all(self) -> list[Program]:
        """Every program, in the order of its name; [] where supervisord does not answer."""
        try:
            found = self._call("getAllProcessInfo")
        except _UNREACHABLE:
            return []
        return [
            Program(each["name"], each["group"], each["statename"], each["pid"], each["description"], each["logfile"])
            for each in found
        ]

    def stop(self, label: str) -> None:
        """Stop a program, and wait until it has stopped."""
        self._call("stopProcess", label)

    def start(self, label: str) -> None:
        """Start a program, and wait until it runs. Raises xmlrpc.client.Fault where it does not."""
        self._call("startProcess", label)

    def shut_down(self) -> None:
        """Tell supervisord to stop everything and end; nothing where none answers."""
        try:
            self._call("shutdown")
        except _UNREACHABLE:
            pass

    def _call(self, method: str, *arguments: str) -> Any:
        try:
            from supervisor.xmlrpc import SupervisorTransport  # type: ignore[import-untyped]
        except ModuleNotFoundError as error:
            hint = "Install it with: pip install 'spoolq[run]'"
            raise NotCapable(f"{error.name} is not installed", op="up", hint=hint) from error

        transport = SupervisorTransport(serverurl=f"unix://{self._socket}")
        try:
            proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
            return getattr(proxy.supervisor, method)(*arguments)
        finally:
            transport.close()


def lives(pid: int) -> bool:
    """Whether a process is there; where /proc tells, a zombie is not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # RACE: it has just ended; or there is no /proc, and then it lives
        return not Path("/proc/self").exists()
    except PermissionError:
        return True


# Health -------------------------------------------------------------------------


def addresses(settings: StackSettings) -> dict[str, tuple[str, str]]:
    """For each program that listens: its address for people, and the path that says whether it is healthy."""
    api, consoles = _reachable(settings.api_host), _reachable(settings.console_host)
    return {
        "api": (f"http://{api}:{settings.api_port}", "/healthz"),
        "ops_console": (f"http://{consoles}:{settings.ops_port}", "/_stcore/health"),
        "admin_console": (f"http://{consoles}:{settings.admin_port}", "/_stcore/health"),
    }


def _reachable(host: str) -> str:
    """An address to connect to: one that means "all of them" is none."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return host if address.version == 4 else f"[{host}]"


def is_healthy(url: str) -> bool:
    """Whether it answers with 200 within a second. Never through a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, http.client.HTTPException):
        return False


class NotHealthy(SpoolqError):
    """The stack did not come up."""


def wait_until_healthy(programs: Programs, settings: StackSettings, *, alive: Any, limit_s: float) -> list[Program]:
    """Wait until all that was started is RUNNING and answers; the programs. alive: whether supervisord still runs.

    NotHealthy names the program that is not, with the end of its log.
    """
    ends_s = time.monotonic() + limit_s
    healthy: set[str] = set()
    while True:
        found = programs.all()
        wanted = [each for each in found if each.state != "STOPPED"]
        for each in wanted:
            address = addresses(settings).get(each.name)
            if each.state == "RUNNING" and (not address or is_healthy("".join(address))):
                healthy.add(each.label)
        missing = [each for each in wanted if each.label not in healthy or each.state != "RUNNING"]
        if wanted and not missing:
            return found
        fatal = [each for each in found if each.state == "FATAL"]
        if fatal or time.monotonic() > ends_s or not alive():
            raise _not_healthy([*fatal, *missing], limit_s)
        time.sleep(0.1)


def _not_healthy(programs: list[Program], limit_s: float) -> NotHealthy:
    if not programs:
        return NotHealthy(
            f"supervisord did not start within {limit_s:g} s", op="up", hint="Look at logs/supervisord.log"
        )
    first = programs[0]
    end = "\n".join(_tail(Path(first.log)))
    return NotHealthy(f"{first.label} is {first.state} and not healthy. {first.log} ends with:\n{end}", op="up",
                      hint="Mend that, then start again")  # fmt: skip


def _tail(path: Path, lines: int = 8) -> list[str]:
    try:
        return path.read_text(errors="backslashreplace").splitlines()[-lines:]
    except OSError as error:
        return [str(error)]
