"""Make a queue, set it, pause it, empty it, delete it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import streamlit as st

from spoolq import queue as entry
from spoolq import settings as settings_module
from spoolq.console import parts, place, words
from spoolq.console.admin import acts
from spoolq.errors import SettingsError, SpoolqError
from spoolq.interfaces import Queue
from spoolq.models import State
from spoolq.settings import Described, Settings

PURGED: tuple[State, ...] = ("ready", "scheduled", "done", "dead")
_COLUMNS = 3


def page() -> None:
    """Draw it."""
    parts.frame("Queues", _draw)


def _draw(queue: Queue) -> None:
    _create()
    st.markdown("**The chosen queue**")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        _pause(queue)
        _purge(queue)
        _delete(queue)
    _settings(queue)


# Making and deleting ----------------------------------------------------------------


def _create() -> None:
    with st.form("create", clear_on_submit=False):
        st.markdown("**A new queue**")
        with st.container(horizontal=True, vertical_alignment="bottom"):
            name = st.text_input(
                "Name", key="new-name", placeholder="emails", max_chars=64, width=320,
                help="Small letters, digits, dot, dash, underscore; the first is a letter or a digit",
            )  # fmt: skip
            sent = st.form_submit_button("Create", key="create-do")
    if sent and parts.attempt(acts.kept("create", lambda: _made(name.strip()), queue=name.strip())):
        place.choose(name.strip())
        st.rerun()


def _made(name: str) -> str:
    if not name:
        raise ValueError("a queue needs a name")
    entry.create_queue(place.spool(), name).close()
    return f"The queue {name} was made"


def _delete(queue: Queue) -> None:
    is_default = queue.name == entry.DEFAULT_QUEUE
    if not st.button("Delete the queue", key="delete", disabled=is_default, help="The queue default can be purged, not "
                     "deleted" if is_default else None):  # fmt: skip
        return
    stats = queue.stats()
    count = stats.ready + stats.scheduled + stats.claimed + stats.done + stats.dead
    parts.confirm(
        "Delete the queue?",
        what=f"The queue {queue.name} goes for good, with all that is in it: "
        f"{words.counted(count, 'message')}, of which {stats.claimed:,} are being worked on.",
        do="Delete the queue",
        typed=queue.name,
        act=acts.kept("delete queue", lambda: _deleted(queue.name), queue=queue.name, count=count),
    )


def _deleted(name: str) -> str:
    count = entry.delete_queue(place.spool(), name)
    place.choose(entry.DEFAULT_QUEUE)
    return f"The queue {name} was deleted, with {words.counted(count, 'message')}"


# Pausing and purging ----------------------------------------------------------------


def _pause(queue: Queue) -> None:
    paused = queue.stats().paused
    label, what = ("Resume", "resume") if paused else ("Pause", "pause")
    help = "Nothing is delivered until it is resumed; what is claimed goes on, and enqueueing too"
    pressed = st.button(label, key="pause", type="primary" if paused else "secondary", help=help)
    if pressed and parts.attempt(acts.kept(what, lambda: _paused(queue, paused), queue=queue.name)):
        st.rerun()


def _paused(queue: Queue, paused: bool) -> str:
    if paused:
        queue.resume()
        return f"The queue {queue.name} delivers again"
    queue.pause()
    return f"The queue {queue.name} is paused"


def _purge(queue: Queue) -> None:
    states = st.multiselect("States to purge", PURGED, default=["ready", "scheduled"], key="purge-states", width=340)
    if not st.button("Purge", key="purge", disabled=not states):
        return
    stats = queue.stats()
    counts = {state: getattr(stats, state) for state in states}
    count = sum(counts.values())
    parts.confirm(
        "Purge?",
        what=f"{words.counted(count, 'message')} of the queue {queue.name}, to be deleted for good: "
        + ", ".join(f"{number:,} {state}" for state, number in counts.items()) + ".",
        do=f"Delete {words.counted(count, 'message')}",
        act=acts.kept("purge " + ", ".join(states), lambda: _purged(queue, states), queue=queue.name, count=count),
    )  # fmt: skip


def _purged(queue: Queue, states: list[State]) -> str:
    count = queue.purge(states, progress=parts.progress("Purging"))
    return f"{words.counted(count, 'message')} purged"


# Settings ---------------------------------------------------------------------------


def _settings(queue: Queue) -> None:
    st.markdown("**Its settings**")
    stored = queue.stored_settings()
    if queue.settings != stored:
        st.caption("SPOOLQ_ variables of this process set some of them over what is kept here.")
    if place.is_database():
        st.caption("These mean nothing in a database: durability, max_hold_s, busy_s, \\[reserve\\] and \\[drops\\].")
    left, right = st.columns([3, 2], gap="medium")
    with left:
        texts = _fields(queue.name, stored)
    with right:
        _preview(queue, stored, texts)


def _fields(name: str, stored: Settings) -> dict[str, str]:
    """A field for each setting, as TOML, by table."""
    values = {each.key: each.default for each in settings_module.describe(stored)}
    texts: dict[str, str] = {}
    for table, among in groupby(settings_module.describe(), lambda each: each.key.rpartition(".")[0]):
        with st.expander(f"\\[{table}\\]" if table else "General", expanded=not table):
            columns = st.columns(_COLUMNS)
            for at, each in enumerate(among):
                with columns[at % _COLUMNS]:
                    texts[each.key] = _field(name, each, values[each.key])
    return texts


def _field(name: str, each: Described, value: str) -> str:
    # As it is: a browser reads out what marks are escaped with, and within a word they mean nothing.
    label = each.key.rpartition(".")[2]
    help = words.label(f"{each.meaning}. {each.allowed[:1].upper()}{each.allowed[1:]}; the default is {each.default}")
    # The value is in the key: a setting that was changed, here or elsewhere, is shown as it is now.
    key = f"set-{name}-{each.key}-{value}"
    if each.allowed.startswith("one of "):
        choices = each.allowed.removeprefix("one of ").split(", ")
        return str(st.selectbox(label, choices, index=choices.index(value), key=key, help=help))
    return st.text_input(label, value, key=key, help=help)


def wanted(texts: Mapping[str, str]) -> Settings:
    """The settings that the fields say. SettingsError for what is not allowed. Pure."""
    data: dict[str, Any] = {}
    for key, text in texts.items():
        table, _, name = key.rpartition(".")
        into = data.setdefault(table, {}) if table else data
        try:
            (into[name],) = tomllib.loads(f"value = {text}").values()
        except ValueError as error:  # not TOML, or more than one value
            hint = "A number such as 60, a text in quotes, or a list in brackets"
            raise SettingsError(f"{key} = {text}: not a value of TOML", key=key, value=text, hint=hint) from error
    return settings_module.parse(data)


def _preview(queue: Queue, stored: Settings, texts: Mapping[str, str]) -> None:
    st.caption("The settings as they become" if place.is_database() else "queue.toml as it becomes")
    try:
        settings = wanted(texts)
    except SpoolqError as error:
        parts.show(error)
        return
    st.code(settings_module.dump(settings) or "# all settings have their defaults\n", language="toml")
    changed = [key for key, value in _flat(settings).items() if value != _flat(stored)[key]]
    if not changed:
        st.caption("As it is now.")
    if st.button("Save the settings", key="save", type="primary", disabled=not changed):
        act = acts.kept(f"settings {', '.join(changed)}", lambda: _saved(queue, settings, changed), queue=queue.name)
        if parts.attempt(act):
            st.rerun()


def _flat(settings: Settings) -> dict[str, str]:
    return {each.key: each.default for each in settings_module.describe(settings)}


def _saved(queue: Queue, settings: Settings, changed: list[str]) -> str:
    queue.change_settings(settings)
    return f"Changed: {', '.join(changed)}"
