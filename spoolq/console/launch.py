"""Starts a console: Streamlit takes the place of this process, so that whoever supervises it stops that.

Everything that could keep it from starting is looked at before, and said in words.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.resources import files
from importlib.util import find_spec
from typing import Literal

from spoolq.errors import NotAllowed, NotCapable
from spoolq.queue import is_url, open_queue
from spoolq.stack.ports import check_free, is_loopback

Kind = Literal["ops", "admin"]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORTS: Mapping[Kind, int] = {"ops": 8501, "admin": 8502}
DEFAULT_UPLOAD_MB = 200

_COLORS = {
    "light": {"primaryColor": "#0b6e69", "secondaryBackgroundColor": "#f1f5f4", "borderColor": "#d5dedc"},
    "dark": {"primaryColor": "#3fb8ae", "secondaryBackgroundColor": "#1b2423", "borderColor": "#33403e"},
}


def launch(kind: Kind, *, spool: str, host: str, port: int, max_upload_mb: int) -> None:
    """Become Streamlit, showing this console of `spool` on `host` and `port`. Returns only by raising.

    NotCapable where Streamlit is not installed, NotAllowed where other machines could see it without a token,
    PortTaken where the port is, and what `open_queue` raises.
    """
    if find_spec("streamlit") is None:
        hint = "Install it with: pip install 'spoolq[console]'"
        raise NotCapable("streamlit is not installed", op="console", hint=hint)
    check_reach(host, os.environ)
    check_free(host, port, f"SPOOLQ_{kind.upper()}_PORT, or --port,")
    if not is_url(spool):
        open_queue(spool).close()  # make the spool, or say at once why it cannot be used
        spool = os.path.abspath(spool)
    os.environ["SPOOLQ_SPOOL"] = spool
    line = command(kind, host=host, port=port, max_upload_mb=max_upload_mb)
    sys.stdout.flush()
    os.execv(line[0], line)


def command(kind: Kind, *, host: str, port: int, max_upload_mb: int = DEFAULT_UPLOAD_MB) -> list[str]:
    """The command line of Streamlit. What a user's own config.toml says of address and statistics does not count."""
    options = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "server.maxUploadSize": max_upload_mb,
        "server.enableXsrfProtection": "true",
        "server.enableCORS": "true",
        # Fast ones run beside the run that they replace, whose end then forgets the dialog that the new one has opened:
        # it stays, and none of its buttons does anything.
        "runner.fastReruns": "false",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "viewer",
        "client.showErrorDetails": "none",
        "theme.baseRadius": "small",
        "theme.paddingTop": "1rem",
        "theme.metricValueFontSize": "1.25rem",
    }
    options |= {f"theme.{base}.{key}": color for base, colors in _COLORS.items() for key, color in colors.items()}
    page = str(files("spoolq.console") / "start" / f"{kind}.py")
    flags = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return [sys.executable, "-m", "streamlit", "run", page, *flags]


def check_reach(host: str, environ: Mapping[str, str]) -> None:
    """NotAllowed where other machines could see the console, and no token keeps them out."""
    from spoolq.console import guard

    if not is_loopback(host) and not environ.get(guard.TOKEN_VARIABLE):
        raise NotAllowed(
            f"{host} can be reached from other machines, and no token is set",
            op="console",
            hint=f"Set {guard.TOKEN_VARIABLE}, or leave out --host",
        )
