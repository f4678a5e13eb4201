"""`make proof`: every suite in its long form, one after another; the figures, the mutants, and how it ended.

`--save` writes docs/benchmarks/proof.md. `--scale 0.1` runs a tenth of what is counted; `--only NAME` one suite.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIMIT_S = 3600
"""A suite that takes longer is killed, and has failed."""

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks" / "proof.md"


@dataclass
class Suite:
    """What is run together. processes: how many at once; those that time something, or fill the machine, run alone."""

    name: str
    tests: tuple[str, ...]
    processes: int = 2
    environ: dict[str, str] = field(default_factory=dict)
    seconds: float = 0
    ended: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)

    def run(self, environ: dict[str, str]) -> bool:
        """Run it; whether everything in it passed."""
        began_s = time.monotonic()
        with tempfile.NamedTemporaryFile("r", prefix="spoolq-proof-") as figures:
            running = subprocess.Popen(
                [sys.executable, "-m", "pytest", "-q", "-n", str(self.processes), *self.tests],
                cwd=ROOT,
                env=environ | self.environ | {"SPOOLQ_PROOF_FIGURES": figures.name},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            try:
                said, _ = running.communicate(timeout=LIMIT_S)
                late = ""
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
                said, _ = running.communicate()
                late = f"not ended after {LIMIT_S} s"
            self.lines = [json.loads(line) for line in figures]
        self.seconds = time.monotonic() - began_s
        self.ended = late or (said.strip().splitlines() or ["nothing was said"])[-1].strip("= ")
        if running.returncode:
            sys.stdout.write(said[-20_000:])
        return running.returncode == 0


SUITES = (
    Suite("kill points, operation by operation", ("tests/crash",)),
    Suite("kill points, system call by system call", ("tests/reliability/test_kill_points.py",)),
    Suite("errors, operation by operation", ("tests/faults/test_faults.py", "tests/faults/test_index_faults.py")),
    Suite("errors, system call by system call", ("tests/reliability/test_system_errors.py",)),
    Suite("legal crash states", ("tests/reliability/test_legal_states.py",)),
    Suite("live power cuts", ("tests/reliability/test_power_cuts.py",)),
    Suite("snapshots", ("tests/reliability/test_snapshots.py",)),
    Suite("block prefixes", ("tests/reliability/test_block_prefixes.py",)),
    Suite("storm of kills", ("tests/reliability/test_storm.py", "tests/spool/test_kill.py"), 1),
    Suite(
        "fencing and clocks",
        (
            *("tests/spool/test_clocks.py", "tests/spool_format/test_claims.py"),
            *("tests/reliability/test_wall_clock.py", "tests/reliability/test_boots.py"),
        ),
    ),
    Suite(
        "full and read-only disks",
        ("tests/faults/test_real_disks.py", "tests/reliability/test_full_disk.py", "tests/reliability/test_quota.py"),
    ),
    Suite("back after a kill", ("tests/reliability/test_back_again.py",), 1),
    Suite(
        "half-written drops",
        (
            "tests/reliability/test_half_written_drops.py",
            *(f"tests/spool/test_drops_{each}.py" for each in ("kinds", "names", "owner", "writers")),
        ),
    ),
    Suite("wake-up", ("tests/spool/test_wakeup.py",), 1),
    Suite("index", ("tests/spool/test_index.py", "tests/spool/test_index_load.py", "tests/spool/test_fork.py")),
    Suite("model", ("tests/test_model.py",), 1, {"SPOOLQ_EXAMPLES": "1500"}),
    Suite(
        "hostile input",
        (
            *("tests/reliability/test_properties.py", "tests/test_bad_input.py"),
            *("tests/spool/test_mischief.py", "tests/spool/test_sweep.py"),
        ),
    ),
    Suite(
        "REST",
        (*(f"tests/web/test_{each}.py" for each in ("hostile", "process", "schema")), "tests/client/test_kill.py"),
    ),
    Suite("suites that can fail", ("tests/reliability/test_suites_can_fail.py",), 1),
    Suite("relay", ("tests/test_relay.py", "tests/postgres/test_relay.py"), 1),
    Suite("PostgreSQL", ("tests/postgres/test_kill.py", "tests/postgres/test_failover.py"), 1),
)


def summed(lines: Iterable[dict[str, Any]]) -> list[str]:
    """The figures of a suite: those of one kind added up, unless they say on what they were made."""
    totals: dict[str, dict[str, float]] = {}
    for line in lines:
        if "figures" in line:
            figures = line["figures"]
            what = ", ".join(str(figures[key]) for key in ("disk", "durability", "error") if key in figures)
            into = totals.setdefault(what, {})
            for key, value in figures.items():
                if isinstance(value, (int, float)):
                    into[key] = round(into.get(key, 0) + value, 1)
    return [
        (f"{what}: " if what else "") + ", ".join(f"{value:,.10g} {key}" for key, value in each.items())
        for what, each in totals.items()
    ]


def page(suites: Iterable[Suite], command: str) -> str:
    """What is printed, as Markdown."""
    machine = f"Linux {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    text = [f"# Proof\n\n`{command}`, {time.strftime('%Y-%m-%d')}, {machine}.\n"]
    text += ["| suite | ended | figures |", "|---|---|---|"]
    text += [f"| {each.name} | {each.ended} | {'<br>'.join(summed(each.lines))} |" for each in suites]
    text += ["", "## Mutants", "", "Each was put in on purpose, and found.", ""]
    text += ["| suite | mutant | found by |", "|---|---|---|"]
    for suite in suites:
        text += [
            f"| {line['suite']} | `{line['mutant']}` | {line['by'].replace('|', ' ')} |"
            for line in suite.lines
            if "mutant" in line
        ]
    return "\n".join(text) + "\n"


def main() -> int:
    """Run it; 0 where everything passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--save", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    parser.add_argument("--scale", type=float, default=1.0, help="what part of what is counted to run")
    parser.add_argument("--only", metavar="NAME", help="only suites with this in their name")
    chosen = parser.parse_args()
    suites = [each for each in SUITES if chosen.only is None or chosen.only in each.name]
    environ = {**os.environ, "SPOOLQ_PROOF": "full", "SPOOLQ_PROOF_SCALE": str(chosen.scale)}
    passed = True
    for suite in suites:
        good = suite.run(environ)
        passed = passed and good
        print(f"{'ok  ' if good else 'FAIL'} {suite.name}: {suite.ended}", flush=True)
        for line in summed(suite.lines):
            print(f"       {line}", flush=True)
        for line in suite.lines:
            if "mutant" in line:
                print(f"       found: {line['mutant']} ({line['by']})", flush=True)
    if chosen.save:
        PAGE.write_text(page(suites, "make proof" if chosen.scale == 1 else f"make proof, scale {chosen.scale:g}"))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
