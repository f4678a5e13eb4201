"""A command line within the test's own process: starting one costs 50 ms, and there are hundreds of them.

`spoolq("put", "a.txt")` runs in an empty directory, so the spool is `spool` there. What a process alone can show (exit
statuses, signals, pipes) is in test_processes.py.
"""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spoolq.cli import main
from tests.conftest import check_spool


@dataclass(frozen=True)
class Result:
    """What a command line did."""

    status: int
    output: bytes
    errors: str

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.output.decode()

    @property
    def lines(self) -> list[str]:
        """The lines of standard output."""
        return self.text.splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The JSON objects of standard output."""
        return [json.loads(line) for line in self.lines]

    @property
    def error(self) -> dict[str, Any]:
        """The one JSON object of standard error."""
        found: dict[str, Any] = json.loads(self.errors)
        return found


class _Stream(io.TextIOWrapper):
    def __init__(self, content: bytes, *, terminal: bool) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8", newline="")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def written(self) -> bytes:
        if self.closed:
            return b""
        self.flush()
        content: bytes = self.buffer.getvalue()  # type: ignore[attr-defined]
        return content


@pytest.fixture
def spoolq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Run a command line: arguments, what is on standard input, and whether a person sits there.

    At the end every spool that was made is checked.
    """
    monkeypatch.chdir(tmp_path)
    for name in ("SPOOLQ_SPOOL", "SPOOLQ_QUEUE", "COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "dumb")  # tables without colours
    monkeypatch.setenv("SPOOLQ_DURABILITY", "process")
    monkeypatch.setenv("SPOOLQ_RETRY_JITTER", "0")

    def run(*args: str, stdin: bytes | str = b"", terminal: bool = False, ok: bool = True) -> Result:
        content = stdin.encode() if isinstance(stdin, str) else stdin
        streams = [
            _Stream(content, terminal=terminal),
            _Stream(b"", terminal=terminal),
            _Stream(b"", terminal=terminal),
        ]
        with monkeypatch.context() as patch:
            for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
                patch.setattr(sys, name, stream)
            status = main(args)
        result = Result(status, streams[1].written(), streams[2].written().decode())
        assert "Traceback" not in result.errors
        if ok:
            assert status == 0, result.errors
        return result

    yield run
    monkeypatch.undo()
    for spool in tmp_path.iterdir():
        check_spool(spool)


@pytest.fixture
def dead(spoolq: Callable[..., Result]) -> Callable[..., str]:
    """Make a dead letter with a reason; returns its id."""

    def bury(body: str = "x", reason: str = "broken", *args: str) -> str:
        message_id: str = spoolq("put", *args, stdin=body).text.strip()
        receipt = spoolq("get").errors.strip()
        assert receipt.startswith(message_id)
        spoolq("bury", receipt, "--reason", reason)
        return message_id

    return bury


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait for a condition, with a limit."""

    def wait(condition: Callable[[], bool], limit_s: float = 10) -> None:
        ends = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < ends, "it did not happen"
            threading.Event().wait(0.005)

    return wait
