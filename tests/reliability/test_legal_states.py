"""The power goes anywhere in a transition, on a file system that keeps no more than it must."""

import shutil

import pytest

from tests.crash.scenarios import SCENARIOS
from tests.reliability import mutants
from tests.reliability.figures import caught, report
from tests.reliability.legal_states import LegalStates

LEFT_OUT = ("make_queue", "make_spool", "delete_queue", "recover", "quarantine", "expire_to_nothing")
"""There directories, links and devices are made and moved; and what expired may come back without its time to live."""

NAMES = [name for name in SCENARIOS if not name.startswith(LEFT_OUT)]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_legal_states(name, fast_path):
    """Whatever no fsync has pinned down may be there or not: what had returned is."""
    run = LegalStates(SCENARIOS[name], fast_path)
    run.run()
    report("legal crash states", transition=name, places=run.places, states=run.states)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", [mutants.no_file_fsync, mutants.no_directory_fsync], ids=lambda each: each.__name__)
def test_legal_states_find(mutant, fast_path):
    def patch():
        mutant(pytest.MonkeyPatch())

    found = ""
    try:
        LegalStates(SCENARIOS["enqueue_with_metadata"], fast_path, patch=patch).run()
    except AssertionError as error:
        found = str(error) or "an assertion"
    shutil.rmtree(fast_path / "wreck", ignore_errors=True)
    assert found, f"{mutant.__name__} passed"
    caught("legal crash states", mutant.__name__, found)
