"""The typer application: help, completion, and every command line that the quick reader left.

Made of the declarations, so it takes what quick.py takes. Slow to load (see there), and loaded only when needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from inspect import Parameter as Place
from inspect import Signature, cleandoc
from os import environ
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from spoolq import __version__
from spoolq.cli import commands
from spoolq.cli.declare import Command, Parameter
from spoolq.cli.quick import split_rest

COMPLETING = "_SPOOLQ_COMPLETE"
"""The variable by which a shell's completion asks."""

_ABOUT = "A persistent message queue whose messages are plain files."
_HELP_FLAGS = {"help_option_names": ["--help", "-h"]}
_TAKES_REST = "takes_rest"
_REST = "spoolq.rest"


class UsageError(Exception):
    """The command line is not right. `command` is how far it was understood: "spoolq put"."""

    def __init__(self, message: str, command: str) -> None:
        super().__init__(message)
        self.command = command


def run(argv: Sequence[str]) -> int:
    """Run a command line; returns the exit status. UsageError when it is not right."""
    found = None if COMPLETING in environ else commands.find(argv)
    name, args = found or ("", argv)
    try:
        app = get_command(alone(name, commands.load(name)) if name else build())
        status = app(list(args), prog_name=f"spoolq {name}".rstrip(), standalone_mode=False)
    except typer.Abort:
        return 1
    except SystemExit as ended:  # completion leaves so
        return ended.code if isinstance(ended.code, int) else 0
    except Exception as error:
        # Typer's own errors have no public base class that every version has; they know how to say themselves.
        say = getattr(error, "format_message", None)
        if say is None:
            raise
        context = getattr(error, "ctx", None)
        raise UsageError(say(), context.command_path if context else "spoolq") from error
    return status if isinstance(status, int) else 0


def build() -> typer.Typer:
    """The application, with every command."""
    app = _group(_ABOUT, add_completion=True)
    app.callback()(_root)
    groups = {name: _group(about) for name, about in commands.GROUPS.items()}
    for theme, name in commands.names():
        group, _, leaf = name.rpartition(" ")
        _add(groups.get(group, app), leaf, commands.load(name), theme=None if group else theme)
    for name, group_app in groups.items():
        app.add_typer(group_app, name=name, rich_help_panel="Look")
    return app


def alone(name: str, command: Command) -> typer.Typer:
    """One command as an application: its help is there in half the time, since nothing of the others is loaded."""
    app = _group("")
    _add(app, name, command, theme=None)
    return app


def _group(about: str, *, add_completion: bool = False) -> typer.Typer:
    return typer.Typer(
        help=about,
        no_args_is_help=True,
        context_settings=_HELP_FLAGS,
        add_completion=add_completion,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"spoolq {__version__}\n")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar=" ", callback=_show_version, is_eager=True, help="Show the version and leave."
        ),
    ] = False,
) -> None:
    """What stands before the command."""


class _Leaf(TyperCommand):
    """A command; what stands after `--` is kept from typer where the command wants it untouched."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if getattr(self.callback, _TAKES_REST, False):
            args, ctx.meta[_REST] = split_rest(args)
        return super().parse_args(ctx, args)


def _add(app: typer.Typer, name: str, command: Command, *, theme: str | None) -> None:
    app.command(
        name,
        cls=_Leaf,
        help=_escaped(_unwrapped(command.run.__doc__ or "")),
        epilog=_escaped("\n\n".join(("Examples:", *command.examples))),
        context_settings=_HELP_FLAGS,
        rich_help_panel=theme,
    )(_callback(command))


def _callback(command: Command) -> Callable[..., Any]:
    """A function with the signature that typer reads, which runs the command."""
    rest = [name for name, parameter in command.parameters.items() if parameter.kind == "rest"]

    def run(ctx: typer.Context, **given: Any) -> int | None:
        given |= {name: ctx.meta.get(_REST) or None for name in rest}
        try:
            values = command.values({name: value for name, value in given.items() if value not in (False, [])}, environ)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx) from error
        return command.run(**values)

    places = [Place("ctx", Place.KEYWORD_ONLY, annotation=typer.Context)]
    places += [_place(name, command) for name in command.parameters if name not in rest]
    run.__signature__ = Signature(places)  # type: ignore[attr-defined]
    run.__annotations__ = {}
    setattr(run, _TAKES_REST, bool(rest))
    return run


def _place(name: str, command: Command) -> Place:
    """A parameter for typer, to which everything is text: the declaration's own reader makes values of it."""
    parameter = command.parameters[name]
    required = name not in command.defaults
    default = Place.empty if required else _default(command.defaults[name])
    return Place(name, Place.KEYWORD_ONLY, default=default, annotation=_annotation(parameter, required=required))


def _default(value: Any) -> Any:
    """What typer takes, and shows in its help, for a value that was not given."""
    if value is False or value is None:
        return value
    return [str(each) for each in value] or None if isinstance(value, list) else str(value)


def _annotation(parameter: Parameter, *, required: bool) -> Any:
    help = _escaped(parameter.help)
    if parameter.kind == "flag":
        return Annotated[bool, typer.Option(*parameter.flags, help=help, metavar=" ")]
    text: Any = list[str] if parameter.many else str
    text = text if required else text | None
    if parameter.kind == "argument":
        return Annotated[text, typer.Argument(help=help, metavar=parameter.metavar, show_default=False)]
    return Annotated[
        text,
        typer.Option(
            *parameter.flags,
            help=help,
            metavar=parameter.metavar,
            envvar=parameter.env or None,
            autocompletion=_completion(parameter) if parameter.choices else None,
        ),
    ]


def _completion(parameter: Parameter) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [choice for choice in parameter.choices if choice.startswith(incomplete)]

    return complete


def _unwrapped(text: str) -> str:
    """A docstring without its line breaks, so that the terminal's width makes them."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in cleandoc(text).split("\n\n"))


def _escaped(text: str) -> str:
    """Text that rich shows as it is."""
    return text.replace("[", "\\[")
