"""The queues of a spool: making it, and making, listing and deleting queues. Section 1 of docs/spool-format.md."""

from __future__ import annotations

import errno
import grp
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from spoolq import settings as settings_module
from spoolq.clock import Clock
from spoolq.errors import NotASpool, QueueExists, QueueNotFound, UnsafeSpool, storage_error
from spoolq.settings import Settings
from spoolq.spool import looks
from spoolq.spool.directory import BALLAST_BYTES, DIRECTORIES, FORMAT_TEXT, QueueDirectory
from spoolq.spool.files import Files
from spoolq.spool.names import is_queue_name
from spoolq.spool.session import Session, check_file_system, check_place, translated

log = logging.getLogger("spoolq.spool")

DEFAULT = "default"
_MAY_BE_THERE = frozenset(("queue.toml", "README.md", "README", ".gitignore", ".gitkeep", "lost+found", "spoolq.toml"))
_SHARED_DIRECTORIES = ("new", "tmp")


_NOT_OURS_TO_SYNC = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL)
"""Of a directory above a spool: it cannot have been changed by us, or its file system has no such thing."""


def check_queue_name(name: str) -> str:
    """The name, if a queue may be called that: it can never lead out of the spool."""
    if not is_queue_name(name):
        raise ValueError(
            f"queue must be 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit, not {name!r}"
        )
    return name


def queue_root(spool: Path, name: str) -> Path:
    """Where a queue is."""
    check_queue_name(name)
    return spool if name == DEFAULT else spool / "queues" / name


def directory_of(spool: Path, name: str, files: Files | None = None) -> QueueDirectory:
    """The directories of a queue."""
    root = queue_root(spool, name)
    files = files or Files()
    return QueueDirectory(root, files, os.fspath(spool / "ballast"))


def make_spool(
    spool: Path, *, group: str | None = None, settings: Settings | None = None, files: Files | None = None
) -> bool:
    """Make a spool where the path is missing, empty, or holds only a `queue.toml`; False where there is one already.

    group: its members may drop files: `new/` and `tmp/` become setgid and writable for it. Raises NotASpool where
    something else is there, LookupError for a group that does not exist.
    """
    gid = None if group is None else _group_id(group)
    files = files or Files()
    directory = QueueDirectory(spool, files, os.fspath(spool / "ballast"))
    if os.path.exists(directory.format):
        if gid is not None:
            _share(directory, gid)
        return False
    with translated("init", os.fspath(spool)):
        try:
            _check_empty(spool)
        except NotASpool:
            if os.path.exists(directory.format):  # RACE: made by somebody else in this very moment.
                return False
            raise
        nearest = _nearest(spool)
        check_file_system(os.fspath(nearest))
        files.make_root(os.fspath(spool))
        _check_mode(spool)
        _sync_above(spool, nearest, files)
    _lay_out(directory, settings)
    if gid is not None:
        _share(directory, gid)
    with translated("init", directory.ballast):
        if not os.path.exists(directory.ballast):
            _make_ballast(directory)
    log.info("spool.made path=%s", spool)
    return True


