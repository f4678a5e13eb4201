"""Settings: defaults, `queue.toml`, SPOOLQ_ variables, and what a person is told about a wrong one."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import tomllib
from dataclasses import FrozenInstanceError, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from spoolq.errors import SettingsError, StorageError
from spoolq.settings import (
    ATTEMPTS_MAX,
    COUNT_MAX,
    SECONDS_MAX,
    Drops,
    Limits,
    Reserve,
    Retention,
    Retry,
    Settings,
    describe,
    dump,
    load,
    parse,
    reading,
)

if TYPE_CHECKING:
    from pathlib import Path

DESIGNED = {  # DESIGN section 10, word for word
    "durability": "power",
    "lease_s": 60,
    "max_hold_s": 0,
    "max_attempts": 5,
    "ttl_s": 0,
    "dedup_window_s": 300,
    "busy_s": 10,
    "retry": {"base_s": 5, "factor": 2.0, "cap_s": 3600, "jitter": 0.2, "list_s": []},
    "retention": {"done_s": 86400, "dead_s": 0, "expired": "dead"},
    "limits": {"body_bytes": 0, "messages": 0, "bytes": 0},
    "reserve": {"bytes": 67108864, "percent": 1, "inodes": 1000},
    "drops": {"settle_s": 5, "ignore": ["*.tmp", "*.part", "*.crdownload", "*~"], "schedule_max_s": 2678400},
}


def refused(text: str, path: Path) -> SettingsError:
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(path, {})
    return caught.value


@pytest.fixture
def queue_toml(tmp_path: Path) -> Path:
    return tmp_path / "queue.toml"


# Defaults -----------------------------------------------------------------------


def test_defaults_are_those_of_the_design() -> None:
    """The defaults, written out whole, are the document's."""
    assert tomllib.loads(dump(Settings(), only_changed=False)) == DESIGNED


def test_defaults_would_pass_their_own_checks() -> None:
    """Reading the written defaults back gives the defaults."""
    assert parse(DESIGNED) == Settings()


