"""`spoolq selftest`: what is fit is called so, what is not is not, and nothing is left."""

import fcntl
import os

import pytest

from spoolq.selftest import able, storm
from spoolq.spool import mounts, recovery
from spoolq.spool.files import Files
from spoolq.spool.mounts import LACKING, NETWORK, Mount
from tests.reliability import mutants


@pytest.fixture
def place(fast_path):
    """A directory to try; nothing may be left in it."""
    yield fast_path
    assert os.listdir(fast_path) == []


def test_a_file_system_that_is_fit(spoolq, place):
    """Each ability in a line, the figures, the verdict."""
    ran = spoolq("selftest", str(place), "--seconds", "1")
    assert ran.status == 0, ran.text
    assert ran.lines[-1] == "A spool can be kept here"
    assert " 0 lost, 0 torn, 0 twice, 0 taken from the living" in ran.lines[-2]
    assert [line[:26].strip() for line in ran.lines[:3]] == ["file system", "rename", "rename without replacing"]


def test_for_machines(spoolq, place):
    ran = spoolq("selftest", str(place), "--seconds", "1", "--json")
    *found, verdict = ran.objects
    assert all(each["works"] for each in found if each["needed"])
    assert (verdict["fit"], verdict["lost"], verdict["stolen"]) == (True, 0, 0)
    assert verdict["kills"] > 0
    assert verdict["enqueued"] > 0


@pytest.mark.parametrize("kind", sorted((NETWORK | LACKING) - {"proc"}))
def test_what_is_unsafe_is_refused_with_the_reason(spoolq, place, monkeypatch, kind):
    monkeypatch.setattr(mounts, "mount_of", lambda path: Mount(kind, "1"))
    ran = spoolq("selftest", str(place), ok=False)
    assert ran.status == 1
    assert kind in ran.errors
    assert ("network file system" in ran.errors) == (kind in NETWORK)


def test_a_directory_that_is_not_there(spoolq, place):
    ran = spoolq("selftest", str(place / "missing"), ok=False)
    assert (ran.status, "Make it first" in ran.errors) == (5, True)


@pytest.mark.parametrize("seconds", ["0", "100000"])
def test_a_time_that_is_none(spoolq, place, seconds):
    assert spoolq("selftest", str(place), "--seconds", seconds, ok=False).status == 2


def test_locks_that_exclude_nobody(spoolq, place, monkeypatch):
    """Then nothing else is tried, and the verdict says what is missing."""
    monkeypatch.setattr(able.fcntl, "flock", lambda fd, how: None)
    monkeypatch.setattr(able, "_wake", lambda path: (True, ""))
    ran = spoolq("selftest", str(place), "--seconds", "1", ok=False)
    assert ran.status == 1
    assert ran.lines[-1] == "locks (flock): two have it at once. A spool cannot be kept here"
    assert callable(fcntl.flock)


def test_a_rename_that_replaces_what_is_there(spoolq, place, monkeypatch):
    monkeypatch.setattr(Files, "rename_new", Files.rename)
    ran = spoolq("selftest", str(place), "--seconds", "1", ok=False)
    assert ran.status == 1
    assert "rename without replacing" in ran.lines[-1]


def test_without_leases_it_is_fit_and_says_what_that_means(spoolq, place, monkeypatch):
    monkeypatch.setattr(able, "take_lease", lambda fd: able.Writer.UNKNOWN)
    ran = spoolq("selftest", str(place), "--seconds", "0.5")
    assert ran.status == 0
    assert "drops.settle_s" in ran.lines[-2]


def test_messages_that_are_taken_from_the_living_are_seen(spoolq, place, monkeypatch):
    """As on a system whose locks end by themselves."""
    monkeypatch.setattr(storm, "DRAIN_S", 5)
    mutants.lock_of_the_holder_ignored(monkeypatch)
    ran = spoolq("selftest", str(place), "--seconds", "2", ok=False)
    assert ran.status == 1
    assert ran.lines[-1] == "Do not keep a spool here, and please report this"
    assert callable(recovery.is_alive)
