"""What changes messages, dead letters and queues."""

from __future__ import annotations

import tomllib

import pytest

UNKNOWN = "0198c0de-0000-7000-8000-000000000000"


def _count(spoolq, state):
    return spoolq("stats", "--json").objects[0][state]


def test_run_now_takes_what_ls_prints(spoolq):
    spoolq("put", "--delay", "1h", stdin="a")
    spoolq("put", "--delay", "2h", stdin="b")
    result = spoolq("run-now", "-", stdin=spoolq("ls", "--state", "scheduled").output)
    assert (result.output, result.errors) == (b"", "")
    assert _count(spoolq, "ready") == 2


def test_one_unknown_id_does_not_keep_the_others_from_it(spoolq):
    message_id = spoolq("put", "--delay", "1h", stdin="a").text.strip()
    result = spoolq("run-now", UNKNOWN, message_id, "--json", ok=False)
    assert result.status == 5
    assert result.objects == [{"id": message_id, "state": "ready"}]
    assert result.error["error"] == "MessageNotFound"


def test_reprioritize(spoolq):
    first = spoolq("put", stdin="a").text.strip()
    second = spoolq("put", stdin="b").text.strip()
    spoolq("reprioritize", "9", second)
    assert [line.split("\t")[0] for line in spoolq("ls").lines] == [second, first]
    assert spoolq("reprioritize", "10", second, ok=False).status == 2


def test_replay_delivers_a_done_message_again(spoolq):
    message_id = spoolq("put", stdin="a").text.strip()
    spoolq("ack", spoolq("get").errors.strip())
    spoolq("replay", message_id)
    assert spoolq("get", "--json").objects[0]["id"] == message_id


def test_pause_and_resume(spoolq):
    spoolq("put", stdin="a")
    assert spoolq("pause", "--json").objects == [{"queue": "default", "paused": True}]
    assert spoolq("get", ok=False).status == 3
    assert spoolq("resume").text == "default resumed\n"
    assert spoolq("get").output == b"a"


def test_purge_says_what_it_would_do_and_does_it_only_when_told(spoolq):
    spoolq("put", "--each-line", stdin="a\nb\n")
    assert "would delete 2 messages" in spoolq("purge", "--dry-run").text
    refused = spoolq("purge", ok=False)
    assert refused.status == 2
    assert "--yes" in refused.errors
    assert _count(spoolq, "ready") == 2
    assert spoolq("purge", "--yes", "--json").objects == [{"queue": "default", "purged": 2}]
    assert _count(spoolq, "ready") == 0


def test_a_person_is_asked(spoolq):
    spoolq("put", stdin="a")
    asked = spoolq("purge", stdin="n\n", terminal=True, ok=False)
    assert asked.status == 1
    assert "Delete 1 message (ready, scheduled) of the queue default for good? [y/N]" in asked.errors
    assert _count(spoolq, "ready") == 1
    spoolq("purge", stdin="y\n", terminal=True)
    assert _count(spoolq, "ready") == 0


def test_purge_of_other_states(spoolq):
    spoolq("put", stdin="a")
    spoolq("ack", spoolq("get").errors.strip())
    spoolq("purge", "--state", "done", "--yes")
    assert _count(spoolq, "done") == 0
    assert spoolq("purge", "--state", "claimed", "--yes", ok=False).status == 2


def test_rm_deletes_and_asks_first(spoolq):
    message_id = spoolq("put", stdin="a").text.strip()
    assert spoolq("rm", message_id, ok=False).status == 2
    assert spoolq("rm", message_id, "--dry-run").text == f"would delete {message_id}\n"
    assert spoolq("rm", UNKNOWN, "--dry-run", ok=False).status == 5
    assert _count(spoolq, "ready") == 1
    spoolq("rm", "-", "--yes", stdin=f"{message_id}\n")
    assert _count(spoolq, "ready") == 0
    assert spoolq("rm", message_id, "--yes", ok=False).status == 5


def test_dead_list_show_and_reasons(spoolq, dead):
    first = dead("a", "timeout")
    dead("b", "broken", "--name", "b.txt")
    dead("c", "timeout")
    assert len(spoolq("dead", "list").lines) == 3
    assert [line.split("\t")[0] for line in spoolq("dead", "list", "--reason", "TIME", "--limit", "1").lines] == [first]
    assert spoolq("dead", "reasons").text == "2\ttimeout\n1\tbroken\n"
    assert spoolq("dead", "reasons", "--json").objects[0] == {"reason": "timeout", "count": 2}
    text = spoolq("dead", "show", first).text
    assert "attempt 1" in text
    assert "timeout" in text