def test_settings_cannot_be_changed_in_place() -> None:
    """A setting is fixed once the queue is open."""
    with pytest.raises(FrozenInstanceError):
        Settings().lease_s = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    "call", ["Settings()", "load(None, {})", "load(None, {'SPOOLQ_SPOOL': '/spool', 'HOME': '/'})"]
)
def test_defaults_cost_no_validation_library(call: str) -> None:
    """With nothing to read, neither pydantic nor tomllib is imported."""
    code = (
        f"import sys; from spoolq.settings import Settings, load; {call}; "
        "sys.exit(', '.join(sys.modules.keys() & {'pydantic', 'annotated_types', 'typing_extensions', 'tomllib'}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# queue.toml ---------------------------------------------------------------------


def test_a_missing_file_means_defaults(queue_toml: Path) -> None:
    """No queue.toml is as good as an empty one."""
    assert load(queue_toml, {}) == Settings()


def test_an_empty_file_means_defaults(queue_toml: Path) -> None:
    """An empty queue.toml changes nothing."""
    queue_toml.write_text("# nothing yet\n")
    assert load(queue_toml, {}) == Settings()


def test_a_file_changes_only_what_it_names(queue_toml: Path) -> None:
    """Keys that are not in the file, in its tables too, keep their defaults."""
    queue_toml.write_text('durability = "full"\n[retry]\nlist_s = [1, 2.5]\n[retention]\nexpired = "delete"\n')
    assert load(queue_toml, {}) == Settings(
        durability="full", retry=Retry(list_s=(1.0, 2.5)), retention=Retention(expired="delete")
    )


def test_a_whole_number_is_fine_where_seconds_are_wanted(queue_toml: Path) -> None:
    """`lease_s = 5` is five seconds, kept as a float."""
    queue_toml.write_text("lease_s = 5")
    lease_s = load(queue_toml, {}).lease_s
    assert (lease_s, type(lease_s)) == (5.0, float)


@pytest.mark.parametrize(
    ("text", "key", "value", "allowed"),
    [
        ('durability = "disk"', "durability", "disk", 'one of "process", "power", "full"'),
        ("durability = 1", "durability", 1, 'one of "process"'),
        ('lease_s = "60"', "lease_s", "60", "a number above 0"),
        ("lease_s = true", "lease_s", True, "a number above 0"),
        ("lease_s = 0", "lease_s", 0, "a number above 0"),
        ("lease_s = 2030-01-01", "lease_s", None, "a number above 0"),
        ("busy_s = -1", "busy_s", -1, "a number from 0"),
        ("ttl_s = inf", "ttl_s", math.inf, f"a number from 0 to {SECONDS_MAX}"),
        ("ttl_s = 1e12", "ttl_s", 1e12, f"a number from 0 to {SECONDS_MAX}"),
        ("max_attempts = 0", "max_attempts", 0, "a whole number from 1 to 999999"),
        ("max_attempts = 2.0", "max_attempts", 2.0, "a whole number from 1 to 999999"),
        (f"max_attempts = {2**63}", "max_attempts", 2**63, "a whole number from 1 to 999999"),
        ("retry = 5", "retry", 5, "a table, [retry]"),
        ("[[retry]]\nbase_s = 1", "retry", [{"base_s": 1}], "a table, [retry]"),
        ("[retry]\nfactor = 0.5", "retry.factor", 0.5, "a number from 1"),
        ("[retry]\njitter = 1.5", "retry.jitter", 1.5, "a number from 0 to 1"),
        ('[retry]\nlist_s = [1, "x"]', "retry.list_s", [1, "x"], "a list; each a number from 0"),
        ("[retry]\nlist_s = 3", "retry.list_s", 3, "a list; each a number from 0"),
        ('[retention]\nexpired = "gone"', "retention.expired", "gone", 'one of "dead", "delete"'),
        ("[limits]\nbody_bytes = -1", "limits.body_bytes", -1, "a whole number from 0 up"),
        ("[reserve]\npercent = 101", "reserve.percent", 101, "a number from 0 to 100"),
        ('[drops]\nignore = "*.tmp"', "drops.ignore", "*.tmp", "a list; each text, not empty"),
        ('[drops]\nignore = [""]', "drops.ignore", [""], "a list; each text, not empty"),
    ],
)
def test_a_value_that_is_not_allowed(text: str, key: str, value: object, allowed: str, queue_toml: Path) -> None:
    """The error names the file, the key and the value, and says what is allowed and what the key means."""
    error = refused(text, queue_toml)
    assert (error.key, error.path) == (key, str(queue_toml))
    assert value in (error.value, None)
    assert error.message.startswith(f"{queue_toml}: {key} = ")
    assert f"must be {allowed}" in error.message
    assert is_dataclass(getattr(Settings(), key, None)) or error.hint.startswith("It means: ")


def test_not_a_number_is_not_a_number_of_seconds(queue_toml: Path) -> None:
    """`nan` compares with nothing, and is within no range."""
    assert "lease_s = nan: must be a number" in refused("lease_s = nan", queue_toml).message


@pytest.mark.parametrize(
    ("text", "key", "meant"),
    [
        ("lease = 1", "lease", "lease_s"),
        ('durabilty = "full"', "durabilty", "durability"),
        ("[retry]\nbase = 3", "retry.base", "retry.base_s"),
        ("base_s = 3", "base_s", "retry.base_s"),
        ("[retry]\nlease_s = 3", "retry.lease_s", "lease_s"),
        ("[drops]\nbytes = 3", "drops.bytes", "limits.bytes or reserve.bytes"),
        ("[retention]\nsettle = 3", "retention.settle", "drops.settle_s"),
        ("[limit]\nmessages = 3", "limit", "limits"),
    ],
)
def test_a_key_that_does_not_exist(text: str, key: str, meant: str, queue_toml: Path) -> None:
    """A misspelt key, or one in the wrong table, is refused with the key that was probably meant."""
    error = refused(text, queue_toml)
    assert error.key == key
    assert "there is no such setting" in error.message
    assert error.hint == f"Did you mean {meant}?"


def test_a_key_like_no_other_is_answered_with_all_keys(queue_toml: Path) -> None:
    """Where nothing is close, the hint lists what there is."""
    assert "retry.base_s" in refused("xyzzy = 1", queue_toml).hint


def test_every_wrong_key_is_reported_at_once(queue_toml: Path) -> None:
    """Mending a file takes one try, not one per mistake."""
    error = refused('durability = "disk"\nlease_s = 0\n[retry]\nlist_s = ["a", "b"]\n', queue_toml)
    assert error.key == "durability"
    assert [part.split(" = ")[0].split(": ")[1] for part in error.message.split("; /")] == [
        "durability",
        "lease_s",
        "retry.list_s",
    ]


@pytest.mark.parametrize("content", [b'dur"', b"a = 1\na = 2", b'durability = "\xff"', b"a = " + b"[" * 100_000])
def test_a_file_that_is_not_toml(content: bytes, queue_toml: Path) -> None:
    """It is refused by name, never taken for defaults."""
    queue_toml.write_bytes(content)
    with pytest.raises(SettingsError, match="not TOML") as caught:
        load(queue_toml, {})
    assert caught.value.path == str(queue_toml)


@pytest.mark.parametrize("text", ["max_attempts = 0x" + "f" * 10_000, "a." * 2000 + "b = 1", "a = [" + "{a=" * 200])
def test_toml_without_end_is_refused(text: str, queue_toml: Path) -> None:
    """What tomllib reads, or not, is for the one who wrote it to mend, and no bug of ours."""
    queue_toml.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(queue_toml, {})
    assert caught.value.path == str(queue_toml)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Only a missing file means defaults."""
    with pytest.raises(StorageError):
        load(tmp_path, {})


def test_a_long_value_is_cut_in_the_message(queue_toml: Path) -> None:
    """A megabyte in the wrong place does not become a megabyte of error."""
    error = refused(f'durability = "{"x" * 100_000}"', queue_toml)
    assert len(str(error)) < 1000


# SPOOLQ_ variables --------------------------------------------------------------


def test_a_variable_wins_over_the_file(queue_toml: Path) -> None:
    """Order: default, file, variable."""
    queue_toml.write_text("lease_s = 5\nbusy_s = 6\n[retry]\nbase_s = 7\ncap_s = 8\n")
    settings = load(queue_toml, {"SPOOLQ_LEASE_S": "50", "SPOOLQ_RETRY_BASE_S": "70.5"})
    assert (settings.lease_s, settings.busy_s, settings.retry.base_s, settings.retry.cap_s) == (50, 6, 70.5, 8)


@pytest.mark.parametrize("described", describe(), ids=lambda described: described.key)
def test_every_key_can_be_set_by_a_variable(described: Any) -> None:
    """SPOOLQ_<KEY> or SPOOLQ_<TABLE>_<KEY> reaches its key."""
    table, _, name = described.key.rpartition(".")
    text = {"durability": "full", "expired": "delete", "list_s": "[7]", "ignore": '["*.bak"]', "jitter": "0.7"}.get(
        name, "7"
    )
    settings: Any = load(None, {"SPOOLQ_" + described.key.replace(".", "_").upper(): text})
    value = getattr(getattr(settings, table) if table else settings, name)
    assert value == {"list_s": (7.0,), "ignore": ("*.bak",)}.get(name, value)
    assert settings != Settings()
    assert tomllib.loads(dump(settings)).keys() == {table or name}


@pytest.mark.parametrize(
    "name", ["SPOOL", "QUEUE", "ID", "ATTEMPT", "NAME", "RECEIPT", "PATH", "HEADERS", "SOMETHING_ELSE", "RETRY"]
)
def test_other_variables_are_left_alone(name: str) -> None:
    """What a worker gives its command, and what others invent, is no setting."""
    assert load(None, {f"SPOOLQ_{name}": "x"}) == Settings()


@pytest.mark.parametrize(
    ("variable", "text", "key"),
    [
        ("SPOOLQ_LEASE_S", "soon", "lease_s"),
        ("SPOOLQ_LEASE_S", "", "lease_s"),
        ("SPOOLQ_LEASE_S", "nan", "lease_s"),
        ("SPOOLQ_MAX_ATTEMPTS", "2.5", "max_attempts"),
        ("SPOOLQ_MAX_ATTEMPTS", "9" * 5000, "max_attempts"),
        ("SPOOLQ_DURABILITY", "Full", "durability"),
        ("SPOOLQ_DURABILITY", "\udcff", "durability"),
        ("SPOOLQ_RETRY_LIST_S", "[1, 2", "retry.list_s"),
        ("SPOOLQ_RETRY_LIST_S", "1, 2", "retry.list_s"),
        ("SPOOLQ_RETRY_LIST_S", "[" * 100_000, "retry.list_s"),
        ("SPOOLQ_DROPS_IGNORE", '{"a": 1}', "drops.ignore"),
        ("SPOOLQ_DROPS_IGNORE", '["\\udcff"]', "drops.ignore"),
    ],
)
def test_a_variable_that_is_not_allowed(variable: str, text: str, key: str, queue_toml: Path) -> None:
    """The error names the variable, and not the file, which is innocent."""
    queue_toml.write_text("busy_s = 1")
    with pytest.raises(SettingsError) as caught:
        load(queue_toml, {variable: text})
    assert caught.value.message.startswith(f"{variable} = ")
    assert (caught.value.key, caught.value.path) == (key, "")


def test_a_variable_for_a_table_that_the_file_made_a_value(queue_toml: Path) -> None:
    """The file's mistake is reported, not a crash."""
    queue_toml.write_text("retry = 5")
    with pytest.raises(SettingsError, match=r"retry = 5: must be a table, \[retry\]"):
        load(queue_toml, {"SPOOLQ_RETRY_BASE_S": "1"})


# Writing ------------------------------------------------------------------------

seconds = st.floats(0, SECONDS_MAX)
counts = st.integers(0, COUNT_MAX)
every_settings = st.builds(
    Settings,
    durability=st.sampled_from(["process", "power", "full"]),
    lease_s=st.floats(0, SECONDS_MAX, exclude_min=True),
    max_hold_s=seconds,
    max_attempts=st.integers(1, ATTEMPTS_MAX),
    ttl_s=seconds,
    dedup_window_s=seconds,
    busy_s=seconds,
    retry=st.builds(
        Retry,
        base_s=seconds,
        factor=st.floats(1, 1000),
        cap_s=seconds,
        jitter=st.floats(0, 1),
        list_s=st.lists(seconds, max_size=4).map(tuple),
    ),
    retention=st.builds(Retention, done_s=seconds, dead_s=seconds, expired=st.sampled_from(["dead", "delete"])),
    limits=st.builds(Limits, body_bytes=counts, messages=counts, bytes=counts),
    reserve=st.builds(Reserve, bytes=counts, percent=st.floats(0, 100), inodes=counts),
    drops=st.builds(
        Drops,
        settle_s=seconds,
        ignore=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=4).map(tuple),
        schedule_max_s=seconds,
    ),
)


