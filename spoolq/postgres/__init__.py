"""A queue in PostgreSQL, for consumers on any number of hosts: `open_queue("postgresql://host/db?queue=emails")`.

In reading order: schema.sql (what is kept), functions.sql (every transition, one function each), address.py (what a URL
says), connection.py (calls, and which may be repeated), statements.py (all the SQL that is not in those two files),
calls.py (those of one queue), producing.py, bodies.py (in, and streams), consuming.py, settling.py (a delivery),
listening.py (waking), reading.py, upkeep.py, queue.py (the contract, of all these), installing.py (`spoolq engine
init|upgrade`).
Needs psycopg and psycopg_pool (`spoolq[postgres]`).
"""

from spoolq.postgres.installing import init, upgrade
from spoolq.postgres.opening import create_queue, delete_queue, list_queues, open_queue
from spoolq.postgres.queue import PostgresQueue

__all__ = ["PostgresQueue", "create_queue", "delete_queue", "init", "list_queues", "open_queue", "upgrade"]
