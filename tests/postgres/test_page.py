"""What docs/scaling.md gives to paste into psql runs, and does what it says."""

import re
from pathlib import Path

import psycopg
import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
QUERIES = [each.strip() for block in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL) for each in block.split(";\n")]


@pytest.mark.parametrize("query", [each for each in QUERIES if each], ids=lambda query: query.splitlines()[0][3:40])
def test_a_monitoring_query_runs(queue, dsn, query):
    """One that reads our tables has our rows."""
    queue.enqueue(b"x")
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(query).fetchall()
    if "spoolq." in query:
        assert rows[0][:2] == ("default", 1)
