"""Figures as they are kept in docs/benchmarks/: raw JSON, and a table for people."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spoolq.clock import Clock
from spoolq.spool import mounts


@dataclass
class Figure:
    """One line of a report. values: one a round; unit: of the values; target: what it is to reach, in words."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)
    target: str = ""

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.values)


def machine(base: Path) -> dict[str, Any]:
    """What the figures were measured on."""
    base.mkdir(parents=True, exist_ok=True)
    return {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "file_system": mounts.mount_of(str(base)).kind,
        "load": os.getloadavg()[0],
        "at_ms": Clock().wall_ms(),
    }


def shown(value: float) -> str:
    """A number with three digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(figures: Sequence[Figure]) -> str:
    """Median, minimum and maximum of each figure."""
    lines = ["| figure | median | min | max | unit | to reach |", "|---|---|---|---|---|---|"]
    for figure in figures:
        numbers = " | ".join(shown(value) for value in (figure.median, min(figure.values), max(figure.values)))
        lines.append(f"| {figure.name} | {numbers} | {figure.unit} | {figure.target} |")
    return "\n".join(lines)


def save(
    directory: Path, name: str, title: str, command: str, where: dict[str, Any], figures: Sequence[Figure]
) -> None:
    """Write `NAME.json` (raw) and `NAME.md`."""
    directory.mkdir(parents=True, exist_ok=True)
    raw = {"command": command, "machine": where, "figures": [asdict(figure) for figure in figures]}
    (directory / f"{name}.json").write_text(json.dumps(raw, indent=1) + "\n")
    facts = ", ".join(f"{key} {value}" for key, value in where.items() if key != "at_ms")
    text = f"# {title}\n\n`{command}`\n\n{facts}.\n\n{table(figures)}\n"
    (directory / f"{name}.md").write_text(text)
    sys.stdout.write(f"\n{title}\n{table(figures)}\n")
