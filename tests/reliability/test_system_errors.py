"""The kernel refuses a call: every kind of error, at every call that it can come from, of every transition.

tests/faults does so at the seam; here it is the system call itself, SQLite's too.
"""

import pytest

from tests.crash.scenarios import SCENARIOS
from tests.reliability import mutants
from tests.reliability.figures import FULL, caught, report
from tests.reliability.strace import StraceHarness

CREATING = frozenset(("openat", "mkdir"))
WRITING = frozenset(("write", "pwrite64", "ftruncate", "fallocate", "copy_file_range"))
NAMING = frozenset(("rename", "renameat2", "link", "unlink", "unlinkat"))
SYNCING = frozenset(("fsync", "fdatasync"))
ERRORS = {
    "EIO": WRITING | NAMING | SYNCING | {"pread64", "openat", "utimensat"},
    "ENOSPC": CREATING | WRITING | SYNCING | {"rename", "renameat2", "link"},
    "EDQUOT": CREATING | WRITING | {"rename", "renameat2"},
    "EMFILE": frozenset(("openat",)),
    "EINTR": frozenset(("write", "openat", "fsync", "flock", "pwrite64")),
    "EROFS": CREATING | NAMING | {"write", "utimensat"},
}
"""What each can come from."""

SOME = ("enqueue", "enqueue_with_metadata", "enqueue_keyed", "take_in", "dequeue", "acknowledge_delete", "requeue")
NAMES = SOME if not FULL else [name for name in SCENARIOS if name not in {"close", "dequeue_what_is_due"}]
"""What a close cannot give back is reaped, counted; what was due, and could not be claimed, loses its time."""

EVERY = 1 if FULL else 10


def harness(name, home, error, every) -> StraceHarness:
    found = StraceHarness(SCENARIOS[name], home, error=error, only=ERRORS[error], every=every, first=len(name + error))
    # Where there is no room for a name in done/, what is processed is deleted.
    found.vanishing = error in {"ENOSPC", "EDQUOT"} and name.startswith("acknowledge_keep")
    return found


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", NAMES)
def test_an_error_at_every_system_call(name, error, fast_path):
    """A clear error or none, nothing lost, nothing in between, and what had returned stands."""
    run = harness(name, fast_path, error, EVERY)
    tried = run.run()
    report("system errors", transition=name, error=error, calls=len(run.calls), failed=tried - 1, told=run.refused)


@pytest.mark.timeout(600)
def test_system_errors_find_an_fsync_that_is_tried_again(fast_path, monkeypatch):
    """The second one says that all is well, and what was promised on its word may not be there."""

    def returned(home) -> bool:
        """Whether an enqueue was confirmed although the sync of its body had failed."""
        run = StraceHarness(SCENARIOS["enqueue"], home, error="EIO", only=frozenset(("fsync",)))
        run.prepare()
        return bool(run.traced_wreck(0).ended)

    assert not returned(fast_path / "whole")
    with monkeypatch.context() as patch:
        mutants.fsync_tried_again(patch)
        assert returned(fast_path / "mutant")
    caught("system errors", "fsync_tried_again", "an enqueue was confirmed after its fsync had failed")
