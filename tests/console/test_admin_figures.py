"""What the admin console computes: rates, percentiles, charts, ages, forecasts, and what it says of them. Pure."""

from __future__ import annotations

import pytest

from spoolq.console.admin import cleanup, disk, figures, health, overview, processes, queues
from spoolq.console.admin.figures import Look
from spoolq.errors import SettingsError
from spoolq.models import Health, Minute, Stats
from spoolq.settings import Settings, describe
from spoolq.stack.programs import Program
from spoolq.stack.watched import Event

BOUNDS = (0.1, 1.0, None)


def stats(*, enqueued: int = 0, acknowledged: int = 0, waits: tuple[int, int, int] = (0, 0, 0)) -> Stats:
    return Stats(
        queue="q",
        enqueued_total=enqueued,
        acknowledged_total=acknowledged,
        wait_histogram=tuple(zip(BOUNDS, waits, strict=True)),
    )


def minute(at_ms: int, **counts: float) -> Minute:
    found = dict.fromkeys(("enqueued", "acknowledged", "failed", "dead", "ready", "scheduled", "claimed"), 0)
    return Minute(minute_at_ms=at_ms, **({"wait_s": 0.0, "process_s": 0.0} | found | counts))  # type: ignore[arg-type]


# Rates and waiting ---------------------------------------------------------------------


def test_rates_are_the_difference_of_two_looks():
    pace = figures.pace([Look(0, stats(enqueued=100)), Look(20_000, stats(enqueued=160, acknowledged=20))])
    assert (pace.in_rate, pace.out_rate) == (3.0, 1.0)


def test_after_one_look_no_rate_is_known_and_waits_are_of_all_time():
    pace = figures.pace([Look(0, stats(enqueued=9, waits=(50, 100, 100)))])
    assert pace == figures.Pace(None, None, 0.1, pytest.approx(0.91), False)


def test_waits_of_the_last_minute_come_before_those_of_all_time():
    """A slow past does not hide a fast present."""
    slow, also_fast = (0, 1000, 1000), (100, 1100, 1100)
    pace = figures.pace([Look(0, stats(waits=slow)), Look(30_000, stats(waits=also_fast))])
    assert pace.recent
    assert pace.wait_p95_s == pytest.approx(0.095)
    still = figures.pace([Look(0, stats(waits=slow)), Look(30_000, stats(waits=slow))])
    assert not still.recent
    assert still.wait_p50_s == pytest.approx(0.55)


def test_looks_older_than_a_minute_go_but_for_the_one_that_spans_it():
    looks: list[Look] = []
    for at_s in range(0, 200, 10):
        looks = figures.kept(looks, Look(at_s * 1000, stats(enqueued=at_s)))
    assert [each.at_ms // 1000 for each in looks] == [120, 130, 140, 150, 160, 170, 180, 190]


def test_an_index_that_was_made_anew_begins_anew():
    """Its totals begin at what is there: no rate below zero."""
    looks = figures.kept([Look(0, stats(enqueued=100))], Look(5000, stats(enqueued=3)))
    assert [each.at_ms for each in looks] == [5000]


@pytest.mark.parametrize(
    ("counts", "share", "value"),
    [((10, 10, 10), 0.5, 0.05), ((0, 10, 10), 0.5, 0.55), ((0, 0, 10), 0.95, 1.0), ((0, 0, 0), 0.5, None)],
)
def test_percentiles_lie_evenly_in_their_bucket(counts, share, value):
    assert figures.percentile(tuple(zip(BOUNDS, counts, strict=True)), share) == (
        None if value is None else pytest.approx(value)
    )
    assert figures.percentile((), share) is None


def test_rates_of_the_history_are_of_five_whole_minutes():
    """The minute that has not ended is not among them."""
    history = [minute(at * 60_000, enqueued=60, acknowledged=30) for at in range(1, 11)]
    assert figures.pace_of(history, 10 * 60_000 + 500) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("rate", "said"), [(None, "-"), (0, "0/s"), (0.05, "3.0/min"), (3.21, "3.2/s"), (1234, "1,234/s")]
)
def test_rates_in_words(rate, said):
    assert figures.rate_words(rate) == said


