"""The units for systemd: their commands are spoolq's, and nothing in them kills a worker before its grace."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from spoolq.cli import commands, quick
from tests.helpers import needs

CONTRIB = Path(__file__).parents[2] / "contrib"
UNITS = sorted(CONTRIB.glob("*.service"))


def read(path: Path) -> configparser.SectionProxy:
    found = configparser.RawConfigParser(strict=False)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read(path)
    return found["Service"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_units_command_is_one_of_ours(unit):
    """It is read as the command line reads it."""
    program, *words = shlex.split(read(unit)["ExecStart"])
    assert program == "/opt/spoolq/bin/spoolq"
    found = commands.find(words)
    assert found is not None
    assert quick.read(commands.load(found[0]), found[1], {}) is not None


@pytest.mark.parametrize("name", ["spoolq.service", "spoolq-work@.service", "spoolq-api.service"])
def test_term_goes_to_the_main_process_alone_and_in_time(name):
    """A worker's commands get it from the worker, when its grace is over."""
    unit = read(CONTRIB / name)
    assert unit["KillMode"] == "mixed"
    assert int(unit["TimeoutStopSec"]) > {"spoolq.service": 40, "spoolq-work@.service": 35}.get(name, 25)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_finds_nothing_wrong(unit, tmp_path):
    needs(shutil.which("systemd-analyze") is not None, "systemd-analyze")
    copy = tmp_path / unit.name.replace("@.", "@emails.")
    copy.write_text(unit.read_text().replace("/opt/spoolq/bin/spoolq", "/bin/true"))
    ran = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert [line for line in ran.stderr.splitlines() if unit.name.partition(".")[0].rstrip("@") in line] == []
    assert ran.returncode == 0, ran.stderr
