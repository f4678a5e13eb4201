"""For the tests of pages: drawing one without a browser, what stands in it, and waiting for words in a browser."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamlit.testing.v1 import AppTest

from spoolq.console import admin, ops

PAGES = [tuple(each.page.__module__.split(".")[-2:]) for kind in (ops, admin) for each in kind.PAGES]
"""Every page that a navigation has, by its console and its module."""

HOSTILE = "<b>x</b> **y** [z](http://evil.example) :smile: \x1b[31mred"

MARKDOWN = ("markdown", "caption", "error", "warning", "success", "info", "subheader", "header", "title")
"""What Streamlit reads as markdown, so that nothing of a message may stand there as it came."""


# Without a browser --------------------------------------------------------------------


def opened(kind: str, page: str, **query: str) -> AppTest:
    """A page, drawn."""
    app = AppTest.from_string(f"from spoolq.console.{kind} import {page}\n{page}.page()\n", default_timeout=20)
    for name, value in query.items():
        app.query_params[name] = value
    return checked(app.run())


def checked(app: AppTest) -> AppTest:
    """The same; what was thrown fails the test."""
    assert [each.value for each in app.exception] == []
    return app


def click(app: AppTest, key: str) -> AppTest:
    """The page after a click on the button of this key."""
    app.button(key=key).click()
    return checked(app.run())


def confirmed(app: AppTest) -> AppTest:
    """The page after the dialog was answered."""
    return click(app, "confirm-do")


def plain(values: Iterable[str]) -> str:
    """What people read: without the escapes."""
    return "\n".join(values).replace("\\", "").replace("\u2060", "")


def said(app: AppTest) -> str:
    """The note at the top."""
    return plain(each.value for each in app.success)


def wrong(app: AppTest) -> str:
    """The errors."""
    return plain(each.value for each in app.error)


def texts(app: AppTest) -> str:
    """Text, code and captions."""
    return plain(each.value for kind in ("text", "code", "caption") for each in app.get(kind))


def table(app: AppTest, column: str) -> list[object]:
    """The first table with this column, its values."""
    return next(list(each.value[column]) for each in app.dataframe if column in each.value)


# In a browser -------------------------------------------------------------------------


def text(page: Any, words: str) -> Any:
    """Wait for text on the page; a failure shows what is there instead."""
    found = page.get_by_text(words).first
    try:
        found.wait_for()
    except Exception as error:
        raise AssertionError(f"{words!r} is not on the page, but:\n{page.inner_text('body')}") from error
    return found


def press(page: Any, name: str) -> None:
    """Click the button of this name."""
    page.get_by_role("button", name=name, exact=True).click()


def number(page: Any, label: str, value: str) -> None:
    """Wait until a tile shows this."""
    page.get_by_test_id("stMetric").filter(has_text=label).get_by_text(value, exact=True).first.wait_for()
