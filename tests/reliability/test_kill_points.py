"""Killed before every system call of every transition, and of recovery itself; what was promised is kept."""

import pytest

from tests.crash.scenarios import SCENARIOS
from tests.reliability import mutants
from tests.reliability.figures import FULL, caught, report
from tests.reliability.strace import StraceHarness

SOME = (
    *("enqueue", "enqueue_with_metadata", "enqueue_keyed", "enqueue_file_move", "take_in", "dequeue"),
    *("acknowledge_keep", "acknowledge_delete", "requeue", "dead_letter", "redrive", "clean"),
    *("recover_by_maintenance", "recover_without_an_index"),
)
"""In `make test`. Each wreck is recovered: so dying in recovery is two deaths, one after the other."""

NAMES = [name for name in SCENARIOS if name.startswith(SOME)] if not FULL else [*SCENARIOS]
EVERY = 1 if FULL else 10


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
def test_killed_before_every_system_call(name, fast_path):
    """Judged as in tests/crash: each message in one place, as before or as after, and what had returned stands."""
    harness = StraceHarness(SCENARIOS[name], fast_path, every=EVERY, first=len(name))
    tried = harness.run()
    report("kill points", transition=name, calls=len(harness.calls), killed=tried - 1)
    assert len(harness.calls) > 5


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("dequeue", mutants.no_receipt_in_the_name),
        ("acknowledge_keep", mutants.trusting_the_row),
        ("dequeue", mutants.deaf_to_deaths),
    ],
)
def test_kill_points_find(name, mutant, fast_path, monkeypatch):
    """In the one who dies, and in the one who recovers."""
    with monkeypatch.context() as patch:
        mutant(patch)
        with pytest.raises(AssertionError) as found:
            StraceHarness(SCENARIOS[name], fast_path, every=1 if FULL else 3).run()
    caught("kill points", mutant.__name__, found.value)


def test_the_row_is_committed_after_the_rename(fast_path, monkeypatch):
    """By the calls themselves: the rename comes before what is written to the index's log."""

    def late(home) -> bool:
        harness = StraceHarness(SCENARIOS["acknowledge_keep"], home)
        harness.prepare()
        names = [name for name, _ in harness.calls]
        return names.index("pwrite64") < names.index("rename")

    assert not late(fast_path / "whole")
    with monkeypatch.context() as patch:
        mutants.row_before_rename(patch)
        assert late(fast_path / "mutant")
    caught("kill points", "row_before_rename", "pwrite64 before rename")