def _group_id(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ValueError(f"there is no group {group!r} on this system") from error


def _check_empty(spool: Path) -> None:
    """What is in the way is somebody's: never made into a spool."""
    try:
        names = set(os.listdir(spool))
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise NotASpool(f"{spool} is not a directory", op="init", path=spool, hint="Choose another path") from error
    # A spool whose making was interrupted has directories and no FORMAT: finish it.
    strange = sorted(names - _MAY_BE_THERE - {*DIRECTORIES, "lock", "wake", "queues", "ballast"})
    if strange:
        hint = f"Choose an empty or a new directory; in this one is {strange[0]!r}"
        raise NotASpool(f"{spool} is not a spool and not empty", op="init", path=spool, hint=hint)


def _nearest(path: Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    while not path.exists():
        path = path.parent
    return path


def _sync_above(spool: Path, nearest: Path, files: Files) -> None:
    """The way to the spool is on the disk before anything is promised in it, whoever has just made it."""
    path = spool
    while True:
        path = path.parent
        try:
            files.sync_directory(os.fspath(path))
        except OSError as error:
            if error.errno not in _NOT_OURS_TO_SYNC:
                raise
        if nearest in (path, spool):
            return


def _check_mode(spool: Path) -> None:
    if os.stat(spool).st_mode & stat.S_IWOTH:
        hint = f"chmod o-w '{spool}'; to let others drop files: spoolq init --group GROUP"
        raise UnsafeSpool(f"everybody may write to {spool}", op="init", path=spool, hint=hint)


def _lay_out(directory: QueueDirectory, settings: Settings | None) -> None:
    """The directories, then the files, then FORMAT: whoever sees FORMAT sees all."""
    files = directory.files
    with translated("init", directory.base):
        for name in DIRECTORIES:
            files.mkdir(f"{directory.base}/{name}")
        for path in (directory.lock, directory.wake):
            os.close(files.open_lock(path))
        if settings is not None:
            text = settings_module.dump(settings)
            files.write_whole(directory.aside("queue.toml"), directory.settings, text.encode(), sync=True)
        try:
            files.write_whole(
                directory.aside("FORMAT"), directory.format, FORMAT_TEXT.encode(), sync=True, replace=False
            )
        except FileExistsError:  # RACE: two openers. Who has the queue open by now has a lock on the other's.
            pass


def _make_ballast(directory: QueueDirectory) -> None:
    temporary = directory.aside("ballast")
    try:
        directory.files.allocate(temporary, BALLAST_BYTES)
        directory.files.rename(temporary, directory.ballast)
    except OSError as error:
        # A disk with no room for it gets it later (Room.restore_ballast); the spool works without.
        directory.files.discard(temporary)
        log.warning("ballast.not_made error=%s", error)


def _share(directory: QueueDirectory, gid: int) -> None:
    """Let a group drop files: its members may write to `new/` and `tmp/`, and read nothing else by a listing.

    setgid, so that what they drop has the group; sticky, so that each can remove and rename its own only. Modes are set
    outright, whatever the umask.
    """
    with translated("init", directory.base):
        directory.files.share(directory.base, gid, 0o710)
        for name in _SHARED_DIRECTORIES:
            directory.files.share(f"{directory.base}/{name}", gid, 0o770 | stat.S_ISGID | stat.S_ISVTX)


def _shared_gid(directory: QueueDirectory) -> int | None:
    """The group that may drop files here, or None."""
    found = os.stat(directory.new)
    return found.st_gid if found.st_mode & stat.S_IWGRP else None


def create_queue(spool: Path, name: str, settings: Settings | None = None) -> None:
    """Make a queue: whole in `tmp/`, then renamed. QueueExists where there is one of this name."""
    check_queue_name(name)
    if name == DEFAULT:
        raise QueueExists("every spool has a queue 'default'", op="create_queue")
    make_spool(spool)
    parent = directory_of(spool, DEFAULT)
    check_place(parent)
    with translated("create_queue", os.fspath(spool)):
        parent.files.mkdir(f"{parent.base}/queues")
        root = queue_root(spool, name)
        if root.exists():
            raise QueueExists(f"there is a queue {name!r} already", op="create_queue", path=root)
        aside = Path(parent.aside(f"queue-{name}"))
        parent.files.mkdir(os.fspath(aside))
        try:
            _lay_out(QueueDirectory(aside, parent.files, parent.ballast), settings)
            try:
                parent.files.rename_new(os.fspath(aside), os.fspath(root))
            except FileExistsError as error:
                raise QueueExists(f"there is a queue {name!r} already", op="create_queue", path=root) from error
        except BaseException:
            parent.files.remove_tree(os.fspath(aside))
            raise
        gid = _shared_gid(parent)
        if gid is not None:
            parent.files.share(f"{parent.base}/queues", gid, 0o710)
            _share(QueueDirectory(root, parent.files, parent.ballast), gid)
        parent.files.sync_directory(f"{parent.base}/queues")
        parent.files.sync_directory(parent.base)  # which may have got `queues` only now
    log.info("queue.created queue=%s", name)


def list_queues(spool: Path) -> list[str]:
    """The names of a spool's queues, "default" first. NotASpool where there is none."""
    check_place(directory_of(spool, DEFAULT))
    try:
        names = os.listdir(spool / "queues")
    except FileNotFoundError:
        return [DEFAULT]
    except OSError as error:
        raise storage_error(error, "list_queues", os.fspath(spool / "queues")) from error
    return [
        DEFAULT,
        *sorted(name for name in names if is_queue_name(name) and (spool / "queues" / name / "FORMAT").exists()),
    ]


def delete_queue(spool: Path, name: str, clock: Clock | None = None) -> int:
    """Delete a queue for good, also while others have it open: they get QueueNotFound. How many messages."""
    check_queue_name(name)
    if name == DEFAULT:
        raise ValueError("the queue 'default' cannot be deleted, only purged")
    directory = directory_of(spool, name)
    if not os.path.exists(directory.format):
        raise queue_not_found(spool, name)
    parent = directory_of(spool, DEFAULT)
    clock = clock or Clock()
    aside = parent.temporary(f"deleted-{name}-{clock.new_id()}")
    session = Session.open(directory, name, clock)
    try:
        with session.look() as db:
            counts = looks.counts(db)
        with session.alone(), translated("delete_queue", directory.base):
            parent.files.rename(directory.base, aside)
    finally:
        session.abandon()
    with translated("delete_queue", aside):
        # CRASH: a directory in tmp/, which is swept. The move first, so that no queue comes back in part.
        parent.files.sync_directory(parent.tmp)
        parent.files.sync_directory(f"{parent.base}/queues")
        parent.files.remove_tree(aside)
    log.info("queue.deleted queue=%s", name)
    return counts.ready + counts.scheduled + counts.claimed + counts.done + counts.dead


def queue_not_found(spool: Path, name: str) -> QueueNotFound:
    """The error for a queue that is not there, with those that are."""
    known: Sequence[str] = list_queues(spool)
    hint = f"There are: {', '.join(known)}. Make it with: spoolq queues create {name}"
    return QueueNotFound(f"there is no queue {name!r}", op="open", path=spool, hint=hint)
