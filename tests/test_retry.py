"""How long a message that failed waits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq.retry import delay_s
from spoolq.settings import Retry

SECONDS = st.floats(0, 3_153_600_000)
RETRIES = st.builds(
    Retry,
    base_s=SECONDS,
    factor=st.floats(1, 1000),
    cap_s=SECONDS,
    jitter=st.floats(0, 1),
    list_s=st.lists(SECONDS, max_size=5).map(tuple),
)
CHANCE = st.floats(0, 1)


def never(*_):
    raise AssertionError("chance was asked")


@pytest.mark.parametrize(
    ("attempts", "expected"), [(1, 5), (2, 10), (3, 20), (4, 40), (10, 2560), (11, 3600), (5000, 3600)]
)
def test_it_doubles_up_to_the_cap(attempts, expected):
    """Base x factor^(attempts - 1), never over cap_s, at any number of attempts."""
    assert delay_s(attempts, Retry(jitter=0)) == expected


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 8.0), (0.5, 10.0), (1.0, 12.0)])
def test_jitter_goes_both_ways(chance, expected):
    """With jitter 0.2 a wait of 10 s is 8 to 12 s."""
    assert delay_s(2, Retry(), random=lambda: chance) == pytest.approx(expected)


def test_jitter_does_not_pass_the_cap():
    """The cap is the last word."""
    assert delay_s(50, Retry(cap_s=60), random=lambda: 1.0) == 60


def test_a_list_is_taken_as_it_stands():
    """Entry by entry without chance, the last one repeated; base, factor and cap do not matter."""
    retry = Retry(list_s=(1, 9000, 0), cap_s=5, jitter=1)
    assert [delay_s(attempts, retry, random=never) for attempts in (1, 2, 3, 4, 99)] == [1, 9000, 0, 0, 0]


def test_without_a_base_there_is_no_wait():
    """base_s = 0: at once, at any number of attempts."""
    assert [delay_s(attempts, Retry(base_s=0)) for attempts in (1, 2, 5000)] == [0, 0, 0]


def test_a_constant_wait():
    """Factor 1: the same each time."""
    assert [delay_s(attempts, Retry(base_s=7, factor=1, jitter=0)) for attempts in (1, 2, 5000)] == [7, 7, 7]


def test_chance_is_asked_by_default():
    """Two messages that failed together do not come back together."""
    assert len({delay_s(3, Retry()) for _ in range(20)}) > 1


@given(st.integers(1, 10**6), RETRIES, CHANCE)
def test_every_wait_is_within_its_bounds(attempts, retry, chance):
    """A finite number from 0 to the cap, or an entry of the list, whatever the settings allow."""
    wait = delay_s(attempts, retry, random=lambda: chance)
    if retry.list_s:
        assert wait in retry.list_s
    else:
        assert 0 <= wait <= retry.cap_s


@given(st.integers(1, 1000), RETRIES)
def test_a_later_attempt_never_waits_less(attempts, retry):
    """Chance and list apart, waits only grow."""
    plain = Retry(base_s=retry.base_s, factor=retry.factor, cap_s=retry.cap_s, jitter=0)
    assert delay_s(attempts, plain) <= delay_s(attempts + 1, plain)