@examples(deadline=None)  # the first example imports pydantic
@given(settings=every_settings, only_changed=st.booleans())
def test_what_is_written_reads_back_the_same(settings: Settings, only_changed: bool) -> None:
    """`dump` and `load` are inverse for every allowed value, control characters and all."""
    assert parse(tomllib.loads(dump(settings, only_changed=only_changed))) == settings


def test_nothing_changed_writes_nothing() -> None:
    """A queue with defaults needs no queue.toml."""
    assert dump(Settings()) == ""


def test_only_what_changed_is_written() -> None:
    """The file says what this queue does differently, in the way a person would write it."""
    settings = Settings(lease_s=90.0, drops=Drops(ignore=('a "b"\n\x7f',)), retry=Retry(jitter=0.5))
    assert dump(settings) == 'lease_s = 90\n\n[retry]\njitter = 0.5\n\n[drops]\nignore = ["a \\"b\\"\\n\\u007f"]\n'


# Describing ---------------------------------------------------------------------


def _keys(value: object) -> list[str]:
    return list(value) if isinstance(value, dict) else [""]


def test_every_setting_is_described() -> None:
    """Each key, in the order of the file, has a default, what is allowed and what it means."""
    keys = [f"{table}.{key}" if key else table for table, value in DESIGNED.items() for key in _keys(value)]
    assert [described.key for described in describe()] == keys
    assert all(described.default and described.allowed and described.meaning for described in describe())


