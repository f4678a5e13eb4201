"""Reads a plain command line in a fraction of a millisecond, or not at all.

Typer takes 60 ms to load, and since 0.27 it has pydantic check each value, which takes 80 ms more; `spoolq put` has 150
for everything. So what is plainly right is read here, and anything else goes to typer (app.py), which knows the same
declarations: help, completion, every error and its words, and what is rarely written (`-yq emails`).

`read` must never accept what typer refuses, nor read it otherwise: tests/cli/test_readers.py compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spoolq.cli.declare import Command, Parameter


class _Doubt(Exception):
    """Not plainly right; somebody else shall read it."""


def read(command: Command, args: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments of the command's function; None when in doubt."""
    try:
        values = command.values(_given(command.parameters, args), environ)
    except (_Doubt, ValueError):
        return None
    return values if command.parameters.keys() <= values.keys() else None


def _given(parameters: Mapping[str, Parameter], args: Sequence[str]) -> dict[str, Any]:
    """What was given, by the name of its parameter."""
    given: dict[str, Any] = {}
    words, after = split_rest(args)
    by_flag = {flag: name for name, parameter in parameters.items() for flag in parameter.flags}
    rest = [name for name, parameter in parameters.items() if parameter.kind == "rest"]
    places = []
    tokens = iter(words)
    for token in tokens:
        if token == "-" or not token.startswith("-"):
            places.append(token)
            continue
        flag, value = _split(token)
        name = by_flag.get(flag)
        if name is None:
            raise _Doubt
        _put(given, name, parameters[name], next(tokens, None) if _wants(parameters[name], value) else value)
    if rest and after:
        given[rest[0]] = after
    elif after:
        places += after
    _place(given, [(name, each) for name, each in parameters.items() if each.kind == "argument"], places)
    return given


def split_rest(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before the first `--`, and what after it."""
    if "--" not in args:
        return list(args), []
    at = list(args).index("--")
    return list(args[:at]), list(args[at + 1 :])


def _split(token: str) -> tuple[str, str | None]:
    """An option and the value that is written into it: `--at=X`, `-qX`."""
    if token.startswith("--"):
        flag, equals, value = token.partition("=")
        return flag, value if equals else None
    if token[2:3] == "=":
        raise _Doubt
    return token[:2], token[2:] or None


def _wants(parameter: Parameter, value: str | None) -> bool:
    return parameter.kind == "option" and value is None


def _put(given: dict[str, Any], name: str, parameter: Parameter, value: str | None) -> None:
    if parameter.kind == "flag":
        if value is not None:
            raise _Doubt
        given[name] = True
    elif value is None:
        raise _Doubt
    elif parameter.many:
        given.setdefault(name, []).append(value)
    else:
        given[name] = value


def _place(given: dict[str, Any], named: Sequence[tuple[str, Parameter]], places: list[str]) -> None:
    """Give the words that are no options to the arguments in their order."""
    for name, parameter in named:
        if parameter.many:
            given.update({name: places} if places else {})
            return
        if places:
            given[name] = places[0]
            places = places[1:]
    if places:
        raise _Doubt
