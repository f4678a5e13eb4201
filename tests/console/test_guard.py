"""Who may see a console."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from spoolq.console import guard


def script() -> None:
    import streamlit as st

    from spoolq.console import guard

    guard.enter()
    st.text("seen")


def seen(app: AppTest) -> bool:
    return "seen" in [each.value for each in app.text]


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        *(("localhost", True), ("localhost:8501", True), ("127.0.0.1:8501", True), ("[::1]:8501", True)),
        *(("10.1.2.3", True), ("LOCALHOST", True), ("console.example.org", True), ("CONSOLE.example.org:80", True)),
        *(("", False), ("evil.example.com", False), ("localhost.evil.com", False), ("127.0.0.1.nip.io", False)),
        *(("a@localhost.evil", False), ("[::1", False), ("example.org", False)),
    ],
)
def test_only_known_names_are_answered(host, allowed):
    assert guard.host_allowed(host, {guard.HOSTS_VARIABLE: "x.example, Console.Example.org"}) is allowed


def test_tokens_are_compared_as_bytes():
    assert guard.same("ü", "ü")
    assert not guard.same("ü", "u")
    assert not guard.same("", "x")
    assert not guard.same("\ud800", "x")


def test_on_this_machine_nothing_is_asked(here):
    assert seen(AppTest.from_function(script).run())


def test_another_name_sees_nothing(here, monkeypatch):
    monkeypatch.setattr(guard, "host_header", lambda: "evil.example.com")
    app = AppTest.from_function(script).run()
    assert not seen(app)
    assert "does not answer" in app.error[0].value


def test_a_browser_that_names_nothing_sees_nothing(here, monkeypatch):
    monkeypatch.setattr(guard, "host_header", lambda: "")
    assert not seen(AppTest.from_function(script).run())


def test_beyond_this_machine_nothing_is_shown_without_a_token(here, monkeypatch):
    monkeypatch.setattr(guard, "listens_beyond", lambda: True)
    app = AppTest.from_function(script).run()
    assert not seen(app)
    assert not app.text_input
    assert any(guard.TOKEN_VARIABLE in each.value for each in app.text)


@pytest.mark.parametrize("beyond", [True, False])
def test_a_token_that_is_set_is_asked_for(here, monkeypatch, beyond):
    monkeypatch.setattr(guard, "listens_beyond", lambda: beyond)
    monkeypatch.setattr(guard, "_WRONG_S", 0.0)
    monkeypatch.setenv(guard.TOKEN_VARIABLE, "sesame ü")
    app = AppTest.from_function(script).run()
    assert not seen(app)
    app.text_input[0].set_value("wrong")
    app.button[0].click().run()
    assert not seen(app)
    assert app.error[0].value == "That is not the token."
    app.text_input[0].set_value("sesame ü")
    app.button[0].click().run()
    assert seen(app)
    assert seen(app.run())


def test_streamlit_listens_everywhere_unless_told_otherwise():
    """So its default counts as reachable."""
    assert not guard.is_loopback("")
    assert not guard.is_loopback("0.0.0.0")
    assert guard.is_loopback("127.0.0.1")
    assert guard.is_loopback("::1")
