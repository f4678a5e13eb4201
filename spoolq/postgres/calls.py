"""The calls of one queue: what asks by its id, and says in its words that it was deleted."""

from __future__ import annotations

from typing import Any

from spoolq.errors import LeaseLost, MessageNotFound, QueueNotFound
from spoolq.postgres import statements
from spoolq.postgres.connection import Call, Database, Row, Rows


class Calls:
    """A queue in a database, by its id. name: for what is shown. channel: notified when there is more to claim."""

    def __init__(self, database: Database, queue_id: int, name: str) -> None:
        self.database = database
        self.id = queue_id
        self.name = name
        self.channel = f"spoolq_{queue_id}"

    def ask(self, op: str, sql: str, *parameters: Any, repeats: bool = False) -> Rows:
        """The rows of a call; repeats: see `Call`."""
        return self.database.ask(Call(op=op, sql=sql, parameters=parameters, repeats=repeats))

    def row(self, op: str, sql: str, *parameters: Any) -> Row:
        """The one row of a call that may be repeated; without one the queue is not there any more."""
        return self._first(op, self.ask(op, sql, *parameters, repeats=True))

    def one(self, op: str, sql: str, *parameters: Any, repeats: bool = False) -> Any:
        """What a function answers."""
        return self._first(op, self.ask(op, sql, *parameters, repeats=repeats))[0]

    def wake(self) -> None:
        """Tell those who wait, in a transaction of its own.

        PostgreSQL lets transactions that notify commit one after another: one that writes nothing costs the others no
        time. What a crash before it leaves untold is seen by their poll.
        """
        self.ask("notify", statements.NOTIFY, self.channel, repeats=True)

    def not_found(self, message_id: str) -> MessageNotFound:
        """There is no such message, or not in a state that allows this."""
        return MessageNotFound(
            f"no such message {message_id} in the queue {self.name!r}, or it is in another state", message_id=message_id
        )

    def _first(self, op: str, rows: Rows) -> Row:
        if not rows:
            raise QueueNotFound(f"the queue {self.name!r} was deleted", op=op, path=self.database.address.shown)
        return rows[0]


def lease_lost(receipt: str) -> LeaseLost:
    """The claim that it was for has ended."""
    return LeaseLost(
        f"the claim of {receipt} has ended; nothing was changed",
        message_id=receipt.partition(".")[0],
        hint="Somebody else may hold the message now",
    )
