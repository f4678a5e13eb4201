"""Send text, JSON or files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import streamlit as st

from spoolq.cli.values import duration
from spoolq.console import parts, words
from spoolq.interfaces import Queue
from spoolq.models import DEFAULT_PRIORITY

What = Literal["Text", "JSON", "Files"]

_SENT = "send.sent"
"""How many were sent: a part of the body's key, so that it is empty for the next one, and the options stay."""


def page() -> None:
    """Draw it."""
    parts.frame("Send", _draw)


def _draw(queue: Queue) -> None:
    whats: tuple[What, ...] = ("Text", "JSON", "Files")
    what = st.segmented_control("What", whats, default="Text", required=True, key="send-what")
    sent = st.session_state.setdefault(_SENT, 0)
    with st.form("send", border=True):
        body = _body(what, sent)
        given = _options(what)
        asked = st.form_submit_button("Send", type="primary", icon=":material/send:")
        if asked and parts.attempt(lambda: _send(queue, what, body, options(given))):
            st.session_state[_SENT] = sent + 1
            st.rerun()


def _body(what: What, sent: int) -> Any:
    if what == "Files":
        return st.file_uploader("Files, dragged here or chosen", accept_multiple_files=True, key=f"send-files-{sent}")
    return st.text_area(what, height=160, key=f"send-{what}-{sent}")


def _options(what: What) -> dict[str, Any]:
    given: dict[str, Any] = {}
    with st.container(horizontal=True):
        if what != "Files":
            given["name"] = st.text_input("Name", key="send-name", placeholder="report.csv", width=200)
        given["priority"] = st.number_input("Priority, 9 first", 0, 9, DEFAULT_PRIORITY, key="send-priority", width=140)
        given["delay"] = st.text_input("Delay", key="send-delay", placeholder="none; 10m, 2h", width=140)
        given["ttl"] = st.text_input("Time to live", key="send-ttl", placeholder="the queue's; 1d", width=140)
        given["group"] = st.text_input("Group", key="send-group", placeholder="one at a time", width=160)
    with st.expander("Headers"):
        given["headers"] = st.text_area("One a line, name: value", key="send-headers", height=100)
    return given


def options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `enqueue`, from what stands in the fields; ValueError says which is not right. Pure."""
    made: dict[str, Any] = {"priority": int(given["priority"])}
    for field, argument in (("delay", "delay_s"), ("ttl", "ttl_s")):
        if given[field].strip():
            try:
                made[argument] = duration(given[field].strip())
            except ValueError as error:
                raise ValueError(f"{field}: {error}") from error
    for field in ("name", "group"):
        if given.get(field, "").strip():
            made[field] = given[field].strip()
    made["headers"] = headers(given["headers"])
    return made


def headers(text: str) -> dict[str, str]:
    """The headers of lines `name: value`. Pure."""
    found = {}
    for number, each in enumerate(text.splitlines(), 1):
        name, colon, value = each.partition(":")
        if each.strip() and not (colon and name.strip()):
            raise ValueError(f"headers, line {number}: must be name: value, not {each!r}")
        if each.strip():
            found[name.strip()] = value.strip()
    return found


def check_json(text: str) -> None:
    """ValueError, with the place, for what is no JSON. Pure."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"this is no JSON: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError("this JSON is nested too deeply") from error


def _send(queue: Queue, what: What, body: Any, given: dict[str, Any]) -> str:
    if what == "Files":
        return _send_files(queue, body or [], given)
    if what == "JSON":
        check_json(body)
    kind = "application/json" if what == "JSON" else "text/plain; charset=utf-8"
    id = queue.enqueue(body.encode("utf-8", "surrogatepass"), content_type=kind, **given)
    return f"Sent: {id}"


def _send_files(queue: Queue, files: list[Any], given: dict[str, Any]) -> str:
    if not files:
        raise ValueError("there is no file yet: drag one into the field, or choose one")
    bar = parts.progress("Sending")
    sent = 0
    for file in files:
        try:
            queue.enqueue(file, name=file.name, content_type=file.type or None, **given)
        except Exception:
            if sent:
                st.warning(f"{words.counted(sent, 'file')} of {len(files)} had been sent before this one failed:")
            raise
        sent += 1
        bar(sent, len(files))
    return f"{words.counted(sent, 'file')} sent"
