"""What is done here is written to the audit trail: who, when, what, to how many, and what came of it."""

from __future__ import annotations

import getpass
from os import environ

import streamlit as st

from spoolq import audit
from spoolq.console import guard, parts, place, words
from spoolq.errors import SpoolqError


def kept(what: str, act: parts.Act, *, queue: str = "", count: int | None = None) -> parts.Act:
    """`act`, and a line of the audit trail with its outcome, also where it is refused."""

    def done_and_kept() -> str:
        try:
            outcome = act()
        except (SpoolqError, ValueError, TypeError) as error:
            _write(what, queue, count, f"refused: {words.trouble(error)[0]}")
            raise
        return outcome + _write(what, queue, count, outcome)

    return done_and_kept


def who() -> str:
    """Whose visit this is, as far as one knows: a login, somebody with the token, or this machine's user."""
    if guard.login_is_set():
        return str(st.user.get("email") or st.user.get("name") or "logged in")
    if environ.get(guard.TOKEN_VARIABLE):
        return "console token"
    try:
        return f"{getpass.getuser()} on this machine"
    except (OSError, KeyError):
        return "somebody on this machine"


def _write(what: str, queue: str, count: int | None, outcome: str) -> str:
    """What is to be said about it: nothing, or that it could not be written. It is done all the same."""
    done = audit.Done(
        at_ms=place.now_ms(), who=who(), what=what, queue=queue, count=count, outcome=outcome, spool=place.shown()
    )
    try:
        audit.add(audit.path_for(place.spool(), environ), done)
    except SpoolqError as error:
        return f". The audit trail could not be written: {error.message}"
    return ""
