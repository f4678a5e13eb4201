"""The system refuses an operation: every errno, at every operation, of every transition."""

import errno

import pytest

from spoolq.errors import StorageError, storage_error
from spoolq.spool.queue import SpoolQueue
from tests.crash.scenarios import SCENARIOS
from tests.faults.harness import MEETS, FaultHarness, FaultyFiles
from tests.helpers import SeamFiles

MODES = ("ENOSPC-lasting", "EIO-once", "EROFS-lasting", "EACCES-once")
"""As they come: a full disk stays full, a block that cannot be read or written is one of many."""

OTHER_MODES = (
    "ENOSPC-once",
    "EDQUOT-once",
    "EDQUOT-lasting",
    "EROFS-once",
    "EIO-lasting",
    "EMFILE-once",
    "EMFILE-lasting",
)
SOME = (
    *("enqueue_with_metadata", "enqueue_many", "enqueue_keyed", "enqueue_file_move", "take_in", "dequeue_with_a_lease"),
    *("acknowledge_keep_many", "requeue", "reap_of_the_dead", "rebuild", "make_queue"),
)

HERE = [name for name in SCENARIOS if name != "close"]
"""What a close cannot give back is reaped, counted: not as if it had not begun, nor as if it had ended."""


def test_each_operation_can_fail():
    """No operation is left out of all kinds of faults."""
    assert frozenset().union(*MEETS.values()) == SeamFiles.SINGLE


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", HERE)
def test_fault(name, mode, fast_path):
    """A clear error, no litter, nothing lost, and it goes on when the cause is gone."""
    code, _, lasts = mode.partition("-")
    scenario = SCENARIOS[name]
    FaultHarness(scenario, fast_path, getattr(errno, code), lasting=lasts == "lasting").run(scenario.hows[0])


@pytest.mark.parametrize("mode", OTHER_MODES)
@pytest.mark.parametrize("name", SOME)
def test_fault_of_another_kind(name, mode, fast_path):
    """A quota is a full disk; what is full for one operation only is helped by the ballast."""
    test_fault(name, mode, fast_path)


def test_a_close_that_cannot_give_back_says_nothing(fast_path):
    """It lets go all the same, and its claims come back, counted, as those of the dead do."""
    files = FaultyFiles(errno.EIO, 1, lasting=True)
    queue = SpoolQueue.open(fast_path / "spool", files=files)
    id = queue.enqueue(b"x")
    assert queue.dequeue() is not None
    files.arm()
    queue.close()
    assert files.failed.startswith("rename")
    with SpoolQueue.open(fast_path / "spool") as queue:
        message = queue.dequeue()
        assert message is not None
        assert (message.id, message.attempts) == (id, 2)
        message.ack()
        assert [*queue.check()] == []


def test_an_errno_without_a_hint_is_told_as_it_is():
    """What is not foreseen is not dressed up."""
    error = storage_error(OSError(errno.EXDEV, "", "/x"), "enqueue")
    assert (type(error), error.exit_code, error.hint) == (StorageError, 1, "")
    assert "Invalid cross-device link" in error.message
