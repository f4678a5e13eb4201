"""The command line: `spoolq COMMAND`. DESIGN 11; every command is in docs/cli.md.

In reading order: commands.py (which there are), declare.py (how one says what it takes), quick.py and app.py (who reads
the command line), then the commands by theme. It uses queues only through `interfaces`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` unless given, and return its exit status."""
    _open_output()
    words = sys.argv[1:] if argv is None else list(argv)
    as_json = "--json" in (words[: words.index("--")] if "--" in words else words)
    status = _guarded(lambda: _run(words, as_json), as_json) or _guarded(_flush, as_json)
    if status:
        _flush_quietly()
    return status


def _guarded(act: Callable[[], int], as_json: bool) -> int:
    """Its exit status, with words on standard error where it fails in a way that was expected."""
    from spoolq.cli import failure

    try:
        return act()
    except KeyboardInterrupt:
        return failure.INTERRUPTED
    except BrokenPipeError:
        return failure.PIPE_CLOSED
    except (failure.SpoolqError, ValueError, OSError) as error:
        return failure.report(error, as_json=as_json)


def _flush() -> int:
    sys.stdout.flush()
    return 0


def _flush_quietly() -> None:
    """After a failure: what cannot be written is dropped, or Python tells of it again, its own way, when it ends."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        try:
            sys.stdout.close()
        except OSError:
            pass


def _open_output() -> None:
    """Streams that take everything: a closed one (`>&-`) goes nowhere, what a locale cannot show is spelled out."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115 for as long as Python runs
        elif stream.errors == "strict" and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="backslashreplace")


def _run(argv: Sequence[str], as_json: bool) -> int:
    from os import environ
    from os.path import exists

    from spoolq.cli import commands, logs, quick

    if exists("spoolq.toml"):
        from spoolq.stack.settings import adopt

        adopt(environ)
    logs.quiet()
    if "_SPOOLQ_COMPLETE" not in environ:
        found = commands.find(argv)
        if found:
            command = commands.load(found[0])
            values = quick.read(command, found[1], environ)
            if values is not None:
                if logs.VARIABLE in environ:
                    logs.begin("warning")
                return command.run(**values) or 0
    return _by_typer(argv, as_json)


def _by_typer(argv: Sequence[str], as_json: bool) -> int:
    from spoolq.cli import app, failure

    try:
        return app.run(argv)
    except app.UsageError as error:
        if not str(error):  # nothing was asked for, and typer has shown the help
            return failure.USAGE
        return failure.report(ValueError(str(error)), as_json=as_json, hint=f"Help: {error.command} --help")
