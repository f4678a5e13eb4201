"""Suites that keep no account of their own are run on code that was broken on purpose, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.figures import FULL, caught

ROOT = Path(__file__).parents[2]
BROKEN = [
    ("index", "damage_unseen", "tests/spool/test_index.py", "at_rest or while_it_is_open"),
    ("wake-up", "nobody_is_woken", "tests/spool/test_wakeup.py", "another_process or whatever_makes"),
    ("hostile input", "links_followed", "tests/spool/test_drops_kinds.py", "link"),
    ("hostile input", "names_as_they_come", "tests/reliability/test_properties.py", "name"),
    ("fencing and clocks", "leases_by_the_wall_clock", "tests/spool/test_clocks.py", "ends_no_lease"),
    ("full and read-only disks", "no_going_on_without_an_index", "tests/faults/test_real_disks.py", "last_block"),
    ("back after a kill", "deaf_to_deaths", "tests/reliability/test_back_again.py", "back"),
    ("REST", "any_host_is_ours", "tests/web/test_hostile.py", "only_our_own_names"),
    ("REST", "acknowledge_without_a_fence", "tests/contract/test_leases.py", "http"),
    ("relay", "sent_without_a_key", "tests/test_relay.py", "lost_answer or killed_at_any_step"),
]

if FULL:
    BROKEN += [
        ("fencing and clocks", "alive_by_pid", "tests/reliability/test_boots.py", "somebody_elses"),
        ("fencing and clocks", "alive_by_pid", "tests/reliability/test_boots.py", "nobodys_here"),
        ("fencing and clocks", "any_boot_is_this_one", "tests/reliability/test_boots.py", "after_another_boot"),
        ("full and read-only disks", "no_going_on_without_an_index", "tests/reliability/test_quota.py", "small"),
    ]


@pytest.mark.timeout(150)
@pytest.mark.parametrize(("suite", "mutant", "file", "chosen"), BROKEN, ids=lambda each: each)
def test_a_suite_finds(suite, mutant, file, chosen):
    """A test fails, and it is a test that fails, not the run."""
    argv = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "tests.reliability.broken", "-p", "no:cacheprovider"]
    environ = {**os.environ, "SPOOLQ_MUTANT": mutant, "PYTHONPATH": str(ROOT)}
    environ.pop("SPOOLQ_PROOF_FIGURES", None)
    ran = subprocess.run(
        [*argv, "--timeout", "60", "-k", chosen, file],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 1, f"{mutant} passed, or nothing ran:\n{ran.stdout[-3000:]}"
    failed = [line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    assert failed
    caught(suite, mutant, failed[0].partition(" - ")[0].removeprefix("FAILED "))
