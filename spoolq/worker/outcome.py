"""What an ending means for the message. Pure: everything about exit statuses is in this file.

DESIGN section 11: 0 acknowledges; 75 and 111 say "try again"; 65, 77 and 100 "never"; 126 and 127 "this worker cannot
run it". The numbers are those of sysexits(3) and of qmail's commands. Anything else is a failure that counts.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Literal

Cause = Literal["itself", "timeout", "stop", "lease"]
Action = Literal["acknowledge", "requeue", "dead", "release", "none"]

CANNOT_RUN = 78
"""The exit status of a worker whose command cannot be run: sysexits' EX_CONFIG."""

_RETRY = {75, 111}
_DEAD = {65, 77, 100}
_CANNOT_RUN = {126: "not executable", 127: "not found"}
_STOPPED_BY = {signal.SIGTERM, signal.SIGINT}
_STOPPED_STATUS = {128 + number for number in _STOPPED_BY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a command ended. One of exit_status and signal, or neither where nobody can tell.

    cause: by itself, or ended by its worker: its time was up, the worker stops, the claim has ended. limit_s: the time
    that was up. stderr: the end of what it wrote there.
    """

    exit_status: int | None = None
    signal: int | None = None
    cause: Cause = "itself"
    limit_s: float = 0
    duration_s: float = 0
    stderr: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do with the message. exit_code: not 0, and this worker stops with it. pause: wait before the next."""

    action: Action
    reason: str = ""
    exit_status: int | None = None
    signal: int | None = None
    stderr: str = ""
    exit_code: int = 0
    pause: bool = False


def decide(ending: Ending, *, stopping: bool) -> Decision:
    """What an ending means. stopping: the worker was told to stop, and so, perhaps, was the command."""
    action = _action(ending, stopping)
    cannot_run = ending.cause == "itself" and ending.exit_status in _CANNOT_RUN
    return Decision(
        action=action,
        reason="" if action == "acknowledge" else reason(ending),
        exit_status=ending.exit_status,
        signal=ending.signal,
        stderr=ending.stderr,
        exit_code=CANNOT_RUN if cannot_run else 0,
    )


def _action(ending: Ending, stopping: bool) -> Action:
    if ending.cause == "lease":
        return "none"
    if ending.cause == "stop":
        # Also when it then exits 0: many do so for a TERM, done or not. A second run is promised, a lost one is not.
        return "release"
    if ending.cause == "timeout":
        return "requeue"
    if stopping and (ending.signal in _STOPPED_BY or ending.exit_status in _STOPPED_STATUS):
        # Whoever stopped the worker stopped the command too, as systemd does: no fault of the message.
        return "release"
    return _action_of_status(ending.exit_status)


def _action_of_status(status: int | None) -> Action:
    if status == 0:
        return "acknowledge"
    if status in _DEAD:
        return "dead"
    if status in _CANNOT_RUN:
        return "release"
    return "requeue"


def reason(ending: Ending) -> str:
    """The ending in words that are the same for the same kind of failure, so that they can be counted."""
    if ending.cause == "timeout":
        return f"timed out after {ending.limit_s:g} s"
    if ending.cause == "stop":
        return "the worker stopped"
    if ending.cause == "lease":
        return "the claim ended"
    if ending.signal is not None:
        return f"killed by {_signal_name(ending.signal)}"
    if ending.exit_status is None:
        return "exit status unknown"
    return f"exit status {ending.exit_status}" + _meaning(ending.exit_status)


def _meaning(status: int) -> str:
    if status in _RETRY:
        return " (try again)"
    if status in _DEAD:
        return " (give up)"
    return f" ({_CANNOT_RUN[status]})" if status in _CANNOT_RUN else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
