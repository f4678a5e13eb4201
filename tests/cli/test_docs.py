"""docs/cli.md: every command in it runs and says what it shows, and everything is in it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from spoolq.cli import commands

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
BLOCK = re.compile(r"^```(console|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMES = [name for _, name in commands.names()]
END = "--- end of a line's output, status"


def _session() -> list[tuple[str, list[str]]]:
    """Each line that is run, with the lines that it is said to write."""
    found: list[tuple[str, list[str]]] = []
    for kind, text in BLOCK.findall(PAGE.read_text()):
        for line in text.splitlines() if kind == "console" else []:
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def _shown() -> set[str]:
    """Every line of a block, run or not."""
    return {line.removeprefix("$ ") for _, text in BLOCK.findall(PAGE.read_text()) for line in text.splitlines()}


def test_every_line_runs_and_says_what_it_shows(tmp_path):
    """In one shell, so that a later line can use what an earlier one made."""
    session = _session()
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "spoolq"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m spoolq "$@"\n')
    program.chmod(0o755)
    script = "".join(f'{line}\necho "{END} $?"\n' for line, _ in session)
    environ = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "PYTHONPATH": str(PAGE.parents[1])}
    (tmp_path / "here").mkdir()
    ran = subprocess.run(
        ["sh", "-s"], input=script, cwd=tmp_path / "here", env=environ, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100,
    )  # fmt: skip
    outputs = re.split(rf"^{END} (\d+)\n", ran.stdout, flags=re.MULTILINE)
    assert len(outputs) == 2 * len(session) + 1, ran.stdout[-2000:]
    for (line, expected), output, status in zip(session, outputs[0::2], outputs[1::2], strict=False):
        assert status == "0", f"$ {line}\n{output}"
        assert _matches("\n".join(expected), output.rstrip("\n")), f"$ {line}\n{output}\nbut the page says\n{expected}"


def _matches(expected: str, output: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in expected.split("..."))
    return re.fullmatch(pattern, output, re.DOTALL) is not None


@pytest.mark.parametrize("name", NAMES)
def test_every_command_and_option_is_on_the_page(name):
    text = PAGE.read_text()
    section = text.split(f"\n## {name.split()[0]}\n")[1].split("\n## ")[0]
    everywhere = text.split("\n## Everywhere\n")[1].split("\n## ")[0] + text.split("\n## ls\n")[1].split("\n## ")[0]
    for parameter in commands.load(name).parameters.values():
        for flag in parameter.flags:
            assert f"`{flag}" in section + everywhere, flag


@pytest.mark.parametrize("name", NAMES)
def test_every_example_of_the_help_is_on_the_page(name):
    assert set(commands.load(name).examples) <= _shown()
