"""`check`: compare files and index both ways, say in words what is wrong, and with `fix` put it right.

What a listing shows beside moves is a suspicion; each is looked at again under the write lock before it is reported.
Section 4 of docs/spool-format.md has the combinations that are legal.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from spoolq.interfaces import Progress
from spoolq.models import Problem
from spoolq.spool import looks, mending, moves
from spoolq.spool.directory import STATE_DIRECTORIES
from spoolq.spool.drops import Drops
from spoolq.spool.files import is_directory
from spoolq.spool.holders import is_alive
from spoolq.spool.index import Index
from spoolq.spool.names import Name, is_holder, parse_name
from spoolq.spool.rebuilding import separate_twins
from spoolq.spool.recovery import Recovery
from spoolq.spool.rows import Row
from spoolq.spool.session import Session, translated

_SLICE = 400
_STATES = {"new": ("ready", "scheduled"), "cur": ("claimed",), "done": ("done",), "dead": ("dead",)}


class Check:
    """One run over one open queue."""

    def __init__(
        self, session: Session, drops: Drops, recovery: Recovery, *, fix: bool, progress: Progress | None
    ) -> None:
        self._session = session
        self._recovery = recovery
        self._directory = session.directory
        self._drops = drops
        self._fix = fix
        self._progress = progress
        self._twins: set[str] = set()
        self._problems: list[Problem] = []

    def run(self) -> list[Problem]:
        """Everything that is wrong; an empty list where nothing is."""
        with translated("check", self._directory.base):
            self._check_index()
            places = self._listed()
            self._check_twins(places)
            self._check_files(places)
            self._check_rows()
            self._check_counts()
            self._check_rest()
        return self._problems

    def _listed(self) -> dict[str, list[str]]:
        return {kind: self._directory.names(f"{self._directory.base}/{kind}") for kind in STATE_DIRECTORIES}

    def _say(self, kind: str, what: str, fix: str, *, path: str = "", id: str = "", fixed: bool = False) -> None:
        self._problems.append(Problem(kind=kind, what=what, fix=fix, path=path, message_id=id, fixed=fixed))

    # The index itself

    def _check_index(self) -> None:
        with self._session.look() as db:
            said = looks.contradictions(db)
        if said:
            fix = "it is made anew from the files"
            self._say("damaged_index", f"the index contradicts itself: {'; '.join(said)}", fix, fixed=self._fix)
            if self._fix:
                self._session.rebuild()

    # One id in two places

    def _check_twins(self, places: dict[str, list[str]]) -> None:
        seen: set[str] = set()
        suspects: set[str] = set()
        for texts in places.values():
            for text in texts:
                if text[:36] in seen and parse_name(text) is not None:
                    suspects.add(text[:36])
                seen.add(text[:36])
        if not suspects:
            return
        with self._session.write() as index:
            found = self._directory.locate(suspects)
            self._twins = {id for id, where in found.items() if len(where) > 1}
            for id in sorted(self._twins):
                paths = ", ".join(f"{os.path.basename(place)}/{text}" for place, text, _ in found[id])
                self._say(
                    "twin",
                    f"{id} is in several places: {paths}",
                    "the later state stays; another name of the same file goes; a copy gets a new id",
                    id=id,
                    fixed=self._fix,
                )
            if self._fix and self._twins:
                rows = [row for id in self._twins if (row := index.row(id)) is not None]
                named = {moves.path_of(self._session, row) for row in rows if row.state != "settled"}
                separate_twins(self._directory, self._session.clock, named)
                mending.mend(self._session, index, rows)
        if self._fix and self._twins:
            self._twins = set()
            places.update(self._listed())

    # Files without a row, or with another one

    def _check_files(self, places: dict[str, list[str]]) -> None:
        in_all = sum(map(len, places.values()))
        done = 0
        for kind, texts in places.items():
            for start in range(0, len(texts), _SLICE):
                self._check_slice(kind, texts[start : start + _SLICE])
                done += _SLICE
                if self._progress is not None:
                    self._progress(min(done, in_all), in_all)

    def _check_slice(self, kind: str, texts: list[str]) -> None:
        names: dict[str, tuple[str, Name]] = {}
        for text in texts:
            name = parse_name(text)
            if name is None or (kind == "new" and text in self._drops.waiting):
                self._say_strange(kind, text)
            elif name.id not in self._twins:
                names[name.id] = (text, name)
        with self._session.look() as db:
            rows = looks.rows(db, list(names))
        suspects = [
            (text, name)
            for id, (text, name) in names.items()
            if (row := rows.get(id)) is None or row.state not in _STATES[kind] or moves.name_of(row) != text
        ]
        if suspects:
            with self._session.write() as index:
                for text, name in suspects:
                    self._check_file(index, kind, text, name)

    def _say_strange(self, kind: str, text: str) -> None:
        path = f"{self._directory.base}/{kind}/{text}"
        if kind != "new":
            self._say(
                "strange", f"{kind}/ holds {text!r}, which is not a message", "not mended: move it away", path=path
            )
        elif (why := self._drops.waiting.get(text)) is not None and not self._drops.is_ignored(text):
            self._say("waiting_drop", f"new/{text} is not taken in: {why}", "not mended: see the reason", path=path)

    def _check_file(self, index: Index, kind: str, text: str, name: Name) -> None:
        directory = f"{self._directory.base}/{kind}"
        if not os.path.lexists(f"{directory}/{text}"):
            return
        row = index.row(name.id)
        if row is not None and row.state in _STATES[kind] and moves.name_of(row) == text:
            return
        if kind in ("done", "dead") and is_directory(f"{directory}/{text}"):
            self._say_strange(kind, text)
            return
        said = "has no row in the index" if row is None else f"is {row.state} in the index"
        self._say(
            "file_without_row" if row is None else "row_differs",
            f"{kind}/{text} {said}",
            "the index follows the file",
            path=f"{directory}/{text}",
            id=name.id,
            fixed=self._fix,
        )
        if not self._fix:
            return
        if row is None:
            mending.put_row(self._session, index, directory, name)
        else:
            mending.mend(self._session, index, [row])

    # Rows without a file

    def _check_rows(self) -> None:
        for rows in self._all_rows():
            suspects = [
                row for row in rows if row.state != "settled" and row.id not in self._twins and not self._there(row)
            ]
            if suspects:
                with self._session.write() as index:
                    self._check_missing(index, suspects)

    def _all_rows(self) -> Iterator[list[Row]]:
        after = ""
        while True:
            with self._session.look() as db:
                rows = looks.ids(db, after, _SLICE)
            if not rows:
                return
            yield rows
            after = rows[-1].id

    def _there(self, row: Row) -> bool:
        return os.path.lexists(moves.path_of(self._session, row))

    def _check_missing(self, index: Index, suspects: list[Row]) -> None:
        now = [row for old in suspects if (row := index.row(old.id)) is not None]
        missing = [row for row in now if row.state != "settled" and not self._there(row)]
        for row in missing:
            self._say(
                "row_without_file",
                f"{row.id} is {row.state} in the index, and its file is not there",
                "the row goes, or follows the file to where it is",
                id=row.id,
                fixed=self._fix,
            )
        if self._fix and missing:
            mending.mend(self._session, index, missing)

    # Counts

    def _check_counts(self) -> None:
        with self._session.write() as index:
            wrong = index.wrong_counts()
            for column, kept, real in wrong:
                self._say(
                    "count",
                    f"the index counts {kept:,} for {column}, and it is {real:,}",
                    "it is counted again",
                    fixed=self._fix,
                )
            if self._fix and wrong:
                index.count(**{column: real - kept for column, kept, real in wrong})

    # The rest

    def _check_rest(self) -> None:
        for text in self._directory.names(self._directory.holders):
            if not is_holder(text):
                path = f"{self._directory.holders}/{text}"
                self._say("strange", f"holders/ holds {text!r}: no consumer's", "not mended: move it away", path=path)
            elif not is_alive(self._directory, text) and text not in self._session.holders:
                self._check_dead_holder(text)
        for kind in STATE_DIRECTORIES:
            directory = f"{self._directory.base}/{kind}"
            if stat.S_IMODE(os.stat(directory).st_mode) & stat.S_IWOTH:
                self._say("mode", f"everybody may write to {directory}", f"not mended: chmod o-w '{directory}'")
        self._check_meta()

    def _check_dead_holder(self, text: str) -> None:
        """Its claims are the reaper's. Without any nothing is wrong: the file is left for the sweep."""
        with self._session.look() as db:
            holds = text in looks.holders(db)
        if holds:
            what = f"holders/{text} is of a consumer that has died, and holds messages"
            self._say("dead_holder", what, "its claims go back, then its file goes")
        elif self._fix:
            self._directory.remove(f"{self._directory.holders}/{text}")

    def _check_meta(self) -> None:
        for id in self._recovery.orphans():
            self._say("orphan_meta", f"meta/{id}.jsonl has no message", "it is removed", id=id, fixed=self._fix)
            if self._fix:
                self._directory.remove(self._directory.meta_path(id))
