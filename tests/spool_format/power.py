"""What a power cut may take: judged by the recorded order of operations, since killing a process cannot show it.

Worst case of POSIX: bytes are on the disk once the file was synced after they were written, and a name once its
directory was synced after the name was made. A name may reach the disk before its bytes do, or never.
"""

from __future__ import annotations

from collections.abc import Sequence

STATES = ("new", "cur", "done", "dead")


def directory_of(path: str) -> str:
    """The directory that a name is in; "." for the queue's own."""
    return path.rpartition("/")[0] or "."


def lost_by_a_power_cut(steps: Sequence[str], directories: Sequence[str] = STATES) -> list[str]:
    """What a power cut just after these steps may undo in these directories: nothing, where all is safe."""
    at_risk: dict[str, str] = {}
    for step in steps:
        operation, *paths = step.split(" ")
        if operation in {"rename", "unlink"}:
            for path in reversed(paths):
                at_risk[directory_of(path)] = step
        elif operation == "sync":
            at_risk.pop(paths[0], None)
    return [f"{directory}: {step}" for directory, step in at_risk.items() if directory in directories]


def torn_by_a_power_cut(steps: Sequence[str], directories: Sequence[str] = ("new", "meta")) -> list[str]:
    """Files that got a name in these directories before their bytes were safe: it may be there without them."""
    dirty: set[str] = set()
    torn = []
    for step in steps:
        operation, *paths = step.split(" ")
        if operation in {"create", "write", "copy_range"}:
            dirty.add(paths[0])
        elif operation == "fsync":
            dirty.discard(paths[0])
        elif operation == "rename":
            if paths[0] in dirty and directory_of(paths[1]) in directories:
                torn.append(step)
            if paths[0] in dirty:
                dirty.discard(paths[0])
                dirty.add(paths[1])
    return torn


def moved_after_the_commit(steps: Sequence[str], directories: Sequence[str] = STATES) -> list[str]:
    """Moves of messages under the lock that come after the commit of their row: the row would be ahead of the file."""
    late: list[str] = []
    committed = False
    for step in steps:
        operation, *paths = step.split(" ")
        if operation in {"lock", "unlock"}:
            committed = False
        elif operation == "commit":
            committed = True
        elif committed and operation in {"rename", "unlink"}:
            late += [step] * any(directory_of(path) in directories for path in paths)
    return late
