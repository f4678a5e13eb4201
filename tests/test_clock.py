"""The clock, and the ids that come from it."""

import os
import threading
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq.clock import Clock, id_time_ms
from spoolq.testing import FakeClock

LIMIT_S = 60
MS = st.integers(0, 2**48 - 1)


@given(MS)
def test_an_id_is_a_uuid_of_version_7(now_ms):
    """RFC 9562: version 7, variant 10, canonical lower case, the time in the first 48 bits."""
    text = Clock().new_id(now_ms)
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert id_time_ms(text) == now_ms
    assert parsed.int >> 80 == now_ms


@given(st.lists(MS, min_size=1, max_size=50))
def test_ids_of_one_clock_sort_in_the_order_they_were_made(times):
    """Strictly, as text, whatever the wall clock does."""
    clock = Clock()
    ids = [clock.new_id(now_ms) for now_ms in times]
    assert ids == sorted(set(ids))


def test_ten_thousand_in_one_millisecond():
    """The counter does not run out, and the ids stay in their millisecond."""
    clock = Clock()
    ids = [clock.new_id(1_700_000_000_000) for _ in range(10_000)]
    assert ids == sorted(set(ids))
    assert {id_time_ms(each) for each in ids} == {1_700_000_000_000}


def test_a_clock_that_goes_back_keeps_the_last_time():
    """Ids go on from the latest instant seen until the wall clock has caught up."""
    clock = Clock()
    before = clock.new_id(2_000)
    during = [clock.new_id(now_ms) for now_ms in (1_000, 1_999, 2_000)]
    after = clock.new_id(2_001)
    assert [before, *during, after] == sorted([before, *during, after])
    assert [id_time_ms(each) for each in during] == [2_000] * 3
    assert id_time_ms(after) == 2_001


def test_a_counter_that_overflows_borrows_a_millisecond():
    """Not even then does an id repeat or sort before an earlier one."""
    clock = Clock()
    first = clock.new_id(5_000)
    clock._counter = (1 << 74) - 1
    second, third = clock.new_id(5_000), clock.new_id(5_000)
    assert first < second < third
    assert [id_time_ms(each) for each in (second, third)] == [5_001, 5_001]
    assert uuid.UUID(second).version == 7


@pytest.mark.parametrize("room", [1 << 48, 1 << 62, 1 << 74])
def test_ids_made_together_sort_and_are_of_one_instant(room):
    """Also where the counter carries into a further part of the text among them, and where it overflows."""
    clock = Clock()
    before = clock.new_id()
    clock._last_ms += 60_000  # ahead of the wall clock, so that the counter goes on
    clock._counter = room - 50 * (1 << 31)
    together = clock.new_ids(100)
    after = clock.new_id()
    assert [before, *together, after] == sorted({before, *together, after})
    assert len({id_time_ms(each) for each in together}) == 1
    assert [str(uuid.UUID(each)) for each in together] == together
    assert {(uuid.UUID(each).version, uuid.UUID(each).variant) for each in together} == {(7, uuid.RFC_4122)}


def test_none_made_together():
    """An empty batch."""
    assert Clock().new_ids(0) == []


def test_ids_of_several_clocks_do_not_meet():
    """Two processes in the same millisecond: 74 bits of chance."""
    ids = {Clock().new_id(1_700_000_000_000) for _ in range(10_000)}
    assert len(ids) == 10_000


def test_threads_do_not_meet():
    """Eight threads on one clock: every id once, and in order within each thread."""
    clock = Clock()
    made: list[list[str]] = [[] for _ in range(8)]
    threads = [
        threading.Thread(target=lambda mine=mine: mine.extend(clock.new_id() for _ in range(2000))) for mine in made
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert len({each for mine in made for each in mine}) == 16_000
    assert all(mine == sorted(mine) for mine in made)


def test_a_fork_does_not_meet_its_parent():
    """Both sides go on from the same counter, by steps of chance: no id is made twice."""
    clock = Clock()
    clock.new_id(1_700_000_000_000)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = "\n".join(clock.new_id(1_700_000_000_000) for _ in range(500))
            os.write(writer, text.encode())
        finally:
            os._exit(0)
    os.close(writer)
    mine = {clock.new_id(1_700_000_000_000) for _ in range(500)}
    with os.fdopen(reader) as file:
        theirs = set(file.read().split("\n"))
    os.waitpid(child, 0)
    assert len(theirs) == 500
    assert not mine & theirs


def test_the_clocks_of_this_machine():
    """Wall in UTC milliseconds, monotonic in seconds, boot in milliseconds, each going forward."""
    clock = Clock()
    assert abs(clock.wall_ms() - time.time() * 1000) < 60_000
    assert clock.mono_s() <= clock.mono_s()
    assert 0 < clock.boot_ms() <= clock.boot_ms()
    assert clock.boot_id() == clock.boot_id()


def test_a_fake_clock_stands_until_it_is_moved():
    """`advance` moves every clock, `set_wall` the wall clock alone; the monotonic one runs on."""
    clock = FakeClock(wall_ms=1_000)
    boot_ms, mono_s = clock.boot_ms(), clock.mono_s()
    clock.advance(2.5)
    assert (clock.wall_ms(), clock.boot_ms() - boot_ms) == (3_500, 2_500)
    assert clock.mono_s() - mono_s >= 2.5
    clock.set_wall(10)
    assert (clock.wall_ms(), clock.boot_ms() - boot_ms) == (10, 2_500)
    assert id_time_ms(clock.new_id()) == 10


@pytest.mark.parametrize("clock", [Clock(), FakeClock()], ids=["real", "fake"])
def test_an_id_bears_the_present(clock):
    """Without an argument its time is the wall clock's."""
    before = clock.wall_ms()
    assert before <= id_time_ms(clock.new_id()) <= clock.wall_ms()
