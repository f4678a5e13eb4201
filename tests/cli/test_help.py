"""Help, completion, and the promise that what help shows works (docs/cli.md is run by test_docs.py)."""

from __future__ import annotations

import pytest

from spoolq.cli import commands

NAMES = [name for _, name in commands.names()]
ASKED = {
    *(
        "init",
        "put",
        "get",
        "ack",
        "requeue",
        "release",
        "extend",
        "bury",
        "work",
        "ls",
        "show",
        "search",
        "stats",
        "top",
    ),
    *("redrive", "replay", "run-now", "reprioritize", "pause", "resume", "purge", "watch", "clean", "check", "rebuild"),
}


def test_every_command_that_was_asked_for_is_there():
    assert set(NAMES) >= ASKED
    assert {name for name in NAMES if " " in name} == {
        *("dead list", "dead show", "dead reasons", "dead purge"),
        *("queues list", "queues create", "queues delete", "queues settings"),
        *("token create", "token list", "token revoke"),
        *("engine init", "engine upgrade"),
        *("console ops", "console admin"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_it_does_with_an_example(spoolq, name):
    command = commands.load(name)
    assert command.run.__doc__
    assert command.examples
    assert all("spoolq" in example for example in command.examples)
    text = " ".join(spoolq(*name.split(), "--help").text.split())
    assert text.startswith(f"Usage: spoolq {name}")
    assert "Examples:" in text
    assert command.examples[0] in text
    assert command.run.__doc__.split(".")[0].split(":")[0].replace("\n", " ") in text


@pytest.mark.parametrize("name", NAMES)
def test_json_is_everywhere(name):
    assert "as_json" in commands.load(name).parameters


@pytest.mark.parametrize("name", NAMES)
def test_what_destroys_can_be_tried_and_must_be_confirmed(name):
    destroys = name in {"purge", "rm", "dead purge", "queues delete"}
    parameters = commands.load(name).parameters
    assert ("yes" in parameters) == destroys
    if destroys:
        assert "dry_run" in parameters


def test_the_help_of_all_lists_every_command(spoolq):
    text = spoolq("--help").text
    for name in NAMES:
        assert f" {name.split()[0]} " in text


def test_version(spoolq):
    assert spoolq("--version").text.startswith("spoolq 0.")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("spoolq re", {"requeue", "release", "reprioritize", "replay", "redrive", "resume", "rebuild", "relay"}),
        ("spoolq dead ", {"list", "show", "reasons", "purge"}),
        ("spoolq ls --state d", {"done", "dead"}),
        ("spoolq put --each", {"--each-line"}),
    ],
)
def test_the_shell_completes_commands_options_and_states(spoolq, monkeypatch, words, expected):
    monkeypatch.setenv("_SPOOLQ_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    assert set(spoolq().lines) == expected
