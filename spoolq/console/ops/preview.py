"""A message's body: the beginning of it as text, JSON, table, picture or bytes; all of it as a download.

At most PREVIEW_BYTES are read to look at it. A download is held in memory by Streamlit, so what is larger than
DOWNLOAD_BYTES is fetched where it is: as a file, or from the server.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
from itertools import islice
from typing import Literal

import streamlit as st

from spoolq.console import parts, place, words
from spoolq.interfaces import Queue
from spoolq.models import MessageInfo

PREVIEW_BYTES = 64 * 1024
IMAGE_BYTES = 5 * 1024 * 1024
IMAGE_PIXELS = 40_000_000
DOWNLOAD_BYTES = 64 * 1024 * 1024
TABLE_ROWS, TABLE_COLUMNS = 200, 50
HEX_BYTES = 2048

View = Literal["JSON", "Table", "Image", "Text", "Bytes"]

_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")
_FOLDERS = {"ready": "new", "scheduled": "new", "claimed": "cur", "done": "done", "dead": "dead"}


def draw(queue: Queue, info: MessageInfo) -> None:
    """The body, in the views that fit it."""
    if info.body_bytes == 0:
        st.text("The body is empty.")
        return
    start = _read(queue, info, PREVIEW_BYTES)
    fitting = views(start, info)
    view = st.segmented_control(
        "Body", fitting, default=fitting[0], required=True, key=f"view-{info.id}", label_visibility="collapsed"
    )
    _show(queue, info, view, start)
    if len(start) < info.body_bytes and view != "Image":
        st.caption(words.label(f"The first {words.size(len(start))} of {words.size(info.body_bytes)}."))
    _download(queue, info)


def views(start: bytes, info: MessageInfo) -> list[View]:
    """The ways in which these bytes can be shown, the best first. Pure."""
    kind = (info.content_type or "").partition(";")[0].strip().lower()
    name = (info.name or "").lower()
    if start.startswith(_PICTURES) and info.body_bytes <= IMAGE_BYTES:
        return ["Image", "Bytes"]
    if not is_text(start):
        return ["Bytes", "Text"]
    whole = len(start) == info.body_bytes
    if whole and (kind.endswith("json") or name.endswith(".json") or start.lstrip()[:1] in b"{[") and is_json(start):
        return ["JSON", "Text", "Bytes"]
    if kind in {"text/csv", "text/tab-separated-values"} or name.endswith((".csv", ".tsv")):
        return ["Table", "Text", "Bytes"]
    return ["Text", "Bytes"]


def is_text(start: bytes) -> bool:
    """Whether these bytes are UTF-8, but for a character that is cut at the end."""
    if b"\x00" in start:
        return False
    try:
        start.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(start) - 3 and len(start) >= PREVIEW_BYTES
    return True


def is_json(start: bytes) -> bool:
    """Whether it can be read as JSON, as deep as Python goes."""
    try:
        json.loads(start)
    except (ValueError, RecursionError):
        return False
    return True


def rows(start: bytes) -> dict[str, list[str]]:
    """A CSV's first rows, by column. Pure."""
    text = start.decode("utf-8", "replace").replace("\x00", "")
    delimiter = max(",;\t|", key=text.partition("\n")[0].count)
    try:
        read = islice(csv.reader(io.StringIO(text), delimiter=delimiter), TABLE_ROWS + 1)
        found = [row[:TABLE_COLUMNS] for row in read]
    except csv.Error:
        return {}
    head = found[0] if found else []
    width = max((len(row) for row in found), default=0)
    names = [words.short(words.line(head[at]), 60) if at < len(head) else "" for at in range(width)]
    unique = [
        name if name and names.count(name) == 1 else f"{name} ({at + 1})".lstrip() for at, name in enumerate(names)
    ]
    return {name: [row[at] if at < len(row) else "" for row in found[1:]] for at, name in enumerate(unique)}


def hexdump(start: bytes) -> str:
    """Bytes as `hexdump -C` shows them. Pure."""
    lines = []
    for at in range(0, len(start), 16):
        part = start[at : at + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{at:08x}  {part.hex(' '):<47}  {shown}")
    return "\n".join(lines)


def _show(queue: Queue, info: MessageInfo, view: View, start: bytes) -> None:
    if view == "JSON":
        st.json(start.decode(), expanded=2)
    elif view == "Table":
        parts.table(rows(start), f"csv-{info.id}")
    elif view == "Image":
        _picture(_read(queue, info, IMAGE_BYTES))
    elif view == "Text":
        text = words.lines(start.decode("utf-8", "backslashreplace"))
        st.code(text, language=None, wrap_lines=True, height=_height(start))
    else:
        st.code(hexdump(start[:HEX_BYTES]), language=None, height=_height(start[:HEX_BYTES], 16))


def _height(start: bytes, width: int = 100) -> int | Literal["content"]:
    """Long ones scroll in a box of their own."""
    return 400 if start.count(b"\n") > 14 or len(start) > 14 * width else "content"


def _picture(body: bytes) -> None:
    from PIL import Image  # with Streamlit

    try:
        with Image.open(io.BytesIO(body)) as picture:
            width, height = picture.size
    except Exception as error:
        st.text(f"It begins as a picture, and is none: {words.line(type(error).__name__)}")
        return
    if width * height > IMAGE_PIXELS:
        st.text(f"{width:,} x {height:,} pixels are too many to show.")
        return
    st.image(body, width=min(width, 700))


def _read(queue: Queue, info: MessageInfo, most: int) -> bytes:
    with queue.read_body(info.id) as file:
        return file.read(most)


def _download(queue: Queue, info: MessageInfo) -> None:
    if info.body_bytes <= DOWNLOAD_BYTES:
        st.download_button(
            "Download",
            lambda: _read(queue, info, DOWNLOAD_BYTES),
            file_name=words.line(info.name or info.id).replace("/", "_")[:150],
            mime="application/octet-stream",
            on_click="ignore",
            key=f"download-{info.id}",
        )
        return
    st.text(f"{words.size(info.body_bytes)} are too much to pass through this page. Fetch it where it is:")
    st.code(where(queue.url, info), language=None)


def where(url: str, info: MessageInfo) -> str:
    """How to get at a large body without this page: the server's address of it, or its file."""
    if place.is_database():
        return f"spoolq show {info.id} --output body --spool {shlex.quote(url)}"
    if place.is_server():
        return f"curl -o body {shlex.quote(url)}/messages/{info.id}/body"
    path, _, query = url.partition("?queue=")
    root = path if query in {"", "default"} else f"{path}/queues/{query}"
    return f"cp {shlex.quote(root)}/{_FOLDERS[info.state]}/{info.id},* ."
