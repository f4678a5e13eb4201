"""What a console shows of the stack it belongs to: the states of its programs, and what happened to them lately."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from spoolq.audit import last_lines
from spoolq.stack.programs import Program, Programs

SOCKET_VARIABLE = "SPOOLQ_SUPERVISOR_SOCKET"
_SUPERVISORS_OWN = "SUPERVISOR_SERVER_URL"
_LAST_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A line of logs/events.log. what: started, stopped, crashed, looping, gave up..."""

    at_ms: int
    program: str
    what: str
    from_state: str
    to_state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A stack as it is now. answers: supervisord does; programs: by name; events: newest first."""

    socket: Path
    answers: bool
    programs: tuple[Program, ...]
    events: tuple[Event, ...]


def look(spool: str, environ: Mapping[str, str], *, events: int = 100) -> Watched:
    """Look at the stack of a spool. NotCapable where supervisor is not installed."""
    socket = find_socket(spool, environ)
    programs = Programs(socket)
    found = tuple(sorted(programs.all(), key=lambda program: program.label))
    answers = bool(found) or programs.pid() is not None
    return Watched(
        socket=socket, answers=answers, programs=found, events=tuple(read_events(socket.parent / "events.log", events))
    )


def find_socket(spool: str, environ: Mapping[str, str]) -> Path:
    """Where supervisord listens: as it is told, as supervisord tells its programs, or where a stack of ours has it."""
    if told := environ.get(SOCKET_VARIABLE):
        return Path(told)
    url = environ.get(_SUPERVISORS_OWN, "")
    if url.startswith("unix://"):
        return Path(url.removeprefix("unix://"))
    here = Path("logs") / "supervisor.sock"
    places = [here]
    if "://" not in spool:
        home = Path(spool.partition("?")[0])
        places = [home / here, home.parent / here, here]
    return next((place for place in places if place.exists()), places[0])


def read_events(path: Path, limit: int) -> list[Event]:
    """The last lines of an events.log, newest first; [] where there is none."""
    return list(islice(last_lines(path, _LAST_BYTES, _event, op="events"), limit))


def _event(data: Any) -> Event:
    return Event(
        at_ms=int(data["at_ms"]), program=str(data["program"]), what=str(data["what"]),
        from_state=str(data["from_state"]), to_state=str(data["to_state"]),
    )  # fmt: skip
