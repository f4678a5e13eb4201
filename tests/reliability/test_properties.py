"""Whatever stands in a name, `queue.toml`, metadata, a receipt, or a request: words or a value, never a crash, never a
hang, and nothing outside the spool.
"""

import json
import os
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spoolq import settings as spoolq_settings
from spoolq.errors import LeaseLost, SpoolqError
from spoolq.models import Attempt
from spoolq.spool.meta import Arrival, arrival_line, attempt_line, read_arrival, read_meta
from spoolq.spool.names import format_name, parse_name
from spoolq.spool.queue import SpoolQueue
from tests.helpers import STATE_DIRECTORIES
from tests.reliability.figures import count

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
EXAMPLES = count(60, 1000)
LAZY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
NAMES = st.binary(min_size=1, max_size=200).filter(lambda name: b"/" not in name and b"\0" not in name)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
KEYS = ("kind", "headers", "dedup_key", "dedup_until_ms", "group", "expires_at_ms", "name", "name_b64", "attempt")
LINES = st.lists(
    st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(KEYS), JSON | st.sampled_from(["message", "attempt", "redriven"])).map(
        lambda value: json.dumps(value).encode()
    ),
    max_size=5,
)


@pytest.fixture(scope="module")
def queue(tmp_path_factory) -> Iterator[SpoolQueue]:
    home = tmp_path_factory.mktemp("properties")
    (home / "outside").write_bytes(b"untouched")
    spool = home / "spool"
    spool.mkdir(mode=0o700)
    (spool / "queue.toml").write_text('durability = "process"\n')
    with SpoolQueue.open(spool) as queue:
        yield queue
    assert (home / "outside").read_bytes() == b"untouched"
    assert sorted(os.listdir(home)) == ["outside", "spool"]


def root(queue: SpoolQueue) -> Path:
    return queue._directory.root


@given(text=st.text(max_size=80) | st.from_regex(rf"{ID}(,[patrn]=[^/]*)*", fullmatch=True))
@LAZY
def test_a_name_has_one_spelling_or_is_none(text):
    """What can be read is written back the same."""
    name = parse_name(text)
    assert name is None or format_name(*name) == text


@given(name=NAMES, body=st.binary(max_size=50))
@LAZY
def test_a_drop_of_any_name_is_delivered_or_waits(queue, name, body):
    """It becomes one message, or is left where it is; no other file comes to be."""
    path = os.path.join(os.fsencode(root(queue)), b"new", name)
    if name in {b".", b".."}:
        return
    with open(path, "wb") as file:
        file.write(body)
    queue.check()
    message = queue.dequeue()
    if message is None:
        os.unlink(path)
        return
    assert message.body == body
    # The exact name is kept, and the label is safe in a shell and on a disk.
    assert (message.original_name or message.name or "") in {os.fsdecode(name), message.name or ""}
    assert not set(message.name or "") & set("/\0 '\"$`;&|<>(){}*?\n\\!")
    message.ack()


@given(text=st.text(max_size=200) | st.dictionaries(st.text(string.ascii_lowercase + "_.", max_size=12), JSON).map(str))
@LAZY
def test_any_queue_toml_is_settings_or_a_clear_error(tmp_path, text):
    path = tmp_path / "queue.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    said = ""
    try:
        path.write_text(spoolq_settings.dump(spoolq_settings.load(path, {})))
    except SpoolqError as error:
        said = str(error)
    if said:
        assert str(path) in said
    else:
        assert spoolq_settings.dump(spoolq_settings.load(path, {})) == path.read_text()


@given(lines=LINES, torn=st.integers(0, 20))
@LAZY
def test_any_metadata_is_read_as_far_as_it_goes(queue, lines, torn):
    """And whatever it says, the message that it belongs to is delivered."""
    id = queue.enqueue(b"body", headers={"a": "b"})
    path = Path(queue._directory.meta_path(id))
    text = b"\n".join(lines)
    path.write_bytes(text[: len(text) - torn] if torn else text)
    read_meta(queue._directory, id)
    message = queue.dequeue()
    assert message is not None
    assert (message.id, message.body) == (id, b"body")
    message.requeue(delay_s=0, reason="again")
    again = queue.dequeue()
    assert again is not None
    again.ack()


HEADERS = st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=3)


@given(headers=HEADERS, reason=st.text(max_size=60), stderr=st.text(max_size=60), name=NAMES)
@LAZY
def test_what_is_written_as_metadata_is_read_back(queue, headers, reason, stderr, name):
    """But for halves of characters, which UTF-8 cannot carry."""
    path = Path(queue._directory.meta_path(ID))
    arrival = Arrival(headers=headers, name=os.fsdecode(name), expires_at_ms=7)
    attempt = Attempt(attempt=1, outcome="requeued", ended_at_ms=5, reason=reason, stderr=stderr)
    path.write_bytes(arrival_line(arrival) + attempt_line(attempt))
    try:
        assert read_arrival(queue._directory, ID) == arrival
        assert read_meta(queue._directory, ID).history == (attempt,)
    finally:
        path.unlink()


@given(receipt=st.text(max_size=60) | st.from_regex(rf"{ID}\.[klt][0-9a-z]{{0,45}}", fullmatch=True))
@LAZY
def test_any_receipt_is_refused_and_changes_nothing(queue, receipt):
    """As none, by its form, or as lost: each in its own words."""
    before = {kind: os.listdir(root(queue) / kind) for kind in STATE_DIRECTORIES}
    for settle in (queue.acknowledge, queue.release, lambda text: queue.extend(text, 5)):
        with pytest.raises((ValueError, LeaseLost)):
            settle(receipt)
    assert {kind: os.listdir(root(queue) / kind) for kind in STATE_DIRECTORIES} == before
