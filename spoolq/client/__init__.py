"""A queue behind a spoolq server: `open_queue("http://host:8000/queues/emails")`. Needs httpx (`spoolq[client]`).

In reading order: address.py (what a URL says), connection.py (requests, and which may be repeated), problems.py
(answers that are errors), bodies.py, early.py and download.py (streams), queue.py (the contract), consuming.py
(claims). The routes are those of docs/rest-api.md.
"""

from spoolq.client.opening import create_queue, delete_queue, list_queues, open_queue
from spoolq.client.queue import HttpQueue

__all__ = ["HttpQueue", "create_queue", "delete_queue", "list_queues", "open_queue"]
