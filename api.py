"""The REST API as `uvicorn api:app` and supervisord load it; `spoolq serve` starts the same. Code: spoolq/web."""

import os

from spoolq.web.app import create_app

app = create_app(os.environ.get("SPOOLQ_SPOOL", "spool"))
