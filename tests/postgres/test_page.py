"""What docs/scaling.md gives to paste into psql runs, and does what it says."""

import re
from pathlib import Path

import psycopg
import pytest

from spoolq.postgres import create_queue, statements

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
QUERIES = [each.strip() for block in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL) for each in block.split(";\n")]
(SWEEP,) = re.findall(r"`(SELECT spoolq\.sweep\(.*?)`", PAGE)


@pytest.mark.parametrize("query", [each for each in QUERIES if each], ids=lambda query: query.splitlines()[0][3:40])
def test_a_monitoring_query_runs(queue, dsn, query):
    """One that reads our tables has our rows."""
    queue.enqueue(b"x")
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(query).fetchall()
    if "spoolq." in query:
        assert rows[0][:2] == ("default", 1)


def test_what_a_killed_deletion_has_left_is_swept(dsn, queue):
    """As it says: until it answers nothing."""
    with create_queue(dsn, "emails") as emails:
        emails.enqueue_many([b"x"] * 1200)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statements.DELETE_QUEUE, ("emails",))
        answers = []
        while (rows := connection.execute(SWEEP).fetchall()) and rows[0][0]:
            answers.append(rows)
        assert len(answers) == 2
        assert connection.execute("SELECT count(*) FROM spoolq.messages").fetchone() == (0,)
    assert queue.check() == []
