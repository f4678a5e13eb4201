"""Whether there is room for another message: the disk's reserve, the ballast, and the queue's own limits.

Promise P9: on a filling disk an enqueue is refused while what acknowledging and cleaning need is still left.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from spoolq.errors import DiskFull, MessageTooLarge, QueueFull
from spoolq.models import Health
from spoolq.spool import looks
from spoolq.spool.directory import BALLAST_BYTES
from spoolq.spool.session import Session

_LOOK_S = 0.05


class Room:
    """What one process knows of the room on the disk; looked at anew every 50 ms, or when it gets tight."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._next_s = 0.0
        self._left_bytes = 0
        self._left_inodes = 0
        self.relief: Callable[[], bool] = lambda: False
        """Called before an enqueue is refused: whether it made room."""

    def check_size(self, size: int, *, so_far: bool = False) -> None:
        """Refuse a body over the limit. so_far: it may have more, which nobody read."""
        most = self._session.settings.limits.body_bytes
        if most and size > most:
            hint = "Raise limits.body_bytes in queue.toml, or send a smaller one"
            raise MessageTooLarge(
                f"the body has {size:,} bytes{' or more' if so_far else ''}, and at most {most:,} are allowed",
                op="enqueue",
                hint=hint,
            )

    def check(self, size: int, count: int = 1) -> None:
        """Refuse where there is no room for `count` messages of `size` bytes in all."""
        self.check_limits(size, count)
        now = self._session.clock.mono_s()
        self._left_bytes -= size + 4096 * count
        self._left_inodes -= count
        if now >= self._next_s or self._left_bytes < 0 or self._left_inodes < 0:
            self._next_s = now + _LOOK_S
            self._look()
            if (self._left_bytes < size or self._left_inodes < count) and not self.relief():
                raise self._full()

    def has_room(self) -> bool:
        """Whether the disk has more than its reserve, looked at now."""
        self._look()
        return self._left_bytes >= 0 and self._left_inodes >= 0

    def _kept_bytes(self, disk_bytes: int) -> int:
        reserve = self._session.settings.reserve
        return max(reserve.bytes, int(disk_bytes * reserve.percent / 100))

    def health(self) -> Health:
        """The disk, its reserve and the index, looked at now."""
        has_room = self.has_room()
        found = os.statvfs(self._session.directory.new)
        with self._session.look() as db:
            info = looks.info(db)
        index = self._session.directory.index
        return Health(
            disk_bytes=found.f_blocks * found.f_frsize,
            disk_free_bytes=found.f_bavail * found.f_frsize,
            disk_inodes=found.f_files,
            disk_free_inodes=found.f_favail,
            reserve_bytes=self._kept_bytes(found.f_blocks * found.f_frsize),
            reserve_inodes=self._session.settings.reserve.inodes,
            has_room=has_room,
            index_bytes=sum(os.stat(path).st_size for path in (index, index + "-wal") if os.path.exists(path)),
            last_scan_ms=info.last_scan_ms,
            last_clean_at_ms=info.last_clean_at_ms,
            last_scan_at_ms=info.last_scan_at_ms,
            index_made_at_ms=info.made_at_ms,
        )

    def _look(self) -> None:
        reserve = self._session.settings.reserve
        found = os.statvfs(self._session.directory.new)
        kept = self._kept_bytes(found.f_blocks * found.f_frsize)
        if not os.path.exists(self._session.directory.ballast):
            # What it gave was for those who claim and acknowledge.
            kept += BALLAST_BYTES
        self._left_bytes = found.f_bavail * found.f_frsize - kept
        # Some file systems (btrfs) have no fixed number of inodes, and say 0 of 0.
        self._left_inodes = found.f_favail - reserve.inodes if found.f_files else 1 << 40

    def _full(self) -> DiskFull:
        what = "bytes" if self._left_bytes < 0 or self._left_inodes >= 0 else "inodes"
        hint = "Free some space, or lower [reserve] in queue.toml; claims and acknowledgements go on"
        return DiskFull(
            f"the disk's reserve of {what} is reached; nothing more is taken in",
            op="enqueue",
            path=self._session.directory.new,
            hint=hint,
        )

    def check_limits(self, size: int, count: int = 1) -> None:
        """Refuse where the queue's own limits, on what waits, are reached."""
        limits = self._session.settings.limits
        if not limits.messages and not limits.bytes:
            return
        with self._session.look() as db:
            counts = looks.counts(db)
        there = counts.ready + counts.scheduled
        stored = counts.ready_bytes + counts.scheduled_bytes
        if limits.messages and there + count > limits.messages:
            hint = "Wait for consumers, or raise limits.messages in queue.toml"
            raise QueueFull(
                f"the queue holds {there:,} of at most {limits.messages:,} messages", op="enqueue", hint=hint
            )
        if limits.bytes and stored + size > limits.bytes:
            hint = "Wait for consumers, or raise limits.bytes in queue.toml"
            raise QueueFull(f"the queue holds {stored:,} of at most {limits.bytes:,} bytes", op="enqueue", hint=hint)

    def restore_ballast(self) -> bool:
        """Make the ballast again, once there is room for it beside the reserve; True where it was missing."""
        directory = self._session.directory
        if os.path.exists(directory.ballast):
            return False
        self._look()
        if self._left_bytes > 2 * BALLAST_BYTES:
            temporary = directory.aside("ballast")
            try:
                directory.files.allocate(temporary, BALLAST_BYTES)
                directory.files.rename(temporary, directory.ballast)
            except OSError:
                directory.files.discard(temporary)
                raise
        return True