def test_dead_show_of_what_is_not_dead_exits_5(spoolq):
    message_id = spoolq("put", stdin="a").text.strip()
    result = spoolq("dead", "show", message_id, ok=False)
    assert result.status == 5
    assert "it is ready" in result.errors


def test_redrive_counts_then_redrives_what_the_filters_admit(spoolq, dead):
    dead("a", "timeout")
    dead("b", "broken")
    assert spoolq("redrive", "--reason", "timeout", "--dry-run").text == "would redrive 1 dead letter\n"
    assert spoolq("redrive", "--min-age", "1h", "--dry-run", "--json").objects == [{"redriven": 0, "would_redrive": 0}]
    assert spoolq("redrive", "--reason", "timeout").text == "1 dead letter redriven\n"
    assert (_count(spoolq, "ready"), _count(spoolq, "dead")) == (1, 1)
    assert spoolq("get", "--json").objects[0]["attempts"] == 1
    assert spoolq("redrive", "--rate", "0", ok=False).status == 2


def test_redrive_by_id_and_limit(spoolq, dead):
    ids = [dead(body) for body in "abc"]
    assert spoolq("redrive", ids[1], "--json").objects == [{"redriven": 1}]
    assert spoolq("redrive", "--limit", "1").text == "1 dead letter redriven\n"
    assert spoolq("redrive", "-", stdin=spoolq("dead", "list").output).text == "1 dead letter redriven\n"
    assert spoolq("redrive", UNKNOWN, ok=False).status == 5


def test_dead_purge(spoolq, dead):
    first = dead("a", "timeout")
    dead("b", "broken")
    assert spoolq("dead", "purge", ok=False).status == 2
    assert "would delete 1 dead letter" in spoolq("dead", "purge", "--reason", "timeout", "--dry-run").text
    assert spoolq("dead", "purge", first, "--yes").text == "1 dead letter deleted\n"
    assert spoolq("dead", "purge", "--yes", "--json").objects == [{"queue": "default", "purged": 1}]


def test_queues_are_listed_created_and_deleted(spoolq):
    spoolq("init")
    assert spoolq("queues", "create", "emails").text == "emails created\n"
    assert spoolq("queues", "create", "emails", ok=False).status == 1
    spoolq("put", "-q", "emails", stdin="x")
    assert spoolq("queues", "list").lines == ["default", "emails"]
    assert spoolq("queues", "list", "--json").objects == [{"queue": "default"}, {"queue": "emails"}]
    assert spoolq("queues", "delete", "emails", ok=False).status == 2
    assert "with 1 message" in spoolq("queues", "delete", "emails", "--dry-run").text
    assert spoolq("queues", "delete", "emails", "--yes", "--json").objects == [{"queue": "emails", "deleted": 1}]
    assert spoolq("queues", "list").lines == ["default"]
    assert spoolq("queues", "delete", "emails", "--yes", ok=False).status == 5


def test_settings_are_shown_as_queue_toml(spoolq):
    spoolq("init")
    found = tomllib.loads(spoolq("queues", "settings").text)
    assert found["lease_s"] == 60
    assert found["retry"]["factor"] == 2
    assert spoolq("queues", "settings", "--json").objects[0]["retention"]["done_s"] == 86400


def test_settings_are_changed_and_checked(spoolq):
    spoolq("init")
    spoolq("queues", "create", "emails", "max_attempts=3")
    spoolq("queues", "settings", "emails", "retry.base_s=1.5", "retry.list_s=[1, 10]", "durability=full")
    (found,) = spoolq("queues", "settings", "-q", "emails", "--json").objects
    assert found["max_attempts"] == 3
    assert found["retry"]["base_s"] == 1.5
    assert found["retry"]["list_s"] == [1, 10]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("max_attempts=0", "max_attempts"),
        ("max_attempts=many", "max_attempts"),
        ("max_atempts=3", "max_attempts"),
        ("retry.nothing=1", "no such setting"),
        ("lease_s.x=1", "not a table"),
        ("a.b.c=1", "a"),
        ("=1", "KEY=VALUE"),
    ],
)
def test_a_wrong_setting_names_itself_and_changes_nothing(spoolq, change, said):
    spoolq("init")
    before = spoolq("queues", "settings").text
    result = spoolq("queues", "settings", "max_attempts=7", change, ok=False)
    assert result.status in {1, 2}
    assert said in result.errors
    assert spoolq("queues", "settings").text == before
