"""Ending a delivery: acknowledged, failed, given back, given up on. Each by its receipt, which the database judges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from spoolq import validate
from spoolq.models import Attempt, State
from spoolq.postgres import statements, values
from spoolq.postgres.arrays import Texts, Uuids
from spoolq.postgres.calls import Calls, lease_lost
from spoolq.reasons import summary

_AT_ONCE = 1000


class Settler:
    """ended: told of the receipts whose claims have ended, whoever ended them."""

    def __init__(self, calls: Calls, ended: Callable[[Sequence[str]], None]) -> None:
        self._calls = calls
        self._ended = ended

    def acknowledge(self, receipt: str) -> None:
        """Processed: to `done`. Repeated after a lost answer, since the database answers it with success again."""
        if self.acknowledge_many([receipt]):
            raise lease_lost(receipt)

    def acknowledge_many(self, receipts: Iterable[str]) -> list[str]:
        """Acknowledge many; returns the receipts whose claim had ended."""
        given = list(receipts)
        pairs = [validate.parse_receipt(receipt) for receipt in given]
        lost: list[str] = []
        for at in range(0, len(pairs), _AT_ONCE):
            some = pairs[at : at + _AT_ONCE]
            ids, nonces = zip(*some, strict=True)
            if len(set(nonces)) == 1:  # claimed at once
                nonces = nonces[:1]
            places = self._calls.one(
                "acknowledge", statements.ACKNOWLEDGE, self._calls.id, Uuids(ids), Texts(nonces), repeats=True
            )
            lost += [given[at + place - 1] for place in places]
        self._ended(given)
        return lost

    def requeue(
        self, receipt: str, *, delay_s: float | None = None, reason: str = "", details: Attempt | None = None
    ) -> State:
        """Failed: back, the attempt counted; dead after `max_attempts`."""
        validate.check_delay(delay_s)
        validate.check_reason(reason)
        message_id, nonce = validate.parse_receipt(receipt)
        state = self.fail(message_id, nonce, delay_s, "requeued", reason, details)
        self._ended([receipt])
        if state is None:
            raise lease_lost(receipt)
        return state

    def release(self, receipt: str) -> None:
        """Give back untouched, the attempt not counted."""
        self._settle(receipt, "release", statements.RELEASE)
        self._calls.wake()

    def extend(self, receipt: str, lease_s: float) -> None:
        """The claim now ends `lease_s` from now."""
        validate.check_extension(lease_s)
        message_id, nonce = validate.parse_receipt(receipt)
        if not self._calls.one(
            "extend", statements.EXTEND, self._calls.id, message_id, nonce, values.ms(lease_s), repeats=True
        ):
            raise lease_lost(receipt)

    def move_to_dead_letter_queue(self, receipt: str, reason: str, *, details: Attempt | None = None) -> None:
        """Give up on it."""
        validate.check_reason(reason)
        short = statements.storable(summary(reason))
        self._settle(receipt, "dead_letter", statements.BURY, short, values.line(reason, details))

    def fail(
        self,
        message_id: str,
        nonce: str | None,
        delay_s: float | None,
        outcome: str,
        reason: str,
        details: Attempt | None,
    ) -> State | None:
        """Back, counted, or dead: its state now, None where the claim had ended. nonce: None for whoever holds it."""
        last = reason or (details.reason if details else "") or "failed"
        state: State | None = self._calls.one(
            "requeue",
            statements.FAIL,
            self._calls.id,
            message_id,
            nonce,
            None if delay_s is None else values.ms(delay_s),
            outcome,
            statements.storable(summary(reason)),
            values.line(reason, details),
            statements.storable(summary(last)),
            values.line(last, details),
        )
        if state == "ready":
            self._calls.wake()
        return state

    def _settle(self, receipt: str, op: str, sql: str, *more: Any) -> None:
        """End a delivery; what its claim was held by forgets it, whoever ended it."""
        message_id, nonce = validate.parse_receipt(receipt)
        done = self._calls.one(op, sql, self._calls.id, message_id, nonce, *more)
        self._ended([receipt])
        if not done:
            raise lease_lost(receipt)