@pytest.mark.parametrize(("seconds", "said"), [(None, "-"), (0.004, "4 ms"), (1.34, "1.3 s"), (312, "5m 12s")])
def test_waits_in_words(seconds, said):
    assert figures.wait_words(seconds) == said


# Charts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("span", "most"), [("hour", 62), ("day", 98), ("week", 86)])
def test_a_chart_has_about_as_many_points_whatever_its_span(span, most):
    now_ms = 1_900_000_000_000
    history = [minute(now_ms // 60_000 * 60_000 - at * 60_000, enqueued=2, ready=7) for at in range(10_080)][::-1]
    points = figures.points(history, span, now_ms)
    assert most - 3 <= len(points) <= most
    within = [each for each in history if each.minute_at_ms >= points[0].at_ms]
    assert sum(point.enqueued for point in points) == 2 * len(within)
    assert {point.ready for point in points} == {7}


def test_a_quiet_minute_keeps_what_was_there_and_counts_nothing():
    now_ms = 3_600_000 * 10
    points = figures.points([minute(now_ms - 300_000, enqueued=5, ready=5, acknowledged=2, wait_s=3.0)], "hour", now_ms)
    assert [point.ready for point in points[-7:]] == [None, 5, 5, 5, 5, 5, 5]
    assert [point.enqueued for point in points[-7:]] == [0, 5, 0, 0, 0, 0, 0]
    assert [point.wait_s for point in points[-7:]] == [None, 1.5, None, None, None, None, None]


# Ages and disk ------------------------------------------------------------------------------


def test_ages_by_queue_with_the_fullest_first_and_a_row_of_all():
    few, many = [1] + [0] * 7, [5, 4] + [0] * 5 + [2]
    table = figures.age_table([("few", few), ("many", many)])
    assert table["queue"] == ["all", "many", "few"]
    assert table["waiting"] == [12, 11, 1]
    assert [table["to 1m"], table["to 5m"], table["older"]] == [[6, 5, 1], [4, 4, 0], [2, 2, 0]]
    assert figures.age_heads() == ["to 1m", "to 5m", "to 15m", "to 1h", "to 4h", "to 1d", "to 7d", "older"]


def test_the_loss_is_what_the_samples_say_on_the_whole():
    """Least squares: one sample that is off does not decide."""
    even = [(at * 1000, 1000 - 2 * at) for at in range(60)]
    assert figures.loss_rate(even) == pytest.approx(2)
    assert figures.loss_rate([*even[:-1], (59_000, 1000)]) == pytest.approx(2, rel=0.25)
    assert figures.loss_rate(even[:5]) is None


@pytest.mark.parametrize(
    ("left", "rate", "seconds"),
    [(100, 2.0, 50.0), (0, 2.0, 0.0), (-1, None, 0.0), (100, None, None), (100, -1.0, None)],
)
def test_in_how_long_it_is_full(left, rate, seconds):
    assert figures.full_in_s(left, rate) == seconds


def test_samples_are_thinned_and_span_all_the_time():
    samples: list[tuple[int, int]] = []
    for at in range(2000):
        samples = figures.sampled(samples, (at, at), most=50)
    assert len(samples) <= 50
    assert (samples[0], samples[-1]) == ((0, 0), (1999, 1999))


@pytest.mark.parametrize(
    ("left", "samples", "said"),
    [
        (0, [], "none is left"),
        (10, [(0, 10)], "after this console has looked"),
        (7200, [(0, 7320), (60_000, 7260), (120_000, 7200)], "none left in 2h"),
        (7200, [(0, 7200), (60_000, 7200)], "does not run out"),
    ],
)
def test_the_forecast_in_words(left, samples, said):
    assert said in disk.forecast("Space", left, samples)


def test_usage_by_queue_and_state_with_a_row_of_all():
    table = disk.usage([Stats(queue="a", ready=2, ready_bytes=2048), Stats(queue="b", dead=1, dead_bytes=10)])
    assert table["queue"] == ["all", "a", "b"]
    assert table["ready"][1].startswith("2 · 2.0 K")
    assert (table["ready"][2], table["dead"][0]) == ("-", table["dead"][2])


# Settings, cleanup, processes, health ---------------------------------------------------------


def test_fields_that_nobody_touched_are_the_settings_they_show():
    changed = Settings(max_attempts=9, durability="full")
    assert queues.wanted({each.key: each.default for each in describe(changed)}) == changed


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("max_attempts", "0", "from 1"),
        ("max_attempts", "many", "not a value of TOML"),
        ("lease_s", '"60"', "a number"),
        ("drops.ignore", '["a", 1]', "a list"),
        ("lease_s", "1\nmax_attempts = 7", "not a value"),
    ],
)
def test_a_setting_that_is_not_allowed_is_refused_by_name(key, text, said):
    with pytest.raises(SettingsError, match=said) as refused:
        queues.wanted({each.key: each.default for each in describe()} | {key: text})
    assert refused.value.key == key


