"""What a queue does, step by step, as lines: `rename new/ID cur/ID,a=1,r=N`, `lock`, `commit`.

Ids, nonces and due times are replaced by letters, so that a story can be compared with what section 5 says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spoolq.spool.index import Index
from spoolq.spool.lock import WriteLock
from tests.helpers import SeamFiles

_PLAIN = (
    (r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", "ID"),
    (r",r=[klt][0-9a-z]+", ",r=N"),
    (r",t=\d+", ",t=T"),
    (r"holders/[0-9a-z]{6}$", "holders/H"),
    (r"tmp/[0-9a-z]{6}\.holder", "tmp/H"),
)


def plain(text: str) -> str:
    """A path of a spool with ids and the like replaced by letters."""
    for pattern, word in _PLAIN:
        text = re.sub(pattern, word, text)
    return text


class Recorder(SeamFiles):
    """Give this to `SpoolQueue.open` as `files`, and record what is done in `with recorder.story(queue) as steps`."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.root = root
        self._steps: list[str] = []
        self._recording = False
        self._patch = monkeypatch
        self.tell(WriteLock, "acquire", "lock")
        self.tell(WriteLock, "release", "unlock")
        self.tell(Index, "commit", "commit")
        self.tell(Index, "rollback", "rollback")

    def tell(self, owner: Any, name: str, word: str) -> None:
        """Record calls of a function as `word`, with the path where it is given one."""
        function = getattr(owner, name)

        def told(*args: Any, **kwargs: Any) -> Any:
            paths = [self._plain(arg) for arg in args[:1] if isinstance(arg, str)]
            self.say(" ".join([word, *paths]))
            return function(*args, **kwargs)

        self._patch.setattr(owner, name, told)

    def say(self, step: str) -> None:
        """One step, while a story is recorded."""
        if self._recording:
            self._steps.append(step)

    def _plain(self, path: str) -> str:
        return plain(path.removeprefix(f"{self.root}/"))

    def before(self, operation: str, *paths: str) -> None:
        word = {"sync_directory": "sync", "rename_new": "rename", "utime_ns": "set_time"}.get(operation, operation)
        self.say(" ".join([word, *map(self._plain, paths)]))

    @contextmanager
    def story(self) -> Iterator[list[str]]:
        """The list that fills with what is done."""
        self._steps = []
        self._recording = True
        try:
            yield self._steps
        finally:
            self._recording = False
