"""What an ending means for the message, as a table."""

import signal

import pytest

from spoolq.worker.outcome import Decision, Ending, decide, reason

TERM = signal.SIGTERM
KILL = signal.SIGKILL


@pytest.mark.parametrize(
    ("status", "action", "exit_code"),
    [
        (0, "acknowledge", 0),
        (1, "requeue", 0),
        (2, "requeue", 0),
        (64, "requeue", 0),
        (65, "dead", 0),
        (66, "requeue", 0),
        (75, "requeue", 0),
        (77, "dead", 0),
        (78, "requeue", 0),
        (99, "requeue", 0),
        (100, "dead", 0),
        (111, "requeue", 0),
        (124, "requeue", 0),
        (126, "release", 78),
        (127, "release", 78),
        (143, "requeue", 0),
        (255, "requeue", 0),
        (None, "requeue", 0),
    ],
)
def test_exit_status_of_a_command_that_ended_by_itself(status, action, exit_code):
    decision = decide(Ending(exit_status=status), stopping=False)
    assert (decision.action, decision.exit_code, decision.exit_status) == (action, exit_code, status)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, 34])
def test_a_signal_requeues(number):
    decision = decide(Ending(signal=number), stopping=False)
    assert (decision.action, decision.signal) == ("requeue", number)


@pytest.mark.parametrize(
    ("ending", "action"),
    [
        (Ending(signal=TERM), "release"),
        (Ending(signal=signal.SIGINT), "release"),
        (Ending(exit_status=143), "release"),
        (Ending(exit_status=130), "release"),
        (Ending(signal=KILL), "requeue"),
        (Ending(signal=signal.SIGSEGV), "requeue"),
        (Ending(exit_status=1), "requeue"),
        (Ending(exit_status=0), "acknowledge"),
        (Ending(exit_status=65), "dead"),
    ],
)
def test_a_command_stopped_together_with_its_worker_is_not_counted(ending, action):
    """Systemd sends TERM to every process of a service: that is no failure of the message."""
    assert decide(ending, stopping=True).action == action


@pytest.mark.parametrize(
    ("ending", "action"),
    [
        (Ending(signal=TERM, cause="timeout"), "requeue"),
        (Ending(exit_status=0, cause="timeout"), "requeue"),
        (Ending(exit_status=127, cause="timeout"), "requeue"),
        (Ending(signal=TERM, cause="stop"), "release"),
        (Ending(exit_status=0, cause="stop"), "release"),
        (Ending(exit_status=65, cause="stop"), "release"),
        (Ending(exit_status=0, cause="lease"), "none"),
        (Ending(signal=KILL, cause="lease"), "none"),
    ],
)
@pytest.mark.parametrize("stopping", [False, True])
def test_a_command_ended_by_its_worker(ending, action, stopping):
    """Its exit status says nothing then: many commands exit 0 on a TERM."""
    decision = decide(ending, stopping=stopping)
    assert (decision.action, decision.exit_code) == (action, 0)


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (Ending(exit_status=1), "exit status 1"),
        (Ending(exit_status=75), "exit status 75 (try again)"),
        (Ending(exit_status=65), "exit status 65 (give up)"),
        (Ending(exit_status=127), "exit status 127 (not found)"),
        (Ending(), "exit status unknown"),
        (Ending(signal=KILL), "killed by SIGKILL"),
        (Ending(signal=40), "killed by signal 40"),
        (Ending(cause="timeout", limit_s=2.5, signal=KILL, duration_s=3.17), "timed out after 2.5 s"),
    ],
)
def test_reasons_are_the_same_for_the_same_kind_of_failure(ending, words):
    assert reason(ending) == words


def test_what_is_known_goes_into_the_decision():
    ending = Ending(exit_status=3, stderr="no such column", duration_s=1)
    assert decide(ending, stopping=False) == Decision(
        action="requeue", reason="exit status 3", exit_status=3, stderr="no such column"
    )
    assert decide(Ending(exit_status=0), stopping=False).reason == ""
