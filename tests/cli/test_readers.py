"""The quick reader and typer read the same declarations: what the one takes, the other reads alike."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from typer.main import get_command

from spoolq.cli import app, commands, quick
from spoolq.cli.declare import Command

NAMES = [name for _, name in commands.names()]
WORDS = [
    "5",
    "x",
    "-",
    "--",
    "-5",
    "",
    "10m",
    "a=b",
    "a",
    "2031-05-01T08:00:00Z",
    "--help",
    "-yn",
    "dead",
    "all",
    "ready",
]


def test_they_read_alike_whatever_is_written():
    """For each command, random lines of its own options, of others', and of words."""
    rng = random.Random(7)
    plain = 0
    for name in NAMES:
        for _ in range(25):
            plain += _compare(name, _line(rng, commands.load(name)))
    assert plain > 100  # so that there was something to compare


@pytest.mark.parametrize(
    "line",
    [
        ["put"],
        ["put", "a", "b", "-p", "9", "--delay=10m", "-H", "a=b", "--header", "c=d", "-qemails", "--json"],
        ["put", "--name", "--json"],
        ["put", "--", "-odd-name"],
        ["get", "--wait", "20", "--lease", "5m"],
        ["ack", "-"],
        ["extend", "r", "60"],
        ["reprioritize", "9", "a", "b"],
        ["work", "-c", "4", "--", "sh", "-c", "exit 0", "--", "--json"],
        ["work", "module:function", "--drain"],
        ["ls", "--state", "dead", "--min-age", "7d", "-a"],
        ["purge", "--state", "done", "--state", "dead", "-y"],
        ["dead", "purge", "-n"],
        ["queues", "settings", "emails", "retry.base_s=1"],
    ],
)
def test_ordinary_lines_are_read_without_typer(line):
    found = commands.find(line)
    assert found
    assert _compare(found[0], found[1]) == 1


@pytest.mark.parametrize(
    "line",
    [
        ["put", "--help"],
        ["put", "--unknown"],
        ["put", "-p"],
        ["put", "-p", "x"],
        ["put", "--json=1"],
        ["ack"],
        ["extend", "r"],
        ["stats", "x"],
    ],
)
def test_everything_else_is_left_to_typer(line):
    found = commands.find(line)
    assert found
    assert quick.read(commands.load(found[0]), found[1], {}) is None


def test_the_environment_stands_in_for_an_option(monkeypatch):
    monkeypatch.setenv("SPOOLQ_QUEUE", "emails")
    monkeypatch.setenv("SPOOLQ_SPOOL", "")
    values = quick.read(commands.load("stats"), [], {"SPOOLQ_QUEUE": "emails", "SPOOLQ_SPOOL": ""})
    assert values
    assert (values["queue"], values["spool"]) == ("emails", "spool")
    assert _by_typer("stats", []) == values
    assert _by_typer("stats", ["-q", "other"]) == values | {"queue": "other"}


def _line(rng: random.Random, command: Command) -> list[str]:
    flags = [flag for parameter in command.parameters.values() for flag in parameter.flags]
    pool = flags + [f"{flag}=5" for flag in flags] + [f"{flag}x" for flag in flags if len(flag) == 2] + WORDS * 2
    return rng.choices(pool, k=rng.randrange(5))


def _compare(name: str, args: Sequence[str]) -> int:
    """1 where the quick reader took the line."""
    values = quick.read(commands.load(name), args, {})
    if values is None:
        return 0
    assert _by_typer(name, args) == values, (name, args)
    return 1


def _by_typer(name: str, args: Sequence[str]) -> dict[str, Any]:
    """The arguments that the command's function gets from typer."""
    command = commands.load(name)
    seen: list[dict[str, Any]] = []

    def spy(**values: Any) -> int:
        seen.append(values)
        return 0

    spy.__annotations__ = command.run.__annotations__
    spy.__kwdefaults__ = command.run.__kwdefaults__
    get_command(app.alone(name, Command(spy, ())))(list(args), prog_name="spoolq", standalone_mode=False)
    return seen[0]
