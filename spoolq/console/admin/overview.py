"""All queues at a glance: how many, how fast, how long they wait and how old they are; one queue's charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import streamlit as st

from spoolq.console import parts, place, words
from spoolq.console.admin import figures, looks
from spoolq.errors import SpoolqError
from spoolq.interfaces import Queue
from spoolq.models import Minute

EVERY_S = 2.0
CHARTS_EVERY_S = 15.0
CHART_HEIGHT = 190
TIMES = {"hour": "%H:%M", "day": "%H:%M", "week": "%d %b"}
COLORS = ["#14958c", "#8b93a1", "#d2822d"]
"""Told apart on light and on dark."""


def page() -> None:
    """Draw it."""
    parts.frame("Overview", _draw)


def _draw(queue: Queue) -> None:
    _paces(queue.name)
    _all()
    _charts(queue)


@st.fragment(run_every=EVERY_S)
def _paces(name: str) -> None:
    """The chosen queue's speed and waiting time."""
    with parts.trouble():
        queue, stats = place.looked_at(name)
        now_ms = place.now_ms()
        pace = figures.pace(looks.seen().look(queue.name, figures.Look(now_ms, stats)))
        oldest = stats.oldest_ready_at_ms
        in_rate, out_rate = pace.in_rate, pace.out_rate
        if in_rate is None and queue.capabilities.history:
            in_rate, out_rate = figures.pace_of(_minutes(queue, "hour"), now_ms)
        with st.container(horizontal=True, gap="small", key="paces"):
            for label, value in (
                ("oldest waits", words.span(max(0, (now_ms - oldest) // 1000)) if oldest is not None else "-"),
                ("in", figures.rate_words(in_rate)),
                ("out", figures.rate_words(out_rate)),
                ("wait p50", figures.wait_words(pace.wait_p50_s)),
                ("wait p95", figures.wait_words(pace.wait_p95_s)),
            ):
                st.metric(label, value, width=128, border=True)
        since = "the queue" if place.is_database() else "the index"
        over = "in the last minute" if pace.recent else f"since {since} was made: nothing was taken in the last minute"
        st.caption(words.label(f"Rates over the last minute. Waiting times {over}."))


@st.fragment(run_every=EVERY_S)
def _all() -> None:
    """Every queue in a line, then how old what waits is."""
    with parts.trouble():
        now_ms = place.now_ms()
        found = looks.everything()
        st.markdown("**All queues**")
        parts.table(_queue_cells([each for _, each in found], now_ms), "all-queues")
        st.markdown("**Waiting, by age**")
        counts = [(queue.name, _ages(queue)) for queue, _ in found]
        if not any(sum(row) for _, row in counts):
            parts.empty("Nothing waits.", "What is enqueued or dropped, and is ready, is counted here by age.")
        else:
            parts.table(figures.age_table(counts), "ages")
        st.caption(words.label(f"As of {words.clock(now_ms)}; ages since the message was enqueued."))


def _queue_cells(all_looks: Sequence[Sequence[figures.Look]], now_ms: int) -> dict[str, list[object]]:
    cells: dict[str, list[object]] = {
        head: []
        for head in (
            *("queue", "ready", "scheduled", "claimed", "done", "dead", "oldest waits", "in", "out", "wait p50"),
            *("wait p95", "size", "paused"),
        )
    }
    for each in all_looks:
        stats, pace = each[-1].stats, figures.pace(each)
        oldest = stats.oldest_ready_at_ms
        row = (
            *(stats.queue, stats.ready, stats.scheduled, stats.claimed, stats.done, stats.dead),
            words.span(max(0, (now_ms - oldest) // 1000)) if oldest is not None else "-",
            *(figures.rate_words(pace.in_rate), figures.rate_words(pace.out_rate)),
            *(figures.wait_words(pace.wait_p50_s), figures.wait_words(pace.wait_p95_s)),
            words.size(stats.ready_bytes + stats.scheduled_bytes + stats.claimed_bytes + stats.done_bytes
                       + stats.dead_bytes),
            "paused" if stats.paused else "",
        )  # fmt: skip
        for column, value in zip(cells.values(), row, strict=True):
            column.append(value)
    return cells


@st.cache_data(ttl=looks.AGES_S, max_entries=500, show_spinner=False)
def _counted(spool: str, name: str) -> list[int]:
    """Kept for some seconds: at a million messages it costs tens of milliseconds."""
    return list(place.queue(name).ages(figures.AGE_BOUNDS_S))


def _ages(queue: Queue) -> list[int]:
    return _counted(place.spool(), queue.name)


@st.cache_data(ttl=looks.HISTORY_S, max_entries=200, show_spinner=False)
def _history(spool: str, name: str, span: str) -> list[Minute]:
    since = place.now_ms() - (figures.SPANS_S[span] + figures.STEPS_S[span]) * 1000
    return list(place.queue(name).minutes(since))


def _minutes(queue: Queue, span: str) -> list[Minute]:
    return _history(place.spool(), queue.name, span)


@st.fragment(run_every=CHARTS_EVERY_S)
def _charts(queue: Queue) -> None:
    """The chosen queue over the last hour, day or week."""
    with parts.trouble():
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.text(f"History of {words.line(queue.name)}", width="content")
            span = st.segmented_control(
                "Over the last", list(figures.SPANS_S), default="hour", required=True, key="span",
                label_visibility="collapsed", width="content",
            )  # fmt: skip
        if not queue.capabilities.history:
            parts.empty("This engine keeps no history.", "The local spool and its server keep it, minute by minute.")
            return
        try:
            points = figures.points(_minutes(queue, str(span)), str(span), place.now_ms())
        except SpoolqError as error:
            parts.show(error)
            return
        if not any(point.ready or point.enqueued or point.acknowledged or point.failed for point in points):
            parts.empty(
                f"Nothing happened in the last {span}.", "The next message that is enqueued goes on with the history."
            )
            return
        _draw_charts(points, str(span))


def _draw_charts(points: Sequence[figures.Point], span: str) -> None:
    step = words.span(figures.STEPS_S[span])
    charts: tuple[tuple[str, str, dict[str, list[float | None]]], ...] = (
        # Bars where a single point matters: a line of one point cannot be seen.
        ("Messages there", "line", {
            "ready": [point.ready for point in points],
            "scheduled": [point.scheduled for point in points],
            "claimed": [point.claimed for point in points],
        }),
        (f"What happened, per {step}", "bar", {
            "enqueued": [point.enqueued for point in points],
            "acknowledged": [point.acknowledged for point in points],
            "failed": [point.failed for point in points],
        }),
        ("Waited, on average, s", "bar", {"waited": [point.wait_s or 0.0 for point in points]}),
    )  # fmt: skip
    for column, (title, mark, lines) in zip(st.columns(3), charts, strict=True):
        with column:
            st.caption(words.label(title))
            st.vega_lite_chart(chart([point.at_ms for point in points], mark, lines, span), height=CHART_HEIGHT)
    st.caption("Times are UTC.")


def chart(at_ms: Sequence[int], mark: str, lines: Mapping[str, Sequence[float | None]], span: str) -> dict[str, Any]:
    """A chart as Vega-Lite has it: Streamlit's own writes half past three in the afternoon as 03:30. Pure."""
    values = [
        {"at": at, "of": name, "count": value}
        for name, of in lines.items()
        for at, value in zip(at_ms, of, strict=True)
        if value is not None
    ]
    axis = {"format": TIMES[span], "title": None, "tickCount": 5, "labelOverlap": True, "grid": False}
    marks: dict[str, dict[str, Any]] = {"line": {"point": {"size": 12}}, "bar": {"width": 3}}
    whole = {"tickMinStep": 1} if all(isinstance(each["count"], int) for each in values) else {}
    legend = {"orient": "bottom", "title": None} if len(lines) > 1 else None
    return {
        "data": {"values": values},
        "mark": {"type": mark, "tooltip": True, **marks[mark]},
        "encoding": {
            "x": {
                "field": "at",
                "type": "temporal",
                "scale": {"type": "utc", "domain": [_date(at_ms[0]), _date(at_ms[-1])]},
                "axis": axis,
            },
            "y": {"field": "count", "type": "quantitative", "axis": {"title": None, "tickCount": 4} | whole},
            "color": {
                "field": "of",
                "type": "nominal",
                "scale": {"domain": list(lines), "range": COLORS[: len(lines)]},
                "legend": legend,
            },
        },
    }


def _date(at_ms: int) -> dict[str, int | bool]:
    """An instant as an end of a scale: a bare number is taken for something else there."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return {
        "year": at.year, "month": at.month, "date": at.day, "hours": at.hour, "minutes": at.minute, "utc": True,
    }  # fmt: skip
