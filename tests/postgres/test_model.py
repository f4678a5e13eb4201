"""The model test, on PostgreSQL: the same operations on both, in any order, show the same.

Claims live by time here, so the model's get the queue's lease; a killed consumer is one whose lease ends. The
database's clock is nobody's on this host to set.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import initialize, precondition, rule

from spoolq import postgres as engine
from spoolq.errors import LeaseLost, MessageNotFound
from spoolq.memory import MemoryQueue, MemoryStore
from tests.postgres_clock import DatabaseClock, emptied
from tests.test_model import SETTINGS, ModelAndSpool, Side, outcome

EXAMPLES = int(os.environ.get("SPOOLQ_EXAMPLES", "25"))
NEVER = precondition(lambda self: False)


class LeasedQueue(MemoryQueue):
    """The model, without holders."""

    def _claim(self, holder, count, wait_s, lease_s):
        return super()._claim(holder, count, wait_s, lease_s or self.settings.lease_s)


class ModelAndPostgres(ModelAndSpool):
    dsn = ""

    @initialize(chosen=SETTINGS)
    def open_both(self, chosen) -> None:
        self.clock_jumps = False
        self.home = Path(tempfile.mkdtemp(prefix="spoolq-model-"))
        emptied(self.dsn)
        self.clock = DatabaseClock(self.dsn)
        self.store = MemoryStore(settings=chosen, clock=self.clock)
        self.model = Side(LeasedQueue(store=self.store), self.clock)
        self.spool = Side(self.open_spool(), self.clock)
        self.spool.queue.change_settings(chosen)
        self.index_was_removed = False
        self.is_sound = False
        self.bodies = 0
        for _ in range(3):
            self.enqueue({})

    def open_spool(self):
        return engine.open_queue(self.dsn, clock=self.clock)

    def may_differ(self, how, number, expected, got) -> bool:
        """A receipt is remembered for ten minutes from the acknowledge here, from the deletion there."""
        if how != "acknowledge" or {expected, got} != {None, LeaseLost}:
            return False
        id = self.model.receipts[number].partition(".")[0]
        return outcome(lambda: self.model.queue.get(id)) is MessageNotFound

    @NEVER
    @rule()
    def remove_index(self) -> None:
        """There is none."""

    @NEVER
    @rule()
    def clock_is_set(self) -> None:
        """It is another host's."""

    @NEVER
    @rule()
    def a_consumer_is_killed(self) -> None:
        """Then its lease ends, which `time_passes` shows."""

    @rule()
    def reopen(self) -> None:
        """Closed in order, and opened again."""
        self.model.queue.close()
        self.model.queue = LeasedQueue(store=self.store)
        self.spool.queue.close()
        self.spool.queue = self.open_spool()
        self.let_pass(1.5)

    def teardown(self) -> None:
        """It is in order, unless it is known already that it is not."""
        if not hasattr(self, "spool"):
            return
        try:
            if self.is_sound:
                assert self.spool.queue.check() == []
            self.spool.queue.close()
        finally:
            self.clock.close()
            shutil.rmtree(self.home)


@pytest.mark.timeout(600)
def test_model_and_postgres(postgres):
    from hypothesis.stateful import run_state_machine_as_test

    ModelAndPostgres.dsn = postgres.dsn()
    run_state_machine_as_test(
        ModelAndPostgres,
        settings=settings(
            max_examples=EXAMPLES,
            derandomize="SPOOLQ_EXAMPLES" not in os.environ,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            print_blob=True,
        ),
    )
