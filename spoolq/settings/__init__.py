"""A queue's settings: their names, defaults and limits, `queue.toml` and the SPOOLQ_ variables.

In reading order: declared.py (which there are), reading.py (`load`, `parse`), refusing.py (what somebody is told of a
wrong one), writing.py (`dump`), describing.py (`describe`). Layer 0: imports nothing of spoolq but its errors and
`plain_check`. Never creates or writes a file; whoever makes a queue writes what `dump` returns.

Most commands run on defaults, and `spoolq put` has 150 ms for everything, so pydantic, annotated_types and tomllib are
imported when there is something to read.
"""

from spoolq.settings.declared import (
    ATTEMPTS_MAX,
    COUNT_MAX,
    PREFIX,
    SECONDS_MAX,
    Drops,
    Durability,
    Limits,
    Reserve,
    Retention,
    Retry,
    Settings,
)
from spoolq.settings.describing import Described, describe
from spoolq.settings.reading import load, parse, read_toml
from spoolq.settings.writing import dump

__all__ = [
    "ATTEMPTS_MAX",
    "COUNT_MAX",
    "PREFIX",
    "SECONDS_MAX",
    "Described",
    "Drops",
    "Durability",
    "Limits",
    "Reserve",
    "Retention",
    "Retry",
    "Settings",
    "describe",
    "dump",
    "load",
    "parse",
    "read_toml",
]