def test_described_defaults_are_the_defaults() -> None:
    """What the documentation shows can be pasted into queue.toml."""
    text = "\n".join(f"{described.key} = {described.default}" for described in describe())
    assert parse(tomllib.loads(text)) == Settings()


def test_a_setting_made_by_hand_is_checked_when_it_is_written_and_read() -> None:
    """`replace` checks nothing; the file it ends in does."""
    with pytest.raises(SettingsError, match="max_attempts = 0: must be a whole number from 1 to 999999"):
        parse(tomllib.loads(dump(replace(Settings(), max_attempts=0))))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 200)
    | st.floats(-5, 1e11)
    | st.sampled_from(["power", "dead", "*.x", ""]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
KEYS = [described.key for described in describe()]


@given(st.dictionaries(st.sampled_from([*KEYS, "nothing", "retry"]), plain, max_size=4))
def test_what_is_plainly_right_is_right_for_pydantic_too(flat):
    """The good case is read without pydantic, and never otherwise than with it."""
    data = {}
    for key, value in flat.items():
        reading._put(data, key, value)
    quick = reading.accepted(Settings, data)
    try:
        judged = reading._judged(data, "", {})
    except SettingsError:
        judged = None
    assert quick is None or quick == judged
    assert judged is None or quick == judged


def test_settings_that_fit_are_read_without_pydantic(tmp_path):
    """A `queue.toml` does not cost a command its 150 ms."""
    (tmp_path / "queue.toml").write_text('durability = "full"\nlease_s = 5\n[retry]\nlist_s = [1, 2.5]\n')
    script = (
        f"import sys, pathlib; from spoolq import settings; path = pathlib.Path({str(tmp_path / 'queue.toml')!r});"
        "print(settings.load(path, {}).retry.list_s, 'pydantic' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "(1.0, 2.5) False"


@pytest.mark.parametrize("data", [{"a.b": 1}, {"retry.x": {"y": 1}}, {"a.b.c": {"d": 1}}, {"retry": {"a.b": 1}}])
def test_a_key_with_a_point_in_it_is_refused_by_name(data: dict[str, Any]):
    with pytest.raises(SettingsError, match=re.escape(next(iter(data)))):
        parse(data)


@pytest.mark.parametrize("data", [{"\uda94S": 1}, {"durability": "\udb8b"}, {"a": {"\udb8b": True}}])
def test_half_a_character_is_refused(data: dict[str, Any]):
    with pytest.raises(SettingsError, match="UTF-8"):
        parse(data)
