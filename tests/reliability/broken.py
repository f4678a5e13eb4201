"""A pytest plugin that breaks spoolq as `SPOOLQ_MUTANT` says, before anything is run: for test_suites_can_fail.py."""

from __future__ import annotations

import os

import pytest

from tests.reliability import mutants


def pytest_configure(config: pytest.Config) -> None:
    """Break it, for as long as this process lives."""
    getattr(mutants, os.environ["SPOOLQ_MUTANT"])(pytest.MonkeyPatch())
