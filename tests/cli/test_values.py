"""What people write on a command line, and what is read from it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq.cli import values


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("1.5", 1.5),
        ("90s", 90),
        ("10m", 600),
        ("2h", 7200),
        ("7d", 604_800),
        ("1w", 604_800),
        ("250ms", 0.25),
        ("1h30m", 5400),
        ("1.5h", 5400),
    ],
)
def test_durations_are_seconds_or_carry_a_unit(text, seconds):
    assert values.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-5", "+5", "5x", "m", "10 m", "1e9", "nan", "inf", "٣", "5s5"])
def test_a_duration_that_is_none_says_what_fits(text):
    with pytest.raises(ValueError, match="must be seconds, or a duration such as 90s"):
        values.duration(text)


@given(st.text(max_size=12))
def test_a_duration_is_read_or_refused_and_never_negative(text):
    try:
        found = values.duration(text)
    except ValueError:
        return
    assert found >= 0


def test_instants_are_iso_times_with_or_without_an_offset():
    expected = int(datetime(2031, 5, 1, 8, tzinfo=UTC).timestamp() * 1000)
    assert values.instant("2031-05-01T08:00:00Z") == expected
    assert values.instant("2031-05-01T10:00:00+02:00") == expected
    assert values.instant("2031-05-01 08:00") == int(datetime(2031, 5, 1, 8).astimezone().timestamp() * 1000)


@pytest.mark.parametrize("text", ["", "tomorrow", "2031-13-01", "99999-01-01"])
def test_an_instant_that_is_none_says_what_fits(text):
    with pytest.raises(ValueError, match="ISO 8601"):
        values.instant(text)


def test_a_pair_is_split_at_its_first_equals_sign():
    assert values.pair("a=b=c") == ("a", "b=c")
    assert values.pair("a=") == ("a", "")
    for text in ("a", "=b", ""):
        with pytest.raises(ValueError, match="KEY=VALUE"):
            values.pair(text)


def test_numbers_and_choices_say_what_fits():
    assert values.whole("12") == 12
    assert values.number("1.5") == 1.5
    assert values.one_of("a", "b")("b") == "b"
    for read in (values.whole, values.number, values.one_of("a", "b")):
        with pytest.raises(ValueError, match="must be"):
            read("x")
