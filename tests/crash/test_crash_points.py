"""Every transition of docs/spool-format.md, dying at each of its steps."""

import pytest

from tests.crash.harness import CrashFiles, Harness
from tests.crash.scenarios import SCENARIOS
from tests.helpers import SeamFiles
from tests.spool_format.document import tables


def test_each_transition_has_a_scenario():
    """A row that is added to the document without one fails here."""
    rows = [row[0] for row in tables(5)[0]]
    assert [row for row in rows if not any(name.startswith(row) for name in SCENARIOS)] == []


def test_the_seam_is_watched_whole():
    """A method that is added to Files without being watched fails here."""
    from spoolq.spool.files import Files

    methods = {name for name, value in vars(Files).items() if callable(value) and not name.startswith("_")}
    assert methods == SeamFiles.SINGLE | SeamFiles.COMPOSITE
    assert all(name in vars(SeamFiles) for name in SeamFiles.SINGLE)
    assert issubclass(CrashFiles, SeamFiles)


@pytest.mark.parametrize("name", SCENARIOS)
def test_dying_at_every_step(name, fast_path):
    """Killed before any operation, nothing is lost, doubled, half done or left lying about."""
    points = Harness(SCENARIOS[name], fast_path).run()
    assert points > 3


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name.startswith("acknowledge")])
def test_acknowledging_again_after_dying(name, fast_path):
    """Whoever asks again with the receipt is told the truth: accepted, it is never delivered again."""
    Harness(SCENARIOS[name], fast_path).run("retry")
