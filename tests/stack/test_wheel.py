"""The wheel: built by the setuptools that is installed, unpacked away from the checkout, and at work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from spoolq.stack import conf
from spoolq.stack.running import own_ports, running
from tests.helpers import names, needs, wait_for

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package is unpacked. Built from what git knows, as it is now."""
    at = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    known = listed.split("\0") if listed else [str(path.relative_to(ROOT)) for path in (ROOT / "spoolq").rglob("*")]
    source = at / "source"
    for name in [*known, "pyproject.toml", "README.md", "LICENSE"]:
        if (ROOT / name).is_file() and name.partition("/")[0] in {"spoolq", "pyproject.toml", "README.md", "LICENSE"}:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('../dist'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = (at / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(at / "site")
    return at / "site"


def test_it_has_all_that_is_not_python(installed):
    """Everything in the package that git knows: SQL, supervisord.conf, the consoles' files."""
    listed = subprocess.run(["git", "ls-files", "spoolq"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    known = listed.splitlines() or ["spoolq/spool/schema.sql", "spoolq/stack/supervisord.conf", "spoolq/py.typed"]
    assert [name for name in known if (ROOT / name).exists() and not (installed / name).exists()] == []
    assert not (installed / "tests").exists()


def test_all_of_it_is_what_runs_and_not_what_tests():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(everything.removeprefix("spoolq[").removesuffix("]").split(",")) == extras.keys() - {"all", "test"}


def without_network() -> tuple[str, ...]:
    """What runs a program where there is nothing but the machine itself; only root can."""
    if os.getuid() != 0:
        return ()
    needs(shutil.which("unshare") is not None and shutil.which("ip") is not None, "unshare and ip")
    return ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


def test_init_and_up_from_the_wheel(installed, tmp_path):
    """Away from the checkout, and without a network: the same programs, healthy, with logs in the spool."""
    spool = tmp_path / "orders"
    environ = own_ports() | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    where = subprocess.run(
        [sys.executable, "-c", "import spoolq; print(spoolq.__file__)"],
        cwd=tmp_path, env=os.environ | environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(installed)
    init = [sys.executable, "-m", "spoolq", "init", str(spool)]
    subprocess.run(init, cwd=tmp_path, env=os.environ | environ, check=True, capture_output=True)
    with running(spool, environ, python=(*without_network(), sys.executable)) as stack:
        states = {each.label: each.state for each in stack.programs.all()}
        assert {states.pop("producer"), states.pop("relay")} == {"STOPPED"}
        assert set(states.values()) == {"RUNNING"}
        assert len(states) == 7
        shutil.copy(ROOT / "LICENSE", spool / "new")
        wait_for(lambda: len(names(spool, "done")) == 1)
        spoolq = [sys.executable, "-m", "spoolq"]

        def told(*words: str) -> str:
            return subprocess.check_output([*spoolq, *words], cwd=tmp_path, env=os.environ | environ, text=True)

        shown = map(json.loads, told("programs", "--json", "--spool", str(spool)).splitlines())
        assert {each["label"]: each["state"] for each in shown}["api"] == "RUNNING"
        assert "cleanup: started" in told("programs", "--spool", str(spool), "--", "restart", "cleanup")
        assert told("down", str(spool)) == "stopped\n"
        assert stack.process.wait(timeout=30) == 0
        assert told("down", str(spool)) == "nothing runs\n"
    assert (spool / "supervisord.conf").read_text() == conf.installed(sys.executable)
    assert {"api.log", "events.log", "supervisord.log", "watch.log"} <= {
        path.name for path in (spool / "logs").iterdir()
    }
