"""How commands get at queues and ids, and do something to each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from spoolq import queue as entry
from spoolq.cli import failure
from spoolq.cli.output import emit

if TYPE_CHECKING:
    from spoolq.interfaces import Queue


def opened(spool: str, name: str | None, *, create: bool = False, detached: bool = False) -> Queue:
    """The queue of this name, for a `with`. create: make the spool where there is none. detached: see `open_queue`."""
    return entry.open_queue(spool, queue=name, create=create, detached=detached)


def names(spool: str, only: str | None) -> list[str]:
    """The queue that was asked for, else all of the spool."""
    return [only] if only else entry.list_queues(spool)


def given(words: Iterable[str]) -> Iterator[str]:
    """The ids or receipts of a command line. "-" stands for standard input: the first word of each line."""
    for word in words:
        if word == "-" and sys.stdin is not None:
            yield from (line.split(None, 1)[0] for line in sys.stdin if line.strip())
        else:
            yield word


def to_each(
    called: str,
    words: Iterable[str],
    act: Callable[[Queue, str], None],
    where: tuple[str, str | None],
    as_json: bool,
    **told: object,
) -> int:
    """Do something to each id or receipt, and say so only to machines.

    called: what machines call it. where: the spool, and the queue's name. told: what machines are told beside.
    """
    with opened(*where) as queue:

        def act_and_tell(word: str) -> None:
            act(queue, word)
            if as_json:
                emit({called: word, **told})

        return failure.each(given(words), act_and_tell, as_json=as_json)
