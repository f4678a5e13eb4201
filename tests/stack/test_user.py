"""A user that supervisord.local.conf names: whoever starts the stack as root, everything in it is that user's."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys

import pytest

from spoolq import open_queue
from spoolq.stack.running import own_ports, running
from tests.helpers import needs
from tests.stack.helpers import OFF, unprivileged


@pytest.mark.slow
def test_root_becomes_the_user_of_the_local_file():
    """Supervisord, its programs, the logs: all of them."""
    needs(os.getuid() == 0, "root")
    with unprivileged() as person:
        needs(person.uid != 0, "setpriv, and a checkout and a Python that another user may read")
        spool = person.room / "spool"
        open_queue(spool).close()
        user = pwd.getpwuid(person.uid)
        (spool / "supervisord.local.conf").write_text(f"{OFF}[supervisord]\nuser={user.pw_name}\n")
        for path in [spool, *spool.rglob("*")]:
            os.chown(path, person.uid, user.pw_gid)
        with running(spool, person.environ | own_ports(), python=(person.python[-1],)) as stack:
            pids = [each.pid for each in stack.programs.all() if each.pid]
            assert len(pids) == 3
            assert {os.stat(f"/proc/{pid}").st_uid for pid in [*pids, stack.programs.pid()]} == {person.uid}
            assert stack.stop() == 0
        assert {path.stat().st_uid for path in spool.rglob("*")} == {person.uid}


def test_a_user_that_is_not_there_is_named(tmp_path):
    needs(os.getuid() == 0, "root")
    spool = tmp_path / "spool"
    open_queue(spool).close()
    (spool / "supervisord.local.conf").write_text("[supervisord]\nuser=nobody-like-that\n")
    argv = [sys.executable, "-m", "spoolq", "up", str(spool)]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert ran.returncode == 2
    assert "user = nobody-like-that: there is no such user" in ran.stderr


def test_a_server_has_no_stack_here():
    argv = [sys.executable, "-m", "spoolq", "up", "http://127.0.0.1:8000"]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert ran.returncode == 2
    assert "is a server's address" in ran.stderr
