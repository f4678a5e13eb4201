"""What people see: sizes, spans, instants, and text that came with messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq.cli import text


@given(st.text())
def test_nothing_a_terminal_would_act_on_is_left(words):
    assert text.safe(words).isprintable()


def test_printable_text_stays_and_the_rest_is_spelled_out():
    assert text.safe("naïve, 日本 [red]") == "naïve, 日本 [red]"
    assert text.safe("\x1b[31mred\x07\n\u202e\ud800") == r"\x1b[31mred\x07\n\u202e\ud800"
    assert text.safe_lines("a\r\nb\x1b") == "a\\r\nb\\x1b"


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (10_240, "10 KiB"),
        (1_048_575, "1.0 MiB"),
        (52_428_800, "50 MiB"),
        (5_000_000_000_000_000, "4547 TiB"),
    ],
)
def test_sizes(count, shown):
    assert text.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (59, "59s"),
        (60, "1m"),
        (312, "5m 12s"),
        (12_000, "3h 20m"),
        (187_200, "2d 4h"),
        (-5, "-5s"),
    ],
)
def test_spans_show_their_two_largest_parts(seconds, shown):
    assert text.span(seconds) == shown


def test_instants_are_iso_in_utc():
    assert text.instant(1_800_000_000_123) == "2027-01-15T08:00:00.123Z"
    assert not text.instant(None)


def test_counts_have_their_plural():
    assert text.counted(1, "message") == "1 message"
    assert text.counted(2000, "message") == "2,000 messages"
