"""What lies on the disk, by queue and state; what is free, the reserve, and when it is reached at the present rate."""

from __future__ import annotations

import streamlit as st

from spoolq.console import parts, place, words
from spoolq.console.admin import figures, looks
from spoolq.errors import NotCapable
from spoolq.interfaces import Queue
from spoolq.models import STATES, Health, Stats

EVERY_S = 5.0
_FAR_S = 10 * 365 * 86_400


def page() -> None:
    """Draw it."""
    parts.frame("Disk", _draw)


@st.fragment(run_every=EVERY_S)
def _draw(queue: Queue) -> None:
    with parts.trouble():
        now_ms = place.now_ms()
        try:
            _room(queue.health(), now_ms)
        except NotCapable as error:
            then = "It is the database server's: look there." if place.is_database() else words.trouble(error)[0]
            parts.empty("Nothing is known of a disk here.", then)
        st.markdown("**Messages, by queue and state**")
        parts.table(usage([each[-1].stats for _, each in looks.everything()]), "usage")
        besides = "a row is kept for each" if place.is_database() else "a file system rounds each up to a block"
        st.caption(words.label(f"As of {words.clock(now_ms)}. Bodies alone; {besides}."))


def usage(all_stats: list[Stats]) -> dict[str, list[object]]:
    """How many and how large, by queue and state, with a row of all."""
    cells: dict[str, list[object]] = {"queue": [stats.queue for stats in all_stats]}
    sums: list[object] = []
    for state in STATES:
        counts = [getattr(stats, state) for stats in all_stats]
        sizes = [getattr(stats, f"{state}_bytes") for stats in all_stats]
        cells[state] = [_cell(count, size) for count, size in zip(counts, sizes, strict=True)]
        sums.append(_cell(sum(counts), sum(sizes)))
    totals = [sum(getattr(stats, f"{state}_bytes") for state in STATES) for stats in all_stats]
    cells["in all"] = [words.size(total) for total in totals]
    if len(all_stats) > 1:
        for column, value in zip(cells.values(), ["all", *sums, words.size(sum(totals))], strict=True):
            column.insert(0, value)
    return cells


def _cell(count: int, size: int) -> str:
    return f"{count:,} · {words.size(size)}" if count else "-"


def _room(health: Health, now_ms: int) -> None:
    left_bytes = health.disk_free_bytes - health.reserve_bytes
    left_inodes = health.disk_free_inodes - health.reserve_inodes
    if not health.has_room:
        st.error("The reserve is reached: nothing more is enqueued. Claims, acknowledgements and cleanup go on.")
        st.text("Free some space, clean up, or lower [reserve] in the queue's settings.")
    with st.container(horizontal=True, gap="small", key="room"):
        st.metric("free", words.size(health.disk_free_bytes), width=140, border=True)
        st.metric("of", words.size(health.disk_bytes), width=140, border=True)
        st.metric("kept in reserve", words.size(health.reserve_bytes), width=140, border=True)
        st.metric("inodes free", f"{health.disk_free_inodes:,}" if health.disk_inodes else "no limit", width=140,
                  border=True)  # fmt: skip
        st.metric("index", words.size(health.index_bytes), width=140, border=True)
    used = 1 - health.disk_free_bytes / health.disk_bytes if health.disk_bytes else 0.0
    st.progress(min(1.0, max(0.0, used)), words.label(f"{used:.0%} of the disk is used"))
    by_bytes, by_inodes = looks.seen().sample(now_ms, health)
    st.text(forecast("Space", left_bytes, by_bytes))
    if health.disk_inodes:
        st.text(forecast("Inodes", left_inodes, by_inodes))


def forecast(of: str, left: int, samples: list[tuple[int, int]]) -> str:
    """When nothing of it is left beside the reserve, in words. Pure."""
    rate = figures.loss_rate(samples)
    if left <= 0:
        return f"{of}: none is left beside the reserve."
    if rate is None:
        return f"{of}: when none is left is known after this console has looked for 10 s."
    over = words.span((samples[-1][0] - samples[0][0]) // 1000)
    seconds = figures.full_in_s(left, rate)
    if seconds is None or seconds > _FAR_S:
        return f"{of}: does not run out at the rate of the last {over}."
    pace = words.size(round(rate * 3600)) if of == "Space" else f"{rate * 3600:,.0f}"
    return f"{of}: none left in {words.span(int(seconds))} at the rate of the last {over} ({pace} an hour)."
