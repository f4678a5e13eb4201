"""The text of supervisord.conf. One template makes the file in the checkout and the one that `spoolq up` writes, so
that they cannot differ in anything but where the programs are: a test makes the checkout's anew and compares.
"""

from __future__ import annotations

from importlib.resources import files
from string import Template

from spoolq.stack.settings import StackSettings

MARGIN_S = 10
"""supervisord waits so much longer than the worker's grace, before it kills."""

_ABOUT_CHECKOUT = """What `make run` starts; made of spoolq/stack/supervisord.conf by `python -m spoolq.stack.conf`.
; By hand: .venv/bin/supervisord -c supervisord.conf, then .venv/bin/supervisorctl -c supervisord.conf"""
_ABOUT_INSTALLED = "Made anew by each `spoolq up`."


def checkout() -> str:
    """The file of the checkout: programs from its .venv, the spool in spool/ beside it."""
    return _filled(
        about=_ABOUT_CHECKOUT,
        spoolq='"%(here)s/.venv/bin/spoolq"',
        python='"%(here)s/.venv/bin/python"',
        environment="",
    )


def installed(python: str) -> str:
    """The file of a spool that `spoolq up` serves: programs from an installed package, run by this interpreter.

    -P: what lies in the spool must not be imported.
    """
    quoted = '"' + python.replace("%", "%%") + '" -P'
    return _filled(
        about=_ABOUT_INSTALLED, spoolq=f"{quoted} -m spoolq", python=quoted, environment='SPOOLQ_SPOOL="%(here)s",'
    )


def settings_file(settings: StackSettings) -> str:
    """What of the settings supervisord itself must know."""
    return (
        "; Written by `spoolq up` from SPOOLQ_ variables and spoolq.toml.\n"
        f"[program:consumer]\nnumprocs={settings.consumers}\nstopwaitsecs={round(settings.grace_s) + MARGIN_S}\n"
        f"[program:relay]\nautostart={'true' if settings.relay_target else 'false'}\n"
    )


def _filled(**parts: str) -> str:
    return Template(files("spoolq.stack").joinpath("supervisord.conf").read_text(encoding="utf-8")).substitute(parts)


if __name__ == "__main__":
    print(checkout(), end="")
