"""The settings of the stack: where they come from, which one wins, and what is said of one that is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spoolq.errors import SettingsError
from spoolq.stack.settings import StackSettings, adopt, describe, load, variables
from tests.test_docs import DOCS

ROOT = Path(__file__).parents[2]


def test_without_anything_there_are_the_defaults(tmp_path):
    assert load({}, tmp_path) == StackSettings()


def test_a_variable_is_over_the_file_and_the_file_over_the_default(tmp_path):
    (tmp_path / "spoolq.toml").write_text('api_port = 9000\nops_port = 9001\nspool = "orders"\n')
    found = load({"SPOOLQ_OPS_PORT": "9999", "SPOOLQ_GRACE_S": "2.5"}, tmp_path)
    assert (found.api_port, found.ops_port, found.admin_port) == (9000, 9999, 8502)
    assert (found.spool, found.grace_s) == ("orders", 2.5)


def test_the_file_speaks_to_every_program_by_the_environment(tmp_path):
    """And never over what is set there."""
    (tmp_path / "spoolq.toml").write_text("api_port = 9000\nops_port = 9001\n")
    environ = {"SPOOLQ_OPS_PORT": "9999"}
    adopt(environ, tmp_path)
    assert environ == {"SPOOLQ_OPS_PORT": "9999", "SPOOLQ_API_PORT": "9000"}


def test_what_is_set_reads_back():
    wanted = StackSettings(api_port=1234, grace_s=0.5, producer_rate=3, spool="a b")
    assert load(variables(wanted), Path("/nowhere")) == wanted


@pytest.mark.parametrize(
    ("text", "environ", "words"),
    [
        ("api_port = 70000", {}, "api_port = 70000: must be a whole number from 1 to 65535"),
        ('api_port = "x"', {}, "must be a whole number"),
        ("api_port = true", {}, "must be a whole number"),
        ("api_port = 1.5", {}, "must be a whole number"),
        ("spool = 7", {}, "must be text"),
        ("port = 1", {}, "there is no such setting"),
        ("api_port = ", {}, "not TOML"),
        ('log = "loud"', {}, "must be one of debug, info, warning, error"),
        ("", {"SPOOLQ_API_PORT": "http"}, "SPOOLQ_API_PORT = 'http': must be"),
        ("", {"SPOOLQ_GRACE_S": "nan"}, "SPOOLQ_GRACE_S"),
        ("", {"SPOOLQ_CONSUMERS": "-1"}, "SPOOLQ_CONSUMERS"),
    ],
)
def test_a_wrong_one_is_named_with_where_it_was_set(tmp_path, text, environ, words):
    (tmp_path / "spoolq.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(environ, tmp_path)
    assert words in str(caught.value)
    assert bool(environ) or str(tmp_path / "spoolq.toml") in str(caught.value)


def test_a_command_in_that_directory_hears_it(tmp_path):
    """The spool of spoolq.toml is the spool of `spoolq put`."""
    (tmp_path / "spoolq.toml").write_text('spool = "orders"\n')
    argv = [sys.executable, "-m", "spoolq", "put"]
    subprocess.run(argv, cwd=tmp_path, input=b"x", check=True, env={"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert len(list((tmp_path / "orders" / "new").iterdir())) == 1


def test_the_documents_table_is_the_code():
    text = (DOCS / "operations.md").read_text()
    rows = [line for line in text.split("\n### Its settings\n")[1].split("\n## ")[0].splitlines() if "`SPOOLQ_" in line]
    shown = [row for row in rows if row.startswith("| `")]
    assert shown == [
        f"| `{each.key}` | `{each.default}` | {each.allowed} | {each.meaning} | `{each.variable}` |"
        for each in describe()
    ]
