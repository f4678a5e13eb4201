"""`spoolq up` itself: told to stop before all is healthy, started twice, and a worker whose grace is over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from spoolq import open_queue
from spoolq.stack.running import own_ports, running
from tests.helpers import wait_for
from tests.stack.helpers import OFF, descendants

UP = [sys.executable, "-m", "spoolq", "up"]


def test_term_while_it_starts_ends_it_without_a_complaint(tmp_path):
    """Nothing is left, and it is no failure to stop what was told to."""
    spool = tmp_path / "spool"
    open_queue(spool).close()
    # The API never gets healthy: it is something else.
    (spool / "supervisord.local.conf").write_text(OFF.replace("[program:api]\nautostart=false\n", "") + SLEEPER)
    before = descendants(os.getpid())  # what other tests left is not ours to judge
    with subprocess.Popen(
        [*UP, str(spool)], env=os.environ | own_ports(), stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for((spool / "logs" / "events.log").exists)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "not healthy" not in said
    wait_for(lambda: descendants(os.getpid()) <= before)


SLEEPER = "[program:api]\ncommand=sleep 1000\n"


def test_the_second_one_says_that_there_is_a_first(tmp_path):
    """By its pid; and `--json` says what people are told, for machines."""
    spool = tmp_path / "spool"
    open_queue(spool).close()
    (spool / "supervisord.local.conf").write_text(OFF)
    environ = own_ports()
    with running(spool, environ) as stack:
        ran = subprocess.run(
            [*UP, str(spool), "--json"], env=os.environ | environ, capture_output=True, text=True, check=False
        )
        error = json.loads(ran.stderr.splitlines()[-1])
        assert (ran.returncode, error["error"]) == (1, "AlreadyRunning")
        assert f"pid {stack.programs.pid()}" in error["message"]
        assert stack.process.poll() is None
