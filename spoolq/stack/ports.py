"""Who can reach an address, and whether a port is free: asked before a server starts, else a log has the answer."""

from __future__ import annotations

import errno
import ipaddress
import socket
from pathlib import Path

from spoolq.errors import SpoolqError


class PortTaken(SpoolqError):
    """A server cannot listen where it was told to."""


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, so that no other can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_free(host: str, port: int, variable: str) -> None:
    """Raise PortTaken where nothing can listen on host and port; `variable` is the setting that the message names.

    Port 0 is always free. Somebody may take it a moment later: the server itself says so then.
    """
    for family, kind, _, _, address in _addresses(host, port, variable):
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
                probe.listen(1)
            except OSError as error:
                raise _refusal(error, host, port, variable) from error


def _addresses(
    host: str, port: int, variable: str
) -> list[tuple[socket.AddressFamily, int, int, str, tuple[object, ...]]]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)  # type: ignore[return-value]
    except socket.gaierror as error:
        hint = f"{_other(variable, 'PORT', 'HOST')} is to be an address of this machine, 127.0.0.1 or 0.0.0.0"
        raise PortTaken(f"{host} is no address: {error.strerror}", op="listen", hint=hint) from error


def _refusal(error: OSError, host: str, port: int, variable: str) -> PortTaken:
    if error.errno == errno.EADDRINUSE:
        owner = _owner(port)
        message = f"port {port} on {host} is taken{f' by {owner}' if owner else ''}"
        return PortTaken(message, op="listen", hint=f"Set {variable} to another port, or end what has this one")
    if error.errno == errno.EACCES:
        hint = f"Set {variable} to 1024 or more, or put a proxy in front"
        return PortTaken(f"port {port} may not be used by this user", op="listen", hint=hint)
    return PortTaken(f"{host}:{port}: {error.strerror}", op="listen", hint="Set the address to one of this machine")


def _other(variable: str, old: str, new: str) -> str:
    return variable.replace(old, new).replace("OPS_", "CONSOLE_").replace("ADMIN_", "CONSOLE_")


def _owner(port: int) -> str:
    """Who listens there, as far as we may see it: "python (pid 17)"."""
    inodes = {
        line.split()[9]
        for table in ("tcp", "tcp6")
        for line in _text(Path("/proc/net") / table).splitlines()[1:]
        if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
    }
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(
                fd.readlink().name.removeprefix("socket:").strip("[]") in inodes for fd in (process / "fd").iterdir()
            ):
                return f"{_text(process / 'comm').strip()} (pid {process.name})"
        except OSError:  # RACE: it has ended; or it is somebody else's
            continue
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # no /proc here
        return ""
