"""supervisord.conf: one text for the checkout and for an installed package, and what it promises of each program."""

from __future__ import annotations

import configparser
import inspect
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from spoolq.errors import SpoolError
from spoolq.stack import conf, place
from spoolq.stack.settings import StackSettings
from spoolq.worker import Worker

ROOT = Path(__file__).parents[2]
PROGRAMS = ["watch", "api", "consumer", "producer", "relay", "cleanup", "ops_console", "admin_console"]


def read(text: str) -> configparser.RawConfigParser:
    found = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    found.read_string(text)
    return found


def test_the_checkouts_file_is_made_of_the_packages():
    """`python -m spoolq.stack.conf > supervisord.conf` makes it."""
    assert (ROOT / "supervisord.conf").read_text() == conf.checkout()


def test_the_two_differ_only_in_where_the_programs_are():
    """And in where the spool is."""
    mine, installed = read(conf.checkout()), read(conf.installed("/venv/bin/python"))
    assert mine.sections() == installed.sections()
    differ = {
        (section, key)
        for section in mine.sections()
        for key in mine[section]
        if mine[section][key] != installed[section][key]
    }
    commands = {(f"program:{name}", "command") for name in PROGRAMS} | {("eventlistener:events", "command")}
    assert differ == commands | {("supervisord", "environment")}


def test_it_has_every_program_and_no_port_for_control():
    found = read(conf.checkout())
    assert [name.partition(":")[2] for name in found.sections() if name.startswith("program:")] == PROGRAMS
    assert "inet_http_server" not in found
    assert found["unix_http_server"]["chmod"] == "0700"
    assert "supervisor.rpcinterface_factory" in found["rpcinterface:supervisor"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_rotates_its_log_restarts_and_stops_by_term(name):
    found = read(conf.checkout())[f"program:{name}"]
    assert re.fullmatch(r"%\(here\)s/logs/\S+\.log", found["stdout_logfile"])
    assert (found["stdout_logfile_maxbytes"], found["stdout_logfile_backups"]) == ("10MB", "3")
    assert (found["redirect_stderr"], found["autorestart"], found["stopsignal"]) == ("true", "true", "TERM")
    assert int(found["startsecs"]) >= 1
    assert int(found["startretries"]) >= 3
    assert found.get("autostart", "true") == ("false" if name in {"producer", "relay"} else "true")


def test_a_worker_is_not_killed_before_its_grace_is_over():
    """Nor when the grace is set to something else."""
    grace_s = inspect.signature(Worker).parameters["grace_s"].default
    assert grace_s == StackSettings().grace_s
    assert int(read(conf.checkout())["program:consumer"]["stopwaitsecs"]) >= grace_s + 5
    other = read(conf.settings_file(StackSettings(grace_s=300, consumers=4)))["program:consumer"]
    assert (int(other["stopwaitsecs"]), other["numprocs"]) == (310, "4")


@pytest.mark.parametrize(("target", "starts"), [("", "false"), ("http://there:8000/queues/emails", "true")])
def test_the_relay_starts_where_it_has_a_target(target, starts):
    """Which the file does not name: it may have a password."""
    text = conf.settings_file(StackSettings(relay_target=target))
    assert read(text)["program:relay"]["autostart"] == starts
    assert "there" not in text


@pytest.mark.parametrize("name", ["plain", "with spaces", 'it\'s 100%; [really] "so"', "x" * 100])
def test_supervisord_reads_it_in_any_directory(tmp_path, monkeypatch, name):
    """By its own reader: commands that its split leaves whole, a socket that fits, in a path of any characters."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short := Path(os.path.realpath("/tmp")) / f"spoolq-t{os.getpid()}"))
    short.mkdir()
    try:
        spool = tmp_path / name
        spool.mkdir()
        found = place.of_spool(spool)
        found.write(StackSettings(consumers=2))
        found.local_conf.write_text("[program:api]\nautostart=false\n")
        options = ServerOptions()
        options.realize(["-c", str(found.conf)])
        assert len(os.fsencode(found.socket)) + 12 < 108
        processes = {each.name: each for group in options.process_group_configs for each in group.process_configs}
        assert {"consumer_00", "consumer_01", "events"} <= processes.keys()
        assert not processes["api"].autostart
        assert shlex.split(processes["watch"].command) == [sys.executable, "-P", "-m", "spoolq", "watch"]
        assert Path(processes["watch"].stdout_logfile).resolve() == (spool / "logs" / "watch.log").resolve()
    finally:
        for path in sorted(short.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        short.rmdir()


def test_there_may_be_no_consumer_at_all(tmp_path):
    """SPOOLQ_CONSUMERS=0: supervisord reads that, too."""
    found = place.of_spool(tmp_path)
    found.write(StackSettings(consumers=0))
    options = ServerOptions()
    options.realize(["-c", str(found.conf)])
    names = [each.name for group in options.process_group_configs for each in group.process_configs]
    assert "watch" in names
    assert not any(name.startswith("consumer") for name in names)


def test_a_directory_for_short_names_that_others_may_write_to_is_refused(tmp_path, monkeypatch):
    """Whoever could change the link would choose what is started."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / f"spoolq-{os.getuid()}").mkdir(mode=0o777)
    (tmp_path / f"spoolq-{os.getuid()}").chmod(0o777)
    with pytest.raises(SpoolError, match="not ours alone"):
        place.short_name(tmp_path / ("x" * 100))
