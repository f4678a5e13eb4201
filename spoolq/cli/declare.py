"""How a command says what it takes: once, for the quick reader, for typer's help and completion, and for the tests.

A command is a function with keyword-only parameters, each annotated `Annotated[type, option(...)]`. Without a default
it is required. Nothing here knows typer, which takes longer to load than most commands take to run (see quick.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Parse = Callable[[str], Any]
Run = Callable[..., int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One thing a command takes.

    kind: "rest" is everything after `--`, untouched. parse: reads one value, raising ValueError. many: a list of them.
    env: the variable that stands in for it. choices: what completion offers.
    """

    kind: Literal["flag", "option", "argument", "rest"]
    help: str
    flags: tuple[str, ...] = ()
    metavar: str = ""
    parse: Parse = str
    many: bool = False
    env: str = ""
    choices: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What people call it in an error."""
        return self.flags[0] if self.flags else self.metavar

    def read(self, given: Any) -> Any:
        """The value of what was given: True for a flag, text, or a list of text. ValueError names the parameter."""
        if self.kind in {"flag", "rest"}:
            return given
        try:
            return [self.parse(each) for each in given] if self.many else self.parse(given)
        except ValueError as error:
            raise ValueError(f"{self.label}: {error}") from error


def flag(*flags: str, help: str) -> Parameter:
    """A switch, off unless given."""
    return Parameter(kind="flag", flags=flags, help=help)


def option(
    *flags: str, help: str, metavar: str = "TEXT", parse: Parse = str, env: str = "", choices: tuple[str, ...] = ()
) -> Parameter:
    """An option with a value; given twice, the last counts."""
    return Parameter(kind="option", flags=flags, help=help, metavar=metavar, parse=parse, env=env, choices=choices)


def options(
    *flags: str, help: str, metavar: str = "TEXT", parse: Parse = str, choices: tuple[str, ...] = ()
) -> Parameter:
    """An option that may be given several times."""
    return Parameter(kind="option", many=True, flags=flags, help=help, metavar=metavar, parse=parse, choices=choices)


def argument(metavar: str, *, help: str, parse: Parse = str) -> Parameter:
    """One value by its place."""
    return Parameter(kind="argument", metavar=metavar, help=help, parse=parse)


def arguments(metavar: str, *, help: str, parse: Parse = str) -> Parameter:
    """All the remaining values."""
    return Parameter(kind="argument", many=True, metavar=metavar, help=help, parse=parse)


def rest(metavar: str, *, help: str) -> Parameter:
    """Everything after `--`."""
    return Parameter(kind="rest", many=True, metavar=metavar, help=help)


@dataclass(frozen=True, slots=True)
class Command:
    """A command: what runs, what it takes, and lines of shell that show it. Its help is the function's docstring."""

    run: Run
    examples: tuple[str, ...]
    parameters: Mapping[str, Parameter] = field(init=False)
    defaults: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        hints = {name: hint for name, hint in self.run.__annotations__.items() if name != "return"}
        object.__setattr__(self, "parameters", {name: hint.__metadata__[0] for name, hint in hints.items()})
        object.__setattr__(self, "defaults", dict(self.run.__kwdefaults__ or {}))

    def values(self, given: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
        """The arguments of `run`, from what was given by name; ValueError for one that cannot be read."""
        found = dict(self.defaults)
        for name, parameter in self.parameters.items():
            value = given.get(name)
            if value is None and parameter.env:
                value = environ.get(parameter.env) or None
            if value is not None:
                found[name] = parameter.read(value)
        return found


def command(examples: str) -> Callable[[Run], Command]:
    """Make a command of a function. examples: lines of shell."""
    lines = tuple(line.strip() for line in examples.strip().splitlines())

    def declare(run: Run) -> Command:
        return Command(run, lines)

    return declare
