"""Text that is only text."""

import pytest

from spoolq.console import words
from spoolq.errors import DiskFull


def test_what_a_terminal_or_a_reader_would_act_on_is_shown():
    assert words.line("a\x1b[31mb\x07\u202ec\nd") == "a\\x1b[31mb\\x07\\u202ec\\nd"
    assert words.lines("one\r\ntwo\x00\n\ttab") == "one\ntwo\\x00\n        tab"


@pytest.mark.parametrize(
    "text", ["**b**", "<b>x</b>", "[a](http://x)", "`c`", "$x$", "# h", "- l", ":red[x]", "a|b", "![i](x)", "~s~", "\\"]
)
def test_a_label_escapes_every_mark(text):
    """Each mark of markdown has a backslash before it."""
    made = words.label(text)
    assert made.replace("\\\\", "").count("\\") == sum(not char.isalnum() and char not in " \\" for char in text)


@pytest.mark.parametrize("text", [":smile:", "http://x.org", "www.x.org", "a@b.org", "->"])
def test_a_label_breaks_what_is_made_of_text_after_markdown(text):
    """Emoji, links and arrows are looked for in plain text, so a mark that is escaped does not keep them away."""
    plain = words.label(text).replace("\\", "")
    assert text not in plain
    assert plain.replace(words.JOINER, "") == text


def test_a_label_has_an_end():
    assert len(words.label("x" * 5000)) == 300


def test_ages_say_the_direction():
    assert words.age(None, 10_000) == ""
    assert words.age(10_000, 10_000) == "now"
    assert words.age(10_000, 72_000) == "1m 2s ago"
    assert words.age(72_000, 10_000) == "in 1m 2s"


def test_instants_are_utc():
    assert words.instant(0) == "1970-01-01 00:00:00 UTC"
    assert words.clock(3_600_000) == "01:00:00 UTC"


def test_trouble_is_what_happened_and_what_to_do():
    assert words.trouble(DiskFull("no space", hint="free some")) == ("No space", "free some")
    assert words.trouble(ValueError("must be 1")) == ("Must be 1", "")
