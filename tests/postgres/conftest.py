"""A database of the session's own, as `spoolq engine init` leaves it, for each test."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spoolq.postgres import PostgresQueue
from spoolq.postgres import open_queue as open_any
from spoolq.settings import Settings
from tests.postgres.web import serving
from tests.postgres_clock import emptied

ROOT = Path(__file__).parents[2]


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


@pytest.fixture
def environ(dsn: str, tmp_path: Path) -> dict[str, str]:
    """For processes whose spool is the database."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("SPOOLQ_")}
    return known | {"PYTHONPATH": str(ROOT), "SPOOLQ_SPOOL": dsn, "XDG_STATE_HOME": str(tmp_path)}


@pytest.fixture
def served(environ: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """`spoolq serve` before the database; its URL."""
    with serving(environ, tmp_path) as (url, _):
        yield url
