"""How commands fail: exit statuses, words, and objects for machines."""

from __future__ import annotations

import io
import sys

import pytest

from spoolq.cli import main
from spoolq.errors import (
    Busy,
    DiskFull,
    LeaseLost,
    MessageNotFound,
    MessageTooLarge,
    NotASpool,
    QueueFull,
    QueueNotFound,
    StorageError,
)

STATUSES = [
    (LeaseLost, 4),
    (MessageNotFound, 5),
    (QueueNotFound, 5),
    (Busy, 75),
    (DiskFull, 75),
    (QueueFull, 75),
    (MessageTooLarge, 1),
    (NotASpool, 1),
    (StorageError, 1),
]


def _fails_with(monkeypatch, error):
    def names(spool, only):
        raise error

    monkeypatch.setattr("spoolq.cli.session.names", names)
    return ["rebuild"]


@pytest.mark.parametrize(("kind", "status"), STATUSES)
def test_each_error_has_its_status_its_words_and_its_hint(spoolq, monkeypatch, kind, status):
    args = _fails_with(monkeypatch, kind("it went\x07 wrong", path="/x", hint="do this"))
    result = spoolq(*args, ok=False)
    assert result.status == status
    assert result.errors == "spoolq: it went\\x07 wrong\n  do this\n"
    assert result.output == b""


def test_with_json_an_error_is_an_object_on_standard_error(spoolq, monkeypatch):
    args = _fails_with(monkeypatch, DiskFull("no space", op="enqueue", path="/x", hint="free some"))
    result = spoolq(*args, "--json", ok=False)
    expected = {"error": "DiskFull", "message": "no space", "hint": "free some", "exit_code": 75}
    assert result.error == {**expected, "op": "enqueue", "path": "/x"}


@pytest.mark.parametrize(
    "args",
    [["put", "--unknown"], ["nonsense"], ["ls", "--state", "lost"], ["stats", "extra"], ["ack"], ["dead", "nonsense"]],
)
def test_a_wrong_command_line_exits_2_and_points_to_the_help(spoolq, args):
    result = spoolq(*args, ok=False)
    assert result.status == 2
    first, second = result.errors.splitlines()
    assert first.startswith("spoolq: ")
    assert second.startswith("  Help: spoolq")
    found = spoolq(*args, "--json", ok=False).error
    assert (found["error"], found["exit_code"]) == ("UsageError", 2)


def test_a_mistyped_command_gets_a_suggestion(spoolq):
    assert "'stats'" in spoolq("stat", ok=False).errors


def test_without_a_command_the_help_is_shown_and_the_status_is_2(spoolq):
    result = spoolq(ok=False)
    assert result.status == 2
    assert "Usage" in result.text + result.errors


def test_ctrl_c_is_130_and_quiet(spoolq, monkeypatch):
    args = _fails_with(monkeypatch, KeyboardInterrupt())
    result = spoolq(*args, ok=False)
    assert (result.status, result.errors) == (130, "")


def test_the_systems_own_errors_have_words_too(spoolq):
    spoolq("put", stdin="x")
    result = spoolq("get", "--output", "missing/out", ok=False)
    assert result.status == 1
    assert result.errors.splitlines()[-1] == "spoolq: No such file or directory: missing/out"


def test_a_closed_pipe_is_quiet(spoolq, monkeypatch):
    spoolq("put", stdin="x")
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(_Closed())))
    assert main(["ls"]) == 141
    assert errors.getvalue() == ""


class _Closed(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        raise BrokenPipeError
