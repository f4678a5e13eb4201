"""Carry messages from one queue to another, by `interfaces` alone: the local spool as an outbox.

The order of things makes it safe: claim here, enqueue there with the message's id as its key, acknowledge here.
Whatever dies in between, the message is sent again, and the target knows it by its key: each arrives, each once, for as
long as the target remembers keys (WINDOW_S). Within a group a message is claimed when the one before is acknowledged,
so order is kept. An outage of the target gives messages back uncounted and makes a pause that grows; what the target
refuses for what it is goes to `dead`, with its words.

In reading order: `figures` (what a relay tells of itself), `carrying` (the relay), `breaker` (pauses while the target
is away), `holding` (keeping claims that live by time), `reports` (the figures on disk, for consoles and metrics).
"""

from spoolq.relay.breaker import PAUSES_S
from spoolq.relay.carrying import WHOLE_BYTES, WINDOW_S, Relay
from spoolq.relay.figures import Figures

__all__ = ["PAUSES_S", "WHOLE_BYTES", "WINDOW_S", "Figures", "Relay"]
