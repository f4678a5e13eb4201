"""`python -m benchmarks [cost|together|scale|http|consoles|postgres ...] [--quick] [--save] [--base DIR]`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks import consoles, cost, http, postgres, report, scale, together


def main() -> None:
    """Run what was asked for, print it, and with --save keep it in docs/benchmarks/."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", default=["cost", "together"], help="cost, together, http (wrk), consoles, postgres, scale"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, to see that it runs")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--messages", type=int, default=1_000_000, help="for scale (default a million)")
    parser.add_argument("--base", type=Path, default=Path("build/benchmarks"), help="where the spools are made")
    parser.add_argument("--save", action="store_true", help="keep the figures in docs/benchmarks/")
    asked = parser.parse_args()
    factor = 0.1 if asked.quick else 1.0
    rounds = 1 if asked.quick else asked.rounds
    base = asked.base.resolve()
    runs: dict[str, tuple[str, Callable[[], list[report.Figure]]]] = {
        "cost": ("What a message costs, 200 bytes, one process", lambda: cost.run(base, rounds, factor)),
        "together": ("Several processes at once", lambda: together.run(base, rounds, factor)),
        "http": ("The REST API beside an empty handler, 200 bytes", lambda: http.run(base, rounds, factor)),
        "postgres": ("PostgreSQL beside bare SQL, 200 bytes, one process", lambda: postgres.run(rounds, factor)),
        "consoles": (
            "Both consoles, 100,000 messages: first paint, refresh, first page of a list",
            lambda: consoles.run(base, rounds, int(100_000 * factor)),
        ),
        "scale": (f"{asked.messages:,} messages", lambda: scale.run(base, int(asked.messages * factor))),
    }
    for part in asked.parts:
        title, run = runs[part]
        where = report.machine(base)
        figures = run()
        command = f"python -m benchmarks {part} --rounds {rounds}"
        if asked.save:
            report.save(Path("docs/benchmarks"), part, title, command, where, figures)
        else:
            print(f"\n{title}\n{report.table(figures)}")


if __name__ == "__main__":
    main()
