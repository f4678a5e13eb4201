"""The worker's log lines."""

import logging

from spoolq.worker.events import emit, line


def test_a_line_has_a_name_and_fields():
    assert line("message.acknowledged", {"id": "x", "attempt": 1, "duration_s": 0.01234}) == (
        "message.acknowledged id=x attempt=1 duration_s=0.012"
    )


def test_values_that_would_break_the_line_are_quoted():
    assert line("e", {"a": "two words"}) == 'e a="two words"'
    assert line("e", {"a": "a=b", "b": ""}) == 'e a="a=b" b=""'
    assert line("e", {"a": 'say "hi"'}) == r'e a="say \"hi\""'
    assert line("e", {"a": "one\ntwo\x1b[31m\u2028"}) == r'e a="one\ntwo\u001b[31m\u2028"'
    assert line("e", {"a": "Übersicht.pdf"}) == "e a=Übersicht.pdf"


def test_fields_are_on_the_record_and_none_is_left_out(caplog):
    with caplog.at_level(logging.INFO, "spoolq.worker"):
        emit(logging.INFO, "message.requeued", id="x", signal=None)
        emit(logging.DEBUG, "message.started", id="x")
    (record,) = caplog.records
    assert record.getMessage() == "message.requeued id=x"
    assert (record.event, record.fields) == ("message.requeued", {"id": "x"})
