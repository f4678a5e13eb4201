"""A database of the session's own, as `spoolq engine init` leaves it, for each test."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spoolq import open_queue as open_any
from spoolq.postgres import PostgresQueue
from spoolq.settings import Settings
from tests.postgres_clock import emptied


@pytest.fixture
def dsn(postgres) -> str:
    emptied(postgres.dsn())
    return postgres.dsn()


@pytest.fixture
def open_queue(dsn) -> Iterator[Callable[..., PostgresQueue]]:
    """`open_queue(settings, **options)`: a further object of the queue; what it holds is checked at the end."""
    opened: list[PostgresQueue] = []

    def opens(settings: Settings | None = None, url: str = dsn, **options: Any) -> PostgresQueue:
        queue = open_any(url, **options)
        opened.append(queue)
        if settings is not None:
            queue.change_settings(settings)
        return queue

    yield opens
    with open_any(dsn) as queue:
        problems = queue.check()
    for queue in opened:
        queue.close()
    assert problems == []


@pytest.fixture
def queue(open_queue) -> PostgresQueue:
    return open_queue()
