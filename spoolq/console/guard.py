"""Who may see anything: the name that was asked for, then a token or a login. Before a page draws, it calls `enter`.

A page of another site that made its own name lead here (DNS rebinding) has that name in Host, so only names that are
known are answered. On this machine alone no token is needed; once Streamlit listens elsewhere, nothing is shown without
one, however it was started.
"""

from __future__ import annotations

import hmac
import ipaddress
import threading
import time
from collections.abc import Mapping
from os import environ
from urllib.parse import urlsplit

import streamlit as st

from spoolq.console import words
from spoolq.stack.ports import is_loopback

TOKEN_VARIABLE = "SPOOLQ_CONSOLE_TOKEN"
HOSTS_VARIABLE = "SPOOLQ_CONSOLE_ALLOW_HOST"

_LET_IN = "console.let_in"
_WRONG_S = 0.5
"""What a wrong token costs; one at a time, whoever asks."""


def enter() -> None:
    """Stop the page here unless its visitor may see it."""
    if not host_allowed(host_header(), environ):
        _refuse(
            "This console does not answer to the name that was asked for.",
            f"Ask for localhost or the address itself, or allow the name: {HOSTS_VARIABLE}=name, then start again.",
        )
    if login_is_set():
        _log_in()
        return
    token = environ.get(TOKEN_VARIABLE, "")
    if not token and listens_beyond():
        _refuse(
            "This console is reachable from other machines, and has no token.",
            f"Set {TOKEN_VARIABLE}, or start it for this machine only: spoolq console ops.",
        )
    if token:
        _ask_token(token)


def host_header() -> str:
    """The name that the browser asked for; "" where there was none."""
    return st.context.headers.get("Host") or ""


def listens_beyond() -> bool:
    """Whether others than this machine can reach Streamlit. It listens everywhere unless told otherwise."""
    return not is_loopback(str(st.get_option("server.address") or ""))


def host_allowed(host: str, environ: Mapping[str, str]) -> bool:
    """Whether a Host header names this machine, an address, or a name that was allowed. Pure."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    if name in allowed_hosts(environ):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def allowed_hosts(environ: Mapping[str, str]) -> frozenset[str]:
    """The further names of SPOOLQ_CONSOLE_ALLOW_HOST, with commas or spaces between. Pure."""
    return frozenset(environ.get(HOSTS_VARIABLE, "").replace(",", " ").lower().split())


def same(given: str, token: str) -> bool:
    """Whether two tokens are the same, in a time that does not tell how much of them is. Pure."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode("utf-8", "surrogatepass"))


def login_is_set() -> bool:
    """Whether Streamlit's own login (`[auth]` in secrets.toml) is set up."""
    try:
        return "auth" in st.secrets
    except FileNotFoundError:
        return False


def _log_in() -> None:
    if not st.user.is_logged_in:
        st.title("spoolq")
        st.button("Log in", type="primary", on_click=st.login)
        st.stop()


def _ask_token(token: str) -> None:
    if st.session_state.get(_LET_IN):
        return
    st.title("spoolq")
    with st.form("token"):
        given = st.text_input("Token", type="password", help=f"The one of {TOKEN_VARIABLE}")
        if st.form_submit_button("Enter", type="primary"):
            if same(given, token):
                st.session_state[_LET_IN] = True
                st.rerun()
            with _one_at_a_time():
                time.sleep(_WRONG_S)
            st.error("That is not the token.")
    st.stop()


@st.cache_resource(show_spinner=False)
def _one_at_a_time() -> threading.Lock:
    return threading.Lock()


def _refuse(what: str, hint: str) -> None:
    st.error(words.label(what))
    st.text(hint)
    st.stop()
