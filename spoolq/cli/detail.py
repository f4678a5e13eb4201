"""One message in full: what it is, what came with it, each delivery, and the beginning of its body."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from spoolq.cli.consume import content, copy, write_body
from spoolq.cli.output import emit, say
from spoolq.cli.text import instant, safe, safe_lines, size, span

if TYPE_CHECKING:
    from spoolq.interfaces import Queue
    from spoolq.models import Attempt, MessageInfo

_PREVIEW_BYTES = 4096


def show_message(source: Queue, message_id: str, *, body: bool, output: str | None, as_json: bool) -> None:
    """Write all that is known of a message, or with `output` its body alone. MessageNotFound when there is none."""
    if output is not None:
        _save_body(source, message_id, output)
        return
    info = source.get(message_id)
    if as_json:
        emit(info.as_dict() | (content(_whole_body(source, message_id)) if body else {}))
        return
    for line in describe(info):
        say(line)
    if body:
        _preview(source, info)


def _save_body(source: Queue, message_id: str, output: str) -> None:
    with source.read_body(message_id) as body:
        if output == "-":
            write_body(body)
            sys.stdout.flush()
        else:
            with open(output, "wb") as file:
                copy(body, file)


def _whole_body(source: Queue, message_id: str) -> bytes:
    with source.read_body(message_id) as body:
        return body.read()


def _preview(source: Queue, info: MessageInfo) -> None:
    with source.read_body(info.id) as body:
        piece = body.read(_PREVIEW_BYTES)
    say("")
    if b"\0" in piece:
        say(f"  (not text; --output FILE saves its {size(info.body_bytes)})")
        return
    say(safe_lines(piece.decode(errors="backslashreplace")))
    if info.body_bytes > len(piece):
        say(f"  (the first {size(len(piece))} of {size(info.body_bytes)}; --output FILE saves it)")


def describe(info: MessageInfo) -> Iterator[str]:
    """The lines about a message, safe to print."""
    for label, value in _facts(info):
        if value not in {None, ""}:
            yield f"{label:<14}{safe(str(value))}"
    for key, value in info.headers.items():
        yield f"{'header':<14}{safe(key)}: {safe(value)}"
    if info.history:
        yield ""
    for attempt in info.history:
        yield from _attempt(attempt)


def _facts(info: MessageInfo) -> Iterator[tuple[str, object]]:
    yield "id", info.id
    yield "queue", info.queue
    yield "state", f"{info.state}{', waits for an earlier one of its group' if info.held else ''}"
    yield "name", info.name
    yield "priority", info.priority
    yield "attempts", info.attempts
    yield "size", f"{size(info.body_bytes)} ({info.body_bytes})" if info.body_bytes >= 1024 else size(info.body_bytes)
    yield "content type", info.content_type
    yield "group", info.group
    yield "dedup key", info.dedup_key
    yield "enqueued", instant(info.enqueued_at_ms)
    yield f"{info.state} since", instant(info.changed_at_ms)
    yield "due", instant(info.due_at_ms)
    yield "expires", instant(info.expires_at_ms)
    yield "receipt", info.receipt
    yield "holder", info.holder
    yield "lease ends", instant(info.deadline_at_ms)
    yield "reason", info.reason.strip().rpartition("\n")[2]


def _attempt(attempt: Attempt) -> Iterator[str]:
    """One delivery: a line, then in full what it said."""
    how = f"attempt {attempt.attempt}  {instant(attempt.ended_at_ms)}  {safe(attempt.outcome)}"
    if attempt.duration_s is not None:
        how += f" after {span(attempt.duration_s)}"
    if attempt.exit_status is not None:
        how += f", exit status {attempt.exit_status}"
    if attempt.signal is not None:
        how += f", signal {attempt.signal}"
    if attempt.host:
        how += f", pid {attempt.pid} on {safe(attempt.host)}"
    yield how
    for label, text in (("reason", attempt.reason), ("stderr", attempt.stderr)):
        lines = safe_lines(text.strip("\n")).split("\n") if text.strip() else []
        for at, line in enumerate(lines):
            yield f"  {label if at == 0 else '':<8}{line}"
