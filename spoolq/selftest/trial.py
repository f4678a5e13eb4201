"""The whole test: refuse what is unsafe, try everything, and say in words what that means."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spoolq.clock import Clock
from spoolq.errors import NotFound
from spoolq.selftest import storm as storms
from spoolq.selftest.able import Ability, abilities
from spoolq.selftest.storm import Storm
from spoolq.spool.files import Files
from spoolq.spool.session import check_file_system, translated


@dataclass(frozen=True)
class Verdict:
    """What was found. storm: None where something that is needed is missing, so that none was tried."""

    abilities: list[Ability]
    storm: Storm | None

    @property
    def is_fit(self) -> bool:
        """Whether a spool may live there."""
        return self.storm is not None and self.storm.is_clean

    @property
    def words(self) -> list[str]:
        """In plain words: what is wrong, else that nothing is, and what works less well."""
        missing = [each for each in self.abilities if each.needed and not each.works]
        if missing or self.storm is None:
            return [f"{each.name}: {each.found}. A spool cannot be kept here" for each in missing]
        storm = self.storm
        wrong = [
            f"{count} {words}"
            for count, words in (
                (storm.lost, "confirmed and lost"),
                (storm.torn, "delivered in part"),
                (storm.twice, "delivered after being acknowledged"),
                (storm.stolen, "taken from a holder that lived"),
            )
            if count
        ]
        wrong += storm.trouble[:5]
        if wrong:
            return [*wrong, "Do not keep a spool here, and please report this"]
        less = [f"{each.name}: {each.found}" for each in self.abilities if not each.works]
        return [*less, "A spool can be kept here"]


def selftest(directory: str, *, seconds: float, tell: Callable[[Ability], None] = lambda ability: None) -> Verdict:
    """Try a directory's file system for about `seconds`; nothing is left there.

    tell: told of each ability as it is known. Raises UnsupportedFileSystem where a spool would be refused, with the
    reason, NotFound where there is no such directory, and StorageError where it cannot be written.
    """
    if not os.path.isdir(directory):
        raise NotFound(f"there is no directory {directory}", op="selftest", path=directory, hint="Make it first")
    check_file_system(directory)
    with _place(directory) as (able, storm):
        found = abilities(able)
        for ability in found:
            tell(ability)
        if not all(ability.works for ability in found if ability.needed):
            return Verdict(found, None)
        return Verdict(found, storms.run(storm, seconds))


@contextmanager
def _place(directory: str) -> Iterator[tuple[Path, Path]]:
    """Two directories of its own to try things in; gone at the end."""
    files = Files()
    home = f"{directory}/spoolq-selftest-{Clock().new_id()}"
    with translated("selftest", home):
        files.mkdir(home)
        try:
            for name in ("able", "storm"):
                files.mkdir(f"{home}/{name}")
            yield Path(home, "able"), Path(home, "storm")
        finally:
            files.remove_tree(home)
