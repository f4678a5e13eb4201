"""What `spoolq console` says before it becomes Streamlit."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from spoolq.cli import serve
from spoolq.console import guard, launch, place
from spoolq.errors import NotAllowed, NotCapable, QueueNotFound, SpoolqError
from spoolq.queue import create_queue, delete_queue
from spoolq.stack.ports import is_loopback
from spoolq.stack.settings import StackSettings


def test_without_streamlit_it_says_how_to_get_it(monkeypatch, spool):
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    with pytest.raises(NotCapable, match=r"pip install 'spoolq\[console\]'"):
        launch.launch("ops", spool=str(spool), host="127.0.0.1", port=8501, max_upload_mb=1)
    assert not spool.exists()


@pytest.mark.parametrize(("kind", "setting"), [("ops", "SPOOLQ_OPS_PORT"), ("admin", "SPOOLQ_ADMIN_PORT")])
def test_a_port_that_is_taken_is_named_with_its_setting(spool, kind, setting):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SpoolqError, match=f"port {port} on 127.0.0.1 is taken") as refused:
            launch.launch(kind, spool=str(spool), host="127.0.0.1", port=port, max_upload_mb=1)
    assert setting in (refused.value.hint or "")
    assert not spool.exists()


def test_an_address_that_is_not_here_is_said(spool, monkeypatch):
    monkeypatch.setenv(guard.TOKEN_VARIABLE, "x")
    with pytest.raises(SpoolqError, match=r"192\.0\.2\.1:8501"):
        launch.launch("ops", spool=str(spool), host="192.0.2.1", port=8501, max_upload_mb=1)


def test_beyond_this_machine_it_wants_a_token():
    with pytest.raises(NotAllowed, match="SPOOLQ_CONSOLE_TOKEN"):
        launch.check_reach("0.0.0.0", {})
    launch.check_reach("0.0.0.0", {guard.TOKEN_VARIABLE: "x"})
    launch.check_reach("127.0.0.1", {})


@pytest.mark.parametrize(
    "host", [launch.DEFAULT_HOST, serve.DEFAULT_HOST, StackSettings().api_host, StackSettings().console_host]
)
def test_unless_told_otherwise_it_is_for_this_machine(host):
    assert is_loopback(host)


@pytest.mark.parametrize("kind", ["ops", "admin"])
def test_the_page_is_in_the_package(kind):
    line = launch.command(kind, host="127.0.0.1", port=1)
    page = Path(line[4])
    assert page.is_file()
    assert page.is_relative_to(str(resources.files("spoolq")))
    options = dict(zip(line[5::2], line[6::2], strict=True))
    assert options["--server.address"] == "127.0.0.1"
    assert options["--browser.gatherUsageStats"] == "false"
    # Whatever a user's own config.toml says: no page of another site may post, or open a web socket.
    assert options["--server.enableXsrfProtection"] == options["--server.enableCORS"] == "true"
    assert options["--client.showErrorDetails"] == "none"
    # Else a click in a dialog that was asked for before the page was whole is lost, and so is every one after it.
    assert options["--runner.fastReruns"] == "false"


def test_the_command_line_says_what_is_wrong(spool):
    """The whole way: a status, a sentence, no traceback."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SPOOLQ_")}
    line = [sys.executable, "-m", "spoolq", "console", "ops", "--spool", str(spool), "--host", "0.0.0.0"]
    ran = subprocess.run(line, env=clean, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 1
    assert "no token is set" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_address_of_a_server_is_shown_without_its_token(monkeypatch):
    monkeypatch.setenv("SPOOLQ_SPOOL", "http://host:8000/x?token=secret")
    assert place.shown() == "http://host:8000/x"
    assert place.is_server()


# Open queues -------------------------------------------------------------------------


def test_a_queue_is_opened_once_and_the_least_used_is_closed(here):
    opened = place.OpenQueues(most=2)
    for name in ("a", "b"):
        create_queue(here, name).close()
    a = opened.get(str(here), "a")
    b = opened.get(str(here), "b")
    assert opened.get(str(here), "a") is a
    opened.get(str(here), "default")
    assert opened.get(str(here), "a") is a
    with pytest.raises(ValueError, match="closed"):
        b.stats()
    opened.close()


def test_a_queue_that_was_deleted_and_made_again_is_opened_again(here):
    create_queue(here, "again").close()
    first = place.queue("again")
    delete_queue(here, "again")
    with pytest.raises(QueueNotFound):
        place.queue("again")
    create_queue(here, "again").close()
    second = place.queue("again")
    assert second is not first
    assert second.stats().ready == 0


def test_a_name_that_no_queue_has_is_an_error_in_words(here):
    with pytest.raises(QueueNotFound, match="no queue is called"):
        place.queue("../etc")
