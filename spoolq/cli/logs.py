"""Log lines of commands, on standard error with time and level. SPOOLQ_LOG=debug, info, warning or error sets how much.

Without it `watch` tells what it did (info), and every other command only what somebody should look at (warning).
"""

from __future__ import annotations

from os import environ

VARIABLE = "SPOOLQ_LOG"
LEVELS = ("debug", "info", "warning", "error")


def quiet() -> None:
    """Let the pool of connections to a database keep its lines to itself, two a second while that is away.

    What becomes of a call is told by whoever made it, once, with the time and in our words. debug shows them.
    """
    import logging

    if environ.get(VARIABLE, "").lower() != "debug":
        logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)


def begin(default: str) -> None:
    """Write log lines from now on; once for a process. ValueError for a level that is none."""
    import logging

    level = environ.get(VARIABLE) or default
    if level.lower() not in LEVELS:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(LEVELS)}, not {level!r}")
    logger = logging.getLogger("spoolq")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(level.upper())
