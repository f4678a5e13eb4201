"""Section 2 of docs/spool-format.md: the vectors are read from the document itself."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq.spool.names import (
    LABEL_MAX_BYTES,
    Name,
    clean_name,
    format_name,
    is_id,
    is_label,
    is_name,
    is_nonce,
    is_queue_name,
    parse_name,
)
from tests.spool_format.document import code, section, tables

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
NAMES, LABELS = tables(2)
NOT_NAMES = re.findall(r"`([^`]+)` ?(?:\(|,|\.|$)", section(2).partition("Not names: ")[2].partition("| dropped as")[0])


def expected(row: list[str]) -> Name:
    """What a row of the vectors says of its name."""
    text, id, priority, due, attempts, nonce, label = map(code, row)
    return Name(
        text[:36] if id in {"same", ""} else id,
        int(priority),
        int(due) if due else None,
        int(attempts),
        nonce or None,
        label or None,
    )


@pytest.mark.parametrize("row", NAMES, ids=[code(row[0])[36:] or "bare" for row in NAMES])
def test_name(row):
    """Each vector is read as the table says, and written back as the same bytes."""
    text = code(row[0])
    assert parse_name(text) == expected(row)
    assert format_name(*expected(row)) == text


def test_all_vectors_are_found():
    """What is read from the document is all of it."""
    assert (len(NAMES), len(NOT_NAMES), len(LABELS)) == (6, 13, 8)


@pytest.mark.parametrize("text", NOT_NAMES)
def test_not_a_name(text):
    """There is one spelling of each name: everything else is a drop."""
    assert parse_name(text.replace("…", ID)) is None


def dropped_as(cell: str) -> str | bytes:
    """The name in the first column of the label table."""
    if match := re.fullmatch(r"bytes `([0-9a-f ]+)`", cell):
        return bytes.fromhex(match[1])
    return long_text(cell)


def long_text(cell: str) -> str:
    """So many times a character, then the rest; or the text itself."""
    if match := re.fullmatch(r"(\d+) \N{MULTIPLICATION SIGN} `(.)`, then `(.*)`", cell):
        return match[2] * int(match[1]) + match[3]
    return code(cell)


@pytest.mark.parametrize("row", LABELS, ids=[code(row[0])[:20] for row in LABELS])
def test_label(row):
    """Each dropped name gets the label of the table, as text and as bytes."""
    dropped, label = dropped_as(row[0]), long_text(row[1])
    assert clean_name(dropped) == label
    assert is_label(label)
    if isinstance(dropped, str):
        assert clean_name(dropped.encode()) == label
    else:
        assert clean_name(dropped.decode("utf-8", "surrogateescape")) == label


@given(st.one_of(st.text(), st.binary()))
def test_every_name_makes_a_label_that_stays_what_it_is(dropped):
    """A label is harmless, short, and the label of itself."""
    label = clean_name(dropped)
    assert len(label.encode()) <= LABEL_MAX_BYTES
    assert not set(label) & set("\0/\\ '\"$`;&|<>()\n,")
    assert clean_name(label) == label
    if label:
        name = Name(ID, label=label)
        assert parse_name(format_name(*name)) == name


@given(
    st.integers(0, 9),
    st.none() | st.integers(1, 10**15 - 1),
    st.integers(0, 999_999),
    st.none() | st.from_regex(r"[kl][0-9a-z]{7,18}|t[0-9a-z]{12}", fullmatch=True),
    st.none() | st.text(min_size=1).map(lambda text: clean_name(text.encode("utf-8", "replace"))).filter(bool),
)
def test_a_name_is_read_as_it_was_written(priority, due_at_ms, attempts, nonce, label):
    """Whatever a name says, there is one text for it, and it fits into 255 bytes, in every later state, too."""
    name = Name(ID, priority, due_at_ms, attempts, nonce, label)
    text = format_name(*name)
    assert parse_name(text) == name
    assert len(text.encode()) <= 255


@pytest.mark.parametrize("text", [code(row[0]) for row in NAMES] + NOT_NAMES + [f"{ID},p=5", f"{ID},n=", f"{ID}\n"])
def test_telling_a_name_is_reading_it(text):
    """`is_name` has a shorter way, which must not lead elsewhere."""
    assert is_name(text) is (parse_name(text) is not None)


def test_the_longest_name_fits():
    """36 + 4 + 18 + 9 + 22 + 3 + 120: the sum in the document."""
    numbers = re.search(r"whatever happens to it later: ([\d +]+)\.", section(2))
    assert numbers is not None
    longest = format_name(ID, 9, 10**15 - 1, 999_999, "k" + "z" * 18, "x" * LABEL_MAX_BYTES)
    assert len(longest) == sum(map(int, numbers[1].split("+"))) <= 255
    assert parse_name(longest) is not None


@pytest.mark.parametrize("text", ["k0a1b2c7", "l0a1b2c" + "z" * 12, "t0123456789ab"])
def test_a_nonce(text):
    assert is_nonce(text)


@pytest.mark.parametrize(
    "text", ["", "k0a1b2", "x1", "t1", "t0123456789abc", "k0a1b2c" + "z" * 13, "K0A1B2C7", "k0a1b2c7\n"]
)
def test_not_a_nonce(text):
    assert not is_nonce(text)


def test_an_id():
    """UUIDv7 in lower case, and nothing around it."""
    assert is_id(ID)
    assert not any(
        map(is_id, ["", ID + "\n", " " + ID, ID.upper(), ID.replace("-", ""), ID[:-1], ID.replace("774b", "474b")])
    )


@pytest.mark.parametrize("text", ["a", "0", "default", "a.b_c-d", "x" * 64])
def test_a_queue_name(text):
    assert is_queue_name(text)


@pytest.mark.parametrize("text", ["", "A", "-a", ".a", "_a", "a/b", "..", "a..b", "x" * 65, "a\n", "é", "a b", "a\0"])
def test_not_a_queue_name(text):
    """A name that could lead out of the spool is none."""
    assert not is_queue_name(text)
