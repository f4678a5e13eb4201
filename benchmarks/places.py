"""Where benchmarks put their files: a directory of its own for each run, in its own block group on ext4."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from spoolq.spool.queue import SpoolQueue


@contextlib.contextmanager
def place(base: Path) -> Iterator[Path]:
    """A fresh directory below `base`, on ext4 in a block group of its own (`chattr +T` on the parent).

    Creating files in a group where many were just unlinked is 20 times slower.
    """
    base.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        subprocess.run(["chattr", "+T", str(base)], capture_output=True, check=False)
    path = Path(tempfile.mkdtemp(dir=base))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def open_spool(path: Path, **settings: object) -> SpoolQueue:
    """A spool with these settings; nested ones as `retention__done_s=0`."""
    tables: dict[str, list[str]] = {"": []}
    for key, value in settings.items():
        table, _, name = key.rpartition("__")
        text = f'"{value}"' if isinstance(value, str) else str(value)
        tables.setdefault(table, []).append(f"{name} = {text}")
    lines = [*tables.pop(""), *(line for name, part in tables.items() for line in (f"[{name}]", *part))]
    path.mkdir(parents=True, exist_ok=True)
    (path / "queue.toml").write_text("\n".join(lines) + "\n")
    return SpoolQueue.open(path)
