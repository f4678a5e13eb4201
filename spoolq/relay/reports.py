"""What relays tell, on disk: a file for each process, written whole, read by the consoles and by `GET /metrics`.

In `relays/` of the source's spool; for a source that is a server's or a database's, in this user's state directory. A
file stays when its relay ends, so that one sees that it has; the next relay between the same queues removes it.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from spoolq.clock import Clock
from spoolq.errors import storage_error
from spoolq.relay.figures import Figures
from spoolq.spool.holders import process_start

log = logging.getLogger("spoolq.relay")

NAME = "relays"
EVERY_S = 1.0
_MOST_BYTES = 1 << 16
_SINCE = "waiting_since_ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A relay as it was at `at_ms`. target: without a password. ended: it said so itself. pid, start: its process.

    waiting_since_ms: since when the oldest message waits; 0 where none does.
    """

    queue: str
    target: str
    pid: int
    start: int
    boot: str
    since_at_ms: int
    at_ms: int
    ended: bool = False
    sent: int = 0
    refused: int = 0
    outages: int = 0
    is_away: bool = False
    error: str = ""
    waiting_since_ms: int = 0

    @property
    def known_since_ms(self) -> int | None:
        """Since when the oldest message waits, while the target is away: the queue itself does not know it then."""
        return self.waiting_since_ms or None if self.is_away and self.runs else None

    @property
    def runs(self) -> bool:
        """Whether its process is there still."""
        return not self.ended and self.boot == Clock().boot_id() and process_start(self.pid) == self.start


def directory_for(url: str, environ: Mapping[str, str]) -> Path:
    """Where the relays of a spool, a server or a database, whichever of its queues they take from, are told of."""
    if "://" not in url:
        return Path(url.partition("?")[0]) / NAME
    place = url.partition("?")[0].partition("/queues/")[0].rstrip("/")
    scheme, _, rest = place.partition("://")
    place = f"{scheme}://{rest.rpartition('@')[2]}"
    state = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME") or "/") / ".local" / "state"
    return Path(state) / "spoolq" / NAME / f"{zlib.crc32(place.encode()):08x}"


class Reporter:
    """Writes one relay's file, at most each EVERY_S unless something else than a count has changed."""

    def __init__(self, directory: Path, queue: str, target: str, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._directory = directory
        self._begun = Report(
            queue=queue,
            target=target,
            pid=os.getpid(),
            start=process_start(os.getpid()),
            boot=self._clock.boot_id(),
            since_at_ms=self._clock.wall_ms(),
            at_ms=0,
        )
        self._path = directory / f"{zlib.crc32(f'{queue} {target}'.encode()):08x}-{os.getpid()}.json"
        self._next_s = 0.0
        self._was_away = False
        self._remove_older()

    def tell(self, figures: Figures, *, ended: bool = False) -> None:
        """Write what is known now. What cannot be written is logged: messages matter more."""
        now_s = self._clock.mono_s()
        if now_s < self._next_s and figures.is_away == self._was_away and not ended:
            return
        self._next_s, self._was_away = now_s + EVERY_S, figures.is_away
        known = {each: getattr(figures, each) for each in ("sent", "refused", "outages", "is_away", "error")}
        known[_SINCE] = figures.waiting_since_ms or 0
        report = asdict(self._begun) | known | {"at_ms": self._clock.wall_ms(), "ended": ended}
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_text(self._path, json.dumps(report) + "\n")
        except OSError as error:
            log.warning("relay.not_told error=%s", error)

    def _remove_older(self) -> None:
        """Those of relays between the same queues that are no more."""
        for path, report in _found(self._directory):
            if (report.queue, report.target) == (self._begun.queue, self._begun.target) and not report.runs:
                path.unlink(missing_ok=True)


def read(directory: Path) -> list[Report]:
    """All that is told there, by queue and target, those that run first; [] where nothing is. What is torn is left out.

    StorageError where it cannot be read.
    """
    try:
        found = [report for _, report in _found(directory)]
    except OSError as error:
        raise storage_error(error, "relays", str(directory)) from error
    return sorted(found, key=lambda each: (each.queue, each.target, not each.runs, -each.at_ms))


def _found(directory: Path) -> list[tuple[Path, Report]]:
    found = []
    for path in sorted(directory.glob("[0-9a-f]*.json")):
        try:
            if path.is_symlink() or path.stat().st_size > _MOST_BYTES:
                continue
            found.append((path, _report(json.loads(path.read_bytes()))))
        except FileNotFoundError:  # RACE: removed by a relay that has just started
            continue
        except (ValueError, TypeError, KeyError):  # somebody else's
            continue
    return found


def _report(data: Mapping[str, object]) -> Report:
    values = {name: data[name] for name in (each.name for each in fields(Report)) if name != _SINCE}
    values[_SINCE] = data.get(_SINCE, 0)  # one of an older spoolq has none
    kinds = {"str": str, "int": int, "bool": bool}
    for each in fields(Report):
        if type(values[each.name]) is not kinds[str(each.type)]:
            raise ValueError(each.name)
    return Report(**values)  # type: ignore[arg-type]


def exposition(queue: str, target: str, figures: Figures) -> str:
    """The figures as Prometheus reads them from a file."""
    labels = f'queue="{_label(queue)}",target="{_label(target)}"'
    values = {
        "sent_total": figures.sent,
        "refused_total": figures.refused,
        "outages_total": figures.outages,
        "target_away": int(figures.is_away),
        "backlog": figures.backlog,
        "lag_seconds": round(figures.lag_s, 3),
    }
    return "".join(f"spoolq_relay_{name}{{{labels}}} {value}\n" for name, value in values.items())


def _label(words: str) -> str:
    return words.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def replace_text(path: Path, text: str) -> None:
    """Write a file as a whole, by a rename: whoever reads it sees no half."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
