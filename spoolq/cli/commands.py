"""Which commands there are, by theme, and where each lives. Loads one module for one command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module

from spoolq.cli.declare import Command

THEMES: dict[str, dict[str, str]] = {
    "Produce": {"put": "produce:put"},
    "Consume": {
        "get": "consume:get",
        "ack": "settle:ack",
        "requeue": "settle:requeue",
        "release": "settle:release",
        "extend": "settle:extend",
        "bury": "settle:bury",
        "work": "consume:work",
    },
    "Look": {
        "ls": "look:ls",
        "show": "look:show",
        "search": "look:search",
        "stats": "stats:stats",
        "top": "top:top",
    },
    "Change": {
        "run-now": "change:run_now",
        "reprioritize": "change:reprioritize",
        "replay": "change:replay",
        "redrive": "dead:redrive",
        "rm": "change:rm",
        "purge": "change:purge",
        "pause": "change:pause",
        "resume": "change:resume",
    },
    "Dead letters": {
        "dead list": "dead:ls",
        "dead show": "dead:show",
        "dead reasons": "dead:reasons",
        "dead purge": "dead:purge",
    },
    "Queues": {
        "queues list": "queues:ls",
        "queues create": "queues:create",
        "queues delete": "queues:delete",
        "queues settings": "queues:settings",
    },
    "Serve": {
        "up": "up:up",
        "down": "up:down",
        "programs": "up:programs",
        "serve": "serve:serve",
        "console ops": "console:ops",
        "console admin": "console:admin",
        "token create": "token:create",
        "token list": "token:ls",
        "token revoke": "token:revoke",
    },
    "Keep": {
        "init": "keep:init",
        "watch": "watch:watch",
        "clean": "keep:clean",
        "check": "keep:check",
        "rebuild": "keep:rebuild",
        "selftest": "selftest:selftest",
        "relay": "relay:relay",
        "engine init": "engine:init",
        "engine upgrade": "engine:upgrade",
    },
}
GROUPS = {
    "dead": "Dead letters: look at them, delete them.",
    "queues": "Queues: list, make, delete, set.",
    "engine": "A database to keep queues in: make it ready, upgrade it.",
    "console": "The consoles in the browser: one to work with messages, one to look after queues.",
    "token": "Tokens for the REST API: make, list, revoke.",
}

_HOMES = {name: home for commands in THEMES.values() for name, home in commands.items()}


def find(argv: Sequence[str]) -> tuple[str, Sequence[str]] | None:
    """The name of the command that a command line names, and what follows it; None when it names none."""
    words = 2 if argv[:1] and argv[0] in GROUPS else 1
    name = " ".join(argv[:words])
    return (name, argv[words:]) if name in _HOMES else None


def load(name: str) -> Command:
    """The command of this name."""
    module, _, attribute = _HOMES[name].partition(":")
    found = getattr(import_module(f"spoolq.cli.{module}"), attribute)
    if not isinstance(found, Command):
        raise TypeError(f"{_HOMES[name]} is no command")
    return found


def names() -> Iterator[tuple[str, str]]:
    """Theme and name of each command, in the order of the help."""
    for theme, names in THEMES.items():
        for name in names:
            yield theme, name