def test_what_would_go_in_words():
    counts = {"done": 3, "done_bytes": 2048, "orphans": 0}
    assert cleanup.in_all(counts) == 3
    assert cleanup.cells(counts)["how many"] == [3]
    assert cleanup.cells(counts)["size"][0].startswith("2.0 K")
    assert "kept for 1d" in cleanup.kept_words(86_400, 0)
    assert "deleted at once" in cleanup.kept_words(0, 60)


def program(name: str, state: str) -> Program:
    return Program(name, name, state, 0, "Exited too quickly", f"logs/{name}.log")


def event(name: str, what: str, at_ms: int) -> Event:
    return Event(at_ms=at_ms, program=name, what=what, from_state="", to_state="")


def test_programs_that_fail_or_loop_are_named_once():
    programs = [
        program("api", "FATAL"),
        program("watch", "RUNNING"),
        program("off", "STOPPED"),
        program("up", "BACKOFF"),
    ]
    events = [
        event("watch", "looping", 1_000_000),
        event("watch", "looping", 990_000),
        event("off", "looping", 1_000_000),
    ]
    said = processes.alarms(programs, events, 1_010_000)
    assert [line.split()[0] for line in said] == ["api", "up", "watch"]
    assert "gave up" in said[0]
    assert "logs/api.log" in said[0]
    assert processes.alarms(programs[1:3], events, 1_010_000 + 600_000) == []


def test_times_that_are_not_known_are_said_so():
    zero = dict.fromkeys(
        ("disk_bytes", "disk_free_bytes", "disk_inodes", "disk_free_inodes", "reserve_bytes", "reserve_inodes"), 0
    )
    known = Health(**zero, has_room=False, index_bytes=1, last_scan_ms=2, last_clean_at_ms=0, last_scan_at_ms=1)
    facts = dict(health.facts(known, 5001))
    assert facts["last cleanup"] == facts["index made"] == "not yet"
    assert (facts["last scan of new/"], facts["room to enqueue"]) == ("5s ago", "no")


def test_a_chart_has_a_clock_of_24_hours_in_utc_and_leaves_out_what_is_not_known():
    made = overview.chart([0, 60_000], "line", {"ready": [None, 3], "claimed": [1, 2]}, "hour")
    assert made["data"]["values"] == [
        {"at": 60_000, "of": "ready", "count": 3},
        {"at": 0, "of": "claimed", "count": 1},
        {"at": 60_000, "of": "claimed", "count": 2},
    ]
    across = made["encoding"]["x"]
    assert (across["scale"]["type"], across["axis"]["format"]) == ("utc", "%H:%M")
    # All of the span, also where nothing is known of its beginning.
    assert [(end["hours"], end["minutes"]) for end in across["scale"]["domain"]] == [(0, 0), (0, 1)]
