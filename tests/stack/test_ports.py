"""A port that is taken is said in words, with the setting that changes it, before anything starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from spoolq.stack import ports
from spoolq.stack.running import free_ports, own_ports
from tests.stack.helpers import descendants


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as held:
        yield held.getsockname()[1]


def test_a_free_port_is_free_and_stays_so():
    (port,) = free_ports(1)
    for _ in range(2):
        ports.check_free("127.0.0.1", port, "SPOOLQ_API_PORT")
    socket.create_server(("127.0.0.1", port)).close()


def test_a_taken_one_names_who_has_it_and_the_setting(taken):
    with pytest.raises(ports.PortTaken) as caught:
        ports.check_free("127.0.0.1", taken, "SPOOLQ_API_PORT")
    assert f"port {taken} on 127.0.0.1 is taken by" in str(caught.value)
    assert f"(pid {os.getpid()})" in str(caught.value)
    assert "Set SPOOLQ_API_PORT" in str(caught.value)


def test_a_port_taken_on_one_address_cannot_be_had_on_all(taken):
    with pytest.raises(ports.PortTaken):
        ports.check_free("0.0.0.0", taken, "SPOOLQ_API_PORT")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_ours_is_refused(host):
    with pytest.raises(ports.PortTaken):
        ports.check_free(host, 8000, "SPOOLQ_API_PORT")


def test_serve_says_so(taken, tmp_path):
    argv = [sys.executable, "-m", "spoolq", "serve", "--spool", str(tmp_path / "spool"), "--port", str(taken)]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert ran.returncode == 1
    assert f"port {taken} on 127.0.0.1 is taken" in ran.stderr
    assert "--port" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("variable", ["SPOOLQ_API_PORT", "SPOOLQ_OPS_PORT", "SPOOLQ_ADMIN_PORT"])
def test_up_says_so_and_starts_nothing(taken, tmp_path, variable):
    spool = tmp_path / "spool"
    environ = os.environ | own_ports() | {variable: str(taken)}
    argv = [sys.executable, "-m", "spoolq", "up", str(spool)]
    before = descendants(os.getpid())  # what other tests left is not ours to judge
    ran = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False, timeout=30)
    assert ran.returncode == 1
    assert f"port {taken} on 127.0.0.1 is taken" in ran.stderr
    assert f"Set {variable}" in ran.stderr
    assert not (spool / "logs" / "supervisord.log").exists()
    assert descendants(os.getpid()) <= before
