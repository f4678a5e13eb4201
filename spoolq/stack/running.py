"""A stack in a process of its own, for programs that need one for a while: the demo, the soak, the tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spoolq.errors import SpoolqError
from spoolq.stack import settings
from spoolq.stack.place import of_spool
from spoolq.stack.programs import Programs, addresses


class NotStarted(SpoolqError):
    """`spoolq up` ended before all was healthy; what it said is in the message."""


@dataclass(frozen=True, slots=True)
class Running:
    """A stack that is healthy. said: what `spoolq up` printed."""

    process: subprocess.Popen[str]
    said: str
    programs: Programs
    addresses: Mapping[str, str]

    def stop(self) -> int:
        """Stop it and wait; the exit status."""
        self.process.terminate()
        return self.process.wait()


def free_ports(count: int) -> list[int]:
    """So many ports that nobody uses just now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def own_ports() -> dict[str, str]:
    """An environment in which a stack meets no other one."""
    names = ("SPOOLQ_API_PORT", "SPOOLQ_OPS_PORT", "SPOOLQ_ADMIN_PORT")
    return dict(zip(names, map(str, free_ports(len(names))), strict=True))


@contextmanager
def running(spool: Path, environ: Mapping[str, str], *, python: Sequence[str] = (sys.executable,)) -> Iterator[Running]:
    """Run `spoolq up` on a spool: healthy from here on, stopped at the end. python: what runs it; raises NotStarted."""
    whole = os.environ | environ
    process = subprocess.Popen(
        [*python, "-m", "spoolq", "up", str(spool)],
        env=whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield Running(
            process,
            _said(process),
            Programs(of_spool(spool).socket),
            {name: url for name, (url, _) in addresses(settings.load(whole)).items()},
        )
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _said(process: subprocess.Popen[str]) -> str:
    """All that it prints, up to its last line of advice."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if "/enqueue" in line:
            return "".join(lines)
    raise NotStarted("".join(lines).strip() or f"spoolq up ended with status {process.wait()}", op="up")
