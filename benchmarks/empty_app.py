"""FastAPI, and handlers that do nothing: what every request costs before it is of use. For http.py."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response

from spoolq.web.envelope import EXAMPLE

_ANSWER = {"id": "01890a5d-ac96-774b-bcce-b302099a8057", "queue": "default"}

app = FastAPI()


@app.post("/enqueue", status_code=201)
async def enqueue(request: Request) -> dict[str, str]:
    """Read a body, and forget it."""
    await request.body()
    return _ANSWER


@app.get("/dequeue")
async def dequeue() -> dict[str, Any]:
    """Say what a claim would be answered."""
    return EXAMPLE


@app.post("/queues/{q}/claims/{receipt}/acknowledge", status_code=204)
async def acknowledge(q: str, receipt: str) -> Response:
    """Nothing to do."""
    return Response(status_code=204)
