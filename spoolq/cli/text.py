"""How things are shown to people: sizes, spans, instants, and text from messages, which is never trusted. Pure."""

from __future__ import annotations


def safe(text: str) -> str:
    """One line of text from a message or a file's name: what a terminal would act on is shown, not done."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _shown(char) for char in text)


def safe_lines(text: str) -> str:
    """The same for text of several lines."""
    return "\n".join(safe(line.expandtabs()) for line in text.split("\n"))


def _shown(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def size(count: int) -> str:
    """Bytes for people: `512 B`, `1.5 KiB`, `12 MiB`."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1023.5 or unit == "TiB":
            break
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"


def span(seconds: float) -> str:
    """A duration for people, its two largest parts: `12s`, `5m 12s`, `3h 20m`, `2d 4h`."""
    if seconds < 0:
        return f"-{span(-seconds)}"
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    whole = int(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    first = next((at for at, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2] if count or first == 3)


def instant(at_ms: int | None) -> str:
    """An instant as ISO 8601 in UTC; "" for none."""
    if at_ms is None:
        return ""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def counted(count: int, what: str) -> str:
    """`1 message`, `2,000 messages`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
