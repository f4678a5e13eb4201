"""Drops of any name: delivered, with the exact name, and a label that is harmless in a shell."""

import os
import subprocess
import unicodedata

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from spoolq.spool.names import clean_name, parse_name
from tests.helpers import names, wait_for
from tests.spool.helpers import drain

ONE_SPOOL = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
IGNORED = (".tmp", ".part", ".crdownload", "~")


def is_ignored(raw):
    return raw[:1] == b"." or os.fsdecode(raw).endswith(IGNORED)


def is_safe(label):
    """Nothing in it is special to a shell, to a terminal, or to `{}`."""
    return all(char in "._+@%-" or unicodedata.category(char)[0] in "LNM" for char in label)


@ONE_SPOOL
@given(st.binary(min_size=1, max_size=255))
@example(b"report.csv")
@example(b"-rf")
@example(b"{}")
@example(b"$(touch owned).sh")
@example(b"`touch owned`;&|<>'\"\\*?[]")
@example(b"two\nlines\r\x1b[31m")
@example("Übersicht für März.pdf".encode())
@example("\N{PILE OF POO}\N{ZERO WIDTH JOINER}\N{RIGHT-TO-LEFT OVERRIDE}fdp.exe".encode())
@example(b"\xff\xfe\x80")
@example(b"x" * 255)
@example("\N{LATIN SMALL LETTER E WITH ACUTE}".encode() * 127)
@example("e\N{COMBINING ACUTE ACCENT}".encode() * 85)
@example(b" ")
@example(b",p=9")
@example(b"01890a5d-ac96-774b-bcce-b302099a8057,p=5")
@example(b"01890a5d-ac96-774b-bcce-b302099a8057.txt")
@example(b"01890A5D-AC96-774B-BCCE-B302099A8057")
@example(b"index.db")
def test_a_drop_of_any_name_is_delivered_with_its_exact_name(queue, spool, raw):
    assume(b"/" not in raw and b"\0" not in raw and not is_ignored(raw))
    assume(parse_name(os.fsdecode(raw)) is None)
    (spool / "new" / os.fsdecode(raw)).write_bytes(raw)
    message = queue.dequeue()
    assert message.body == raw
    assert os.fsencode(message.original_name or message.name) == raw
    assert is_safe(message.name)
    assert message.name == clean_name(raw)
    assert queue.get(message.id).original_name in (None, os.fsdecode(raw))
    message.ack()
    assert queue.dequeue() is None


@ONE_SPOOL
@given(st.text(min_size=1, max_size=300))
def test_an_enqueue_of_any_name_keeps_it_exactly(queue, text):
    """A name that is given is text; halves of surrogate pairs, which no file could bear, are refused."""
    try:
        text.encode()
    except UnicodeEncodeError:
        assume(False)
    queue.enqueue(b"", name=text)
    message = queue.dequeue()
    assert (message.original_name or message.name) == text
    assert message.name is None or is_safe(message.name)
    message.ack()


def test_a_name_costs_no_shell_its_nerves(spool, queue):
    """A path given to a shell without quotes is one word."""
    (spool / "new" / "a b; rm -rf $HOME *.csv").write_bytes(b"")
    message = queue.dequeue()
    said = subprocess.run(["sh", "-c", f"printf '<%s>' {message.path}"], capture_output=True, text=True, check=True)
    assert said.stdout == f"<{message.path}>"
    message.ack()


def test_the_exact_name_survives_a_rebuild(spool, queue):
    (spool / "new" / os.fsdecode(b"\xff \n")).write_bytes(b"body")
    assert queue.dequeue().release() is None
    queue.rebuild()
    message = queue.dequeue()
    assert os.fsencode(message.original_name) == b"\xff \n"
    message.ack()


@pytest.mark.parametrize("name", ["job.tmp", "job.part", "job.crdownload", "job~", ".job", ".nfs0001", "..job"])
def test_what_is_ignored_waits_until_it_is_renamed(spool, queue, name):
    (spool / "new" / name).write_bytes(b"body")
    assert queue.dequeue() is None
    assert names(spool, "new") == [name]
    assert queue.check() == [], "it is no problem, either"
    os.rename(spool / "new" / name, spool / "new" / "job")
    assert drain(queue) == [b"body"]


def test_patterns_are_settings(spool, open_queue):
    spool.mkdir(mode=0o700)
    (spool / "queue.toml").write_text('[drops]\nignore = ["*.wait", "upload-??"]\n')
    queue = open_queue()
    for name in ("a.wait", "upload-01", "b.tmp"):
        (spool / "new" / name).write_bytes(name.encode())
    assert drain(queue) == [b"b.tmp"]
    assert names(spool, "new") == ["a.wait", "upload-01"]


def test_a_second_file_of_the_same_name_is_a_second_message(spool, queue):
    path = spool / "new" / "job"
    for number in range(3):
        path.write_bytes(b"%d" % number)
        assert queue.stats().ready == number
        wait_for(lambda: queue.check() == [] and not path.exists())
    assert drain(queue) == [b"0", b"1", b"2"]


def test_drops_come_in_the_order_of_their_names_when_found_together(spool, queue):
    """Nothing better is known of what was there before anybody looked."""
    for name in ("b", "c", "a"):
        (spool / "new" / name).write_bytes(name.encode())
    assert drain(queue) == [b"a", b"b", b"c"]


def test_an_empty_file_is_an_empty_message(spool, queue):
    (spool / "new" / "job").touch()
    assert drain(queue) == [b""]


# Those that are no messages yet


def test_what_is_ignored_or_waits_is_told_with_its_reason(spool, queue):
    """By name, the ignored ones apart; what is a message by now is not among them."""
    (spool / "new" / "half.part").write_bytes(b"123")
    (spool / "new" / "folder").mkdir()
    queue.enqueue(b"x")
    queue.dequeue()
    found = {each.name: each for each in queue.drops()}
    assert sorted(found) == ["folder", "half.part"]
    assert (found["half.part"].ignored, found["half.part"].body_bytes) == (True, 3)
    assert found["half.part"].why == "its name is one of *.part"
    assert (found["folder"].ignored, found["folder"].why) == (False, "a directory cannot be a message")
    assert [each.name for each in queue.drops(limit=1)] == ["folder"]
    (spool / "new" / "folder").rmdir()
    (spool / "new" / "half.part").unlink()
