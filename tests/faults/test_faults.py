"""The system refuses an operation: every errno, at every operation, of every transition."""

import errno

import pytest

from tests.crash.scenarios import SCENARIOS
from tests.faults.harness import MEETS, FaultHarness
from tests.helpers import SeamFiles

CODES = {errno.errorcode[code]: code for code in MEETS}
HERE = [name for name in SCENARIOS if name != "close"]
"""What a close cannot give back is reaped, counted: not as if it had not begun, nor as if it had ended."""


def test_each_operation_can_fail():
    """No operation is left out of all kinds of faults."""
    assert frozenset().union(*MEETS.values()) == SeamFiles.SINGLE


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("name", HERE)
def test_fault(name, code, lasting, fast_path):
    """A clear error, no litter, nothing lost, and it goes on when the cause is gone."""
    scenario = SCENARIOS[name]
    FaultHarness(scenario, fast_path, CODES[code], lasting=lasting).run(scenario.hows[0])
