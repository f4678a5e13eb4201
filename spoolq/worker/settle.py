"""Carry out a decision: settle the message, log it, try again while the spool is in trouble."""

from __future__ import annotations

import logging
import os
import socket

from spoolq.clock import Clock
from spoolq.errors import LeaseLost, MessageNotFound, StorageError, TryAgain
from spoolq.message import Message
from spoolq.models import Attempt, State
from spoolq.worker.events import Field, emit
from spoolq.worker.outcome import Decision
from spoolq.worker.stop import Stop

_REASON_CHARS = 200


class Backoff:
    """Waits that grow while trouble lasts: 0.1 s to 5 s."""

    FIRST_S = 0.1
    MOST_S = 5.0

    def __init__(self) -> None:
        self._next_s = self.FIRST_S

    def next_s(self) -> float:
        """How long to wait this time."""
        wait_s = self._next_s
        self._next_s = min(wait_s * 2, self.MOST_S)
        return wait_s

    def reset(self) -> None:
        """The trouble is over."""
        self._next_s = self.FIRST_S


class Settler:
    """Settles messages for all slots of a worker."""

    def __init__(self, stop: Stop, clock: Clock) -> None:
        self._stop = stop
        self._clock = clock
        self._host = socket.gethostname()

    def settle(self, message: Message, decision: Decision, duration_s: float) -> None:
        """Until it is settled, or its claim has ended, or the worker ends; then closing the slot gives it back."""
        backoff = Backoff()
        while True:
            try:
                state = self._apply(message, decision, duration_s)
            except (LeaseLost, MessageNotFound) as error:
                emit(logging.WARNING, "message.lease_lost", **_fields(message, decision, duration_s), error=str(error))
                return
            except (TryAgain, StorageError) as error:
                if self._stop.ending:
                    emit(logging.ERROR, "message.unsettled", id=message.id, error=str(error))
                    return
                wait_s = backoff.next_s()
                emit(logging.WARNING, "worker.trouble", op="settle", id=message.id, error=str(error), retry_s=wait_s)
                self._stop.wait_ending(wait_s)
            else:
                _log(message, decision, state, duration_s)
                return

    def _apply(self, message: Message, decision: Decision, duration_s: float) -> State | None:
        """Do it, unless the handler did; the state the message is in now."""
        if message.settled is not None:
            return message.settled
        if decision.action == "acknowledge":
            message.ack()
        elif decision.action == "release":
            message.release()
        elif decision.action == "requeue":
            details = self._details(message, decision, "requeued", duration_s)
            message.requeue(reason=decision.reason, details=details)
        elif decision.action == "dead":
            message.dead_letter(decision.reason, details=self._details(message, decision, "dead", duration_s))
        return message.settled

    def _details(self, message: Message, decision: Decision, outcome: str, duration_s: float) -> Attempt:
        return Attempt(
            attempt=message.attempts,
            outcome=outcome,
            ended_at_ms=self._clock.wall_ms(),
            reason=decision.reason,
            duration_s=round(duration_s, 3),
            exit_status=decision.exit_status,
            signal=decision.signal,
            stderr=decision.stderr,
            host=self._host,
            pid=os.getpid(),
        )


def _log(message: Message, decision: Decision, state: State | None, duration_s: float) -> None:
    fields = _fields(message, decision, duration_s)
    if state == "done":
        emit(logging.INFO, "message.acknowledged", **fields)
    elif state == "dead":
        emit(logging.WARNING, "message.dead", **fields)
    elif state is None:
        emit(logging.WARNING, "message.lease_lost", **fields)
    elif decision.action == "release":
        emit(logging.INFO, "message.released", **fields)
    elif decision.action == "requeue":
        emit(logging.WARNING, "message.requeued", **fields, state=state)
    else:  # a Python handler gave it back
        emit(logging.INFO, "message.settled", **fields, state=state)


def _fields(message: Message, decision: Decision, duration_s: float) -> dict[str, Field]:
    lines = decision.reason.split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return {
        "id": message.id,
        "attempt": message.attempts,
        "duration_s": duration_s,
        "exit_status": decision.exit_status or None,
        "signal": decision.signal,
        "reason": last[:_REASON_CHARS] or None,
    }
