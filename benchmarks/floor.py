"""The floor: the same file moves, and bare SQLite statements. No locks, no checks, no counts."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path


class Floor:
    """Bare files in `tmp new cur`, and an index of one table in a WAL that is never synced."""

    def __init__(self, path: Path, *, sync: bool) -> None:
        for name in ("tmp", "new", "cur", "done"):
            (path / name).mkdir(parents=True)
        self.base = str(path)
        self.sync = sync
        self.serial = 0
        self.db = sqlite3.connect(path / "index.db", isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = OFF")
        self.db.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, state TEXT, name TEXT, attempts INTEGER)")
        self.db.execute("CREATE INDEX ready ON messages (id) WHERE state = 'ready'")

    def write(self, body: bytes) -> str:
        """Create, write, [sync,] close, rename, [sync the directory]."""
        self.serial += 1
        name = f"{self.serial:036d}"
        fd = os.open(f"{self.base}/tmp/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, body)
        if self.sync:
            os.fsync(fd)
        os.close(fd)
        os.rename(f"{self.base}/tmp/{name}", f"{self.base}/new/{name}")
        if self.sync:
            fd = os.open(f"{self.base}/new", os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        return name

    def put(self, body: bytes) -> None:
        """A file and its row."""
        name = self.write(body)
        self.db.execute("INSERT INTO messages VALUES (?, 'ready', ?, 0)", (self.serial, name))

    def claim(self) -> tuple[int, str, bytes]:
        """The first ready row, its file moved and read."""
        row = self.db.execute(
            "UPDATE messages SET state = 'claimed', attempts = attempts + 1 WHERE id ="
            " (SELECT id FROM messages WHERE state = 'ready' ORDER BY id LIMIT 1) RETURNING id, name"
        ).fetchone()
        os.rename(f"{self.base}/new/{row[1]}", f"{self.base}/cur/{row[1]}")
        fd = os.open(f"{self.base}/cur/{row[1]}", os.O_RDONLY)
        body = os.read(fd, 1 << 20)
        os.close(fd)
        return row[0], row[1], body

    def acknowledge(self, claim: tuple[int, str, bytes]) -> None:
        """Row and file go."""
        self.db.execute("DELETE FROM messages WHERE id = ?", (claim[0],))
        os.unlink(f"{self.base}/cur/{claim[1]}")

    def close(self) -> None:
        """Let go."""
        self.db.close()
