"""The tables of docs/spool-format.md, read, so that the document and the code cannot drift apart."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "spool-format.md"


def section(number: int) -> str:
    """The text of a section of the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    (found,) = re.findall(rf"^## {number} .*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return str(found)


def tables(number: int) -> list[list[list[str]]]:
    """The tables of a section, each as its rows without the head, each row as its cells."""
    found: list[list[list[str]]] = []
    lines = section(number).splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|---"):
            found.append([])
        elif line.startswith("|") and before.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip()[1:-1].split("|")])
    return found


def code(cell: str) -> str:
    """What stands between the backticks of a cell, or the cell itself."""
    match = re.fullmatch(r"`(.*)`", cell)
    return match[1] if match else cell


def shell() -> str:
    """The shell client of section 11."""
    (found,) = re.findall(r"```sh\n(.*?)```", section(11), re.DOTALL)
    return str(found)
