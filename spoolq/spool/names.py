"""File names: what a name says, and the name that says it. Pure; section 2 of docs/spool-format.md.

There is one spelling of each name, so that a name can be had from a row and compared byte for byte.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from spoolq.models import DEFAULT_PRIORITY

LABEL_MAX_BYTES = 120
EXTENSION_MAX_BYTES = 20
ATTEMPTS_MAX = 999_999
"""A name says no more than this, however often a message was delivered: it must not stop being a name."""

_ID = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_NONCE = r"[kl][0-9a-z]{6}[0-9a-z]{1,12}|t[0-9a-z]{12}"
_NAME = re.compile(
    rf"({_ID})(?:,p=([0-9]))?(?:,t=([1-9][0-9]{{0,14}}))?(?:,a=([1-9][0-9]{{0,5}}))?(?:,r=({_NONCE}))?(?:,n=(.+))?",
    re.DOTALL | re.ASCII,
)
_USUAL = re.compile(
    rf"{_ID}(?:,p=[0-46-9])?(?:,t=[1-9][0-9]{{0,14}})?(?:,a=[1-9][0-9]{{0,5}})?(?:,n=[A-Za-z0-9._+@%-]{{1,120}})?",
    re.ASCII,
)
_ID_ALONE = re.compile(_ID, re.ASCII)
_NONCE_ALONE = re.compile(_NONCE, re.ASCII)
_HOLDER = re.compile(r"[0-9a-z]{6}", re.ASCII)
_PLAIN_LABEL = re.compile(r"[A-Za-z0-9._+@%-]{1,120}", re.ASCII)
_QUEUE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_KEPT_SIGNS = frozenset("._+@%-")


class Name(NamedTuple):
    """What a file name says. due_at_ms: `t=`; nonce: `r=`; label: `n=`."""

    id: str
    priority: int = DEFAULT_PRIORITY
    due_at_ms: int | None = None
    attempts: int = 0
    nonce: str | None = None
    label: str | None = None


def format_name(
    id: str, priority: int, due_at_ms: int | None, attempts: int, nonce: str | None, label: str | None
) -> str:
    """The one file name that says this."""
    text = id
    if priority != DEFAULT_PRIORITY:
        text += f",p={priority}"
    if due_at_ms is not None:
        text += f",t={due_at_ms}"
    if attempts:
        text += f",a={min(attempts, ATTEMPTS_MAX)}"
    if nonce is not None:
        text += f",r={nonce}"
    if label is not None:
        text += f",n={label}"
    return text


def parse_name(text: str) -> Name | None:
    """What a file name says, or None where it is not a name of this format."""
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    id, priority, due, attempts, nonce, label = match.groups()
    if priority == "5" or (label is not None and not is_label(label)):
        return None
    return Name(
        id,
        DEFAULT_PRIORITY if priority is None else int(priority),
        None if due is None else int(due),
        0 if attempts is None else int(attempts),
        nonce,
        label,
    )


def is_name(text: str) -> bool:
    """Whether `parse_name` would read it, for long listings: most are told at one look, in a fifth of the time."""
    return _USUAL.fullmatch(text) is not None or parse_name(text) is not None


def is_id(text: str) -> bool:
    """Whether this is a message id as this format spells it."""
    return _ID_ALONE.fullmatch(text) is not None


def is_nonce(text: str) -> bool:
    """Whether this is a nonce."""
    return _NONCE_ALONE.fullmatch(text) is not None


def is_holder(text: str) -> bool:
    """Whether a file in `holders/` may be a consumer's."""
    return _HOLDER.fullmatch(text) is not None


def is_queue_name(text: str) -> bool:
    """Whether a queue may be called this: it can never leave the spool."""
    return _QUEUE_NAME.fullmatch(text) is not None and ".." not in text


def holder_of(nonce: str | None) -> str | None:
    """The holder that a nonce names, or None where the claim lives by time alone."""
    if nonce is None or nonce[0] == "t":
        return None
    return nonce[1:7]


def _kept(char: str) -> bool:
    return char in _KEPT_SIGNS or unicodedata.category(char)[0] in "LNM"


def is_label(text: str) -> bool:
    """Whether this can stand after `n=` as it is: what `clean_name` makes, and `,` and `=`, which end nothing there."""
    if _PLAIN_LABEL.fullmatch(text):
        return True
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return False
    return 0 < size <= LABEL_MAX_BYTES and all(char in ",=" or _kept(char) for char in text)


def clean_name(text: str | bytes) -> str:
    """The label made from any name: safe in a shell, at most 120 bytes, extension kept; "" where nothing is left.

    Bytes that are not UTF-8, and surrogate escapes, become `_`, as does every character but Unicode letters, marks,
    digits and `._+@%-`.
    """
    if isinstance(text, str):
        if _PLAIN_LABEL.fullmatch(text):
            return text
        raw = text.encode("utf-8", "surrogateescape")
    else:
        raw = text
    decoded = raw.decode("utf-8", "surrogateescape")
    return _cut("".join(char if _kept(char) else "_" for char in decoded))


def _cut(label: str) -> str:
    """Cut to the limit at a character, keeping a short extension."""
    raw = label.encode()
    if len(raw) <= LABEL_MAX_BYTES:
        return label
    stem, dot, extension = label.rpartition(".")
    tail = dot + extension if stem and extension else ""
    if not tail or len(tail.encode()) > EXTENSION_MAX_BYTES:
        stem, tail = label, ""
    room = LABEL_MAX_BYTES - len(tail.encode())
    return stem.encode()[:room].decode("utf-8", "ignore") + tail
