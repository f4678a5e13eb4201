"""How much of the proof is run, and the figures that it comes to: printed, and kept where `make proof` asks for them.

`SPOOLQ_PROOF=full` asks for the long form; without it each suite is as long as `make test` can bear.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

FULL = os.environ.get("SPOOLQ_PROOF") == "full"
SCALE = float(os.environ.get("SPOOLQ_PROOF_SCALE", "1"))
"""Of the long form: what part of it to run."""


def count(short: int, full: int) -> int:
    """How often: in `make test`, or in `make proof`."""
    return max(short, round(full * SCALE)) if FULL else short


def report(suite: str, **figures: Any) -> None:
    """The figures of a suite, as it ends."""
    _say({"suite": suite, "figures": figures})


def caught(suite: str, mutant: str, by: object) -> None:
    """A mutant that a suite has found, and what gave it away."""
    _say({"suite": suite, "mutant": mutant, "by": str(by).strip().splitlines()[0][:160]})


def _say(line: dict[str, Any]) -> None:
    text = json.dumps(line, default=str)
    sys.stdout.write(f"\n{text}\n")
    if path := os.environ.get("SPOOLQ_PROOF_FIGURES"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(text + "\n")
