"""Problem documents as errors, by their type."""

import re
from pathlib import Path

import pytest

from spoolq import errors
from spoolq.client import problems
from tests.client.scripted import ID, RECEIPT, answer, problem

DOCUMENT = Path(__file__).parents[2] / "docs" / "rest-api.md"

EXPECTED = {
    "queue-not-found": errors.QueueNotFound,
    "message-not-found": errors.MessageNotFound,
    "lease-lost": errors.LeaseLost,
    "queue-exists": errors.QueueExists,
    "unsafe-file": errors.UnsafeFile,
    "too-large": errors.MessageTooLarge,
    "not-capable": errors.NotCapable,
    "busy": errors.Busy,
    "too-many": errors.Busy,
    "storage": errors.StorageError,
    "disk-full": errors.DiskFull,
    "queue-full": errors.QueueFull,
    "unauthorized": errors.NotAllowed,
    "forbidden": errors.NotAllowed,
    "invalid": ValueError,
    "malformed": ValueError,
}


def test_every_type_of_the_document_has_its_error():
    """docs/rest-api.md, section 3, lists them."""
    section = DOCUMENT.read_text().partition("## 3 Problems")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `([a-z-]+)` \| \d{3} \|", section, re.MULTILINE))
    assert len(listed) > 20
    assert listed <= {*problems.ERRORS, *problems.WRONG_ARGUMENTS}


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_problem_is_the_error_of_its_type(scripted, kind):
    """With the server's words and hint."""
    queue, _ = scripted(problem(kind, 400, detail="what it is", hint="Do this", message_id=ID))
    with pytest.raises(EXPECTED[kind], match="what it is") as caught:
        queue.acknowledge(RECEIPT)
    assert type(caught.value) is EXPECTED[kind]
    if isinstance(caught.value, errors.SpoolqError):
        assert caught.value.op == "acknowledge"
        assert caught.value.hint == ("Do this" if kind != "unauthorized" else problems._HINTS[kind])
        assert caught.value.message_id in (ID, "")


def test_the_type_counts_not_the_status(scripted):
    """409 is a lost lease and a queue that exists."""
    queue, _ = scripted(problem("queue-exists", 409))
    with pytest.raises(errors.QueueExists):
        queue.stats()


def test_a_wrong_value_is_named(scripted):
    """What the server says of each, once."""
    wrong = [{"where": "query.cursor", "message": "not one of a page"}, {"where": "query.limit", "message": "too many"}]
    queue, _ = scripted(problem("invalid", 422, detail="query.cursor: not one of a page", errors=wrong))
    with pytest.raises(ValueError, match=r"cursor: not one of a page; query\.limit: too many"):
        queue.stats()


def test_an_unknown_type_is_judged_by_its_status(scripted):
    """A newer server, or something between."""
    steps = (problem("new", 403), problem("new", 418), answer(429, b"slow", kind="text/plain"), answer(500))
    queue, _ = scripted(*steps)
    for expected in (errors.NotAllowed, errors.SpoolqError, errors.Busy, errors.SpoolqError):
        with pytest.raises(expected) as caught:
            queue.stats()
        assert type(caught.value) is expected


@pytest.mark.parametrize("said", [b"", b"<html>", b"[]", b"{}", b'{"ready":1}', b'{"queue":[]', b"\xff"])
def test_what_no_server_of_ours_answers(scripted, said):
    """A SpoolqError that says so, whatever it is."""
    queue, _ = scripted(*[answer(200, said)] * 2)
    with pytest.raises(errors.SpoolqError, match="not understood"):
        queue.stats()
    with pytest.raises(errors.SpoolqError, match="not understood"):
        queue.list()


def test_a_bug_of_the_server_names_its_request(scripted):
    """So that its log can be looked into."""
    queue, _ = scripted(problem("internal", 500, detail="a bug", request_id="r-17"))
    with pytest.raises(errors.SpoolqError, match="r-17"):
        queue.stats()


def test_fields_of_a_newer_server_are_passed_over(scripted):
    """Of values and of settings."""
    info = {"id": ID, "queue": "default", "state": "ready", "priority": 5, "attempts": 0, "name": None}
    info |= {"body_bytes": 1, "enqueued_at_ms": 1, "changed_at_ms": 1, "colour": "blue"}
    queue, _ = scripted(
        answer(200, info), answer(200, {"max_attempts": 7, "new": 1, "retry": {"base_s": 1, "new": {}}, "tables": {}})
    )
    assert queue.get(ID).id == ID
    assert (queue.settings.max_attempts, queue.settings.retry.base_s) == (7, 1.0)
