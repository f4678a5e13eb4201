"""The power goes anywhere in a transition, on a file system that keeps no more than it must."""

import shutil
from dataclasses import replace

import pytest

from tests.crash.scenarios import SCENARIOS
from tests.reliability import mutants
from tests.reliability.figures import caught, report
from tests.reliability.legal_states import LegalStates

LEFT_OUT = ("recover_twins_by_check",)
"""There directories are made and moved; and which of two copies keeps the id is for the index to say, which is gone."""

NAMES = [name for name in SCENARIOS if not name.startswith(LEFT_OUT)]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_legal_states(name, fast_path):
    """Whatever no fsync has pinned down may be there or not: what had returned is."""
    run = LegalStates(SCENARIOS[name], fast_path)
    run.run()
    report("legal crash states", transition=name, places=run.places, states=run.states)


@pytest.mark.parametrize("durability", ["power", "full"])
def test_what_expired_is_met_by_a_dequeue(fast_path, durability):
    """As by maintenance, which was there just before: it does not come back without its time to live."""

    def prepare(world):
        world.queue.enqueue(b"first", ttl_s=60)

    def act(world):
        queue = world.queue
        queue.maintain()
        world.clock.advance(0.7)
        world.arm()
        assert queue.dequeue() is None
        world.ended(b"first")

    known = SCENARIOS["expire_to_nothing"]
    settings = replace(known.settings, durability=durability)
    scenario = replace(known, settings=settings, prepare=prepare, act=act, later_s=59.5)
    assert LegalStates(scenario, fast_path).run() > 3


FOUND = [
    (mutants.no_file_fsync, "enqueue_with_metadata"),
    (mutants.no_directory_fsync, "enqueue_with_metadata"),
    # Here it is only who was told that it is done that can tell.
    (mutants.no_directory_fsync, "acknowledge_keep"),
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("mutant", "name"), FOUND, ids=lambda each: getattr(each, "__name__", each))
def test_legal_states_find(mutant, name, fast_path):
    def patch():
        mutant(pytest.MonkeyPatch())

    found = ""
    try:
        LegalStates(SCENARIOS[name], fast_path, patch=patch).run()
    except AssertionError as error:
        found = str(error) or "an assertion"
    shutil.rmtree(fast_path / "wreck", ignore_errors=True)
    assert found, f"{mutant.__name__} passed"
    caught("legal crash states", mutant.__name__, found)
