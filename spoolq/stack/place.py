"""Where a stack lives: its directory, the supervisord.conf and logs/ in it, the socket.

In a checkout the spool is beside them (spool/); of an installed package the spool is the directory itself.
"""

from __future__ import annotations

import os
import stat
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

from spoolq.errors import SpoolError
from spoolq.stack import conf
from spoolq.stack.settings import StackSettings

_SOCKET_ROOM = 70
"""Bytes of a directory's path that leave room for /logs/supervisor.sock and the .<pid> that supervisor adds: a Unix
socket's path holds 108."""

_UNREADABLE = frozenset("%;,#\"'\\[]*?\n")
"""Characters in a path that one of supervisord's readers takes for something else."""


@dataclass(frozen=True, slots=True)
class Place:
    """home: the directory, by a name that supervisord can use. spool: as absolute path."""

    home: Path
    spool: Path
    is_checkout: bool

    @property
    def conf(self) -> Path:
        """The configuration of supervisord."""
        return self.home / "supervisord.conf"

    @property
    def local_conf(self) -> Path:
        """What somebody added to it."""
        return self.home / "supervisord.local.conf"

    @property
    def logs(self) -> Path:
        """The directory of the logs."""
        return self.home / "logs"

    @property
    def socket(self) -> Path:
        """The socket of supervisord."""
        return self.logs / "supervisor.sock"

    def write(self, settings: StackSettings) -> None:
        """Make logs/, and write what supervisord reads."""
        self.logs.mkdir(mode=0o700, exist_ok=True)
        _replace(self.logs / "settings.conf", conf.settings_file(settings))
        if not self.is_checkout:
            _replace(self.conf, conf.installed(sys.executable))


def of_checkout(directory: Path, spool: str) -> Place:
    """The stack of a checkout, whose supervisord.conf is there."""
    return Place(short_name(directory), (directory / spool).absolute(), True)


def of_spool(spool: Path) -> Place:
    """The stack of a spool, with an installed package."""
    return Place(short_name(spool), spool.absolute(), False)


def short_name(directory: Path) -> Path:
    """The directory itself, or a link to it in a private directory where supervisord could not use its path.

    SpoolError where that private directory is not ours alone.
    """
    real = directory.resolve()
    if len(os.fsencode(real)) <= _SOCKET_ROOM and not _UNREADABLE & set(str(real)):
        return real
    private = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp") / f"spoolq-{os.getuid()}"
    try:
        private.mkdir(mode=0o700)
    except FileExistsError:
        pass
    found = private.lstat()
    # In /tmp somebody else could have made it first, and would then choose what we start.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        hint = "Set XDG_RUNTIME_DIR to a directory that is"
        raise SpoolError(f"{private} is not ours alone", op="up", path=private, hint=hint)
    link = private / f"{zlib.crc32(os.fsencode(real)):08x}"
    made = private / f".{link.name}.{os.getpid()}"
    made.symlink_to(real)
    made.replace(link)
    return link


def _replace(path: Path, text: str) -> None:
    """Whole or not at all: somebody may read it."""
    made = path.with_name(f".{path.name}.{os.getpid()}")
    made.write_text(text, encoding="utf-8")
    made.replace(path)
