"""Python functions as handlers."""

import signal
import sys
import threading

import pytest

from spoolq.memory import MemoryQueue
from spoolq.worker import CommandNotFound, PythonHandler, Worker, load_handler
from spoolq.worker.handler import Handler
from tests.worker.processes import wait_for, work, working

MODULE = """
def fine(message): pass
class Things:
    @staticmethod
    def inner(message): pass
async def later(message): pass
def some(message): yield message
number = 7
"""


@pytest.fixture
def queue():
    with MemoryQueue() as queue:
        yield queue


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with modules, as the current one."""
    (tmp_path / "jobs_for_test.py").write_text(MODULE)
    (tmp_path / "broken_for_test.py").write_text("import there_is_no_such_module")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    for name in ("jobs_for_test", "broken_for_test"):
        sys.modules.pop(name, None)


def test_returning_acknowledges_and_the_function_gets_the_message(queue):
    bodies = []
    queue.enqueue(b"one")
    assert work(queue, handler=PythonHandler(lambda message: bodies.append(message.body))) == 0
    assert bodies == [b"one"]
    assert queue.stats().done == 1


def test_an_exception_requeues_with_the_traceback(queue):
    def fails(message):
        raise KeyError("no customer 17")

    id = queue.enqueue(b"")
    work(queue, handler=PythonHandler(fails))
    (attempt,) = queue.get(id).history
    assert queue.get(id).state == "scheduled"
    assert "Traceback" in attempt.reason
    assert "in fails" in attempt.reason
    assert "no customer 17" in attempt.reason
    assert attempt.duration_s is not None
    assert attempt.pid


@pytest.mark.parametrize(
    ("settle", "state"),
    [
        (lambda message: message.ack(), "done"),
        (lambda message: message.dead_letter("bad"), "dead"),
        (lambda message: message.requeue(60), "scheduled"),
    ],
)
def test_a_function_that_settled_the_message_is_left_alone(queue, settle, state, caplog):
    id = queue.enqueue(b"")
    work(queue, handler=PythonHandler(settle))
    assert queue.get(id).state == state
    assert "lease_lost" not in caplog.text


def test_system_exit_gives_back_uncounted_and_stops_the_worker(queue):
    def leaves(message):
        sys.exit("enough")

    id = queue.enqueue(b"")
    assert work(queue, handler=PythonHandler(leaves)) == 1
    assert (queue.get(id).state, queue.get(id).attempts) == ("ready", 0)


def test_a_function_stuck_past_the_grace_loses_its_message_uncounted(queue, monkeypatch):
    monkeypatch.setattr("spoolq.worker.loop._STUCK_S", 0.1)
    go_on, started = threading.Event(), threading.Event()

    def waits(message):
        started.set()
        go_on.wait()

    id = queue.enqueue(b"")
    with working(queue, handler=PythonHandler(waits), grace_s=0) as worker:
        started.wait()
        worker.stop()
        wait_for(lambda: queue.get(id).state == "ready")
    try:
        assert queue.get(id).attempts == 0
    finally:
        go_on.set()
        wait_for(lambda: not [t for t in threading.enumerate() if t.name.startswith("spoolq-slot")])
    assert queue.get(id).state == "ready"


def test_a_timeout_is_refused_since_a_function_cannot_be_ended(queue):
    with pytest.raises(ValueError, match="cannot have a timeout"):
        Worker(queue, PythonHandler(print), timeout_s=1)


def test_load_finds_functions_in_the_current_directory(here):
    assert load_handler("jobs_for_test:fine").label == "jobs_for_test:fine"
    assert load_handler("jobs_for_test:Things.inner").label == "jobs_for_test:Things.inner"


@pytest.mark.parametrize("name", ["", "jobs", ":", "jobs:", ":fine", "jobs fine:x", "../jobs:fine", "a:b:c", "a..b:c"])
def test_load_refuses_what_is_no_name_of_a_function(here, name):
    with pytest.raises(ValueError, match="module:function"):
        load_handler(name)


@pytest.mark.parametrize("name", ["jobs_for_test:later", "jobs_for_test:some", "jobs_for_test:number"])
def test_load_refuses_what_would_not_run_when_called(here, name):
    """A coroutine function returns at once, and its message would be acknowledged without having been handled."""
    with pytest.raises(ValueError, match="handler is"):
        load_handler(name)


@pytest.mark.parametrize("name", ["no_module_of_this_name:fine", "json.no_such:x", "jobs_for_test:missing"])
def test_load_says_what_is_not_there(here, name):
    with pytest.raises(CommandNotFound, match="cannot load the handler") as caught:
        load_handler(name)
    assert caught.value.exit_code == 78


def test_load_raises_what_the_module_raises(here):
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        load_handler("broken_for_test:fine")


def test_a_handler_of_ones_own_needs_one_method(queue):
    class Own(Handler):
        label = "own"
        can_end = False

        def handle(self, message, terms):
            raise RuntimeError("a bug")

    id = queue.enqueue(b"")
    assert work(queue, handler=Own()) == 1
    assert (queue.get(id).state, queue.get(id).attempts) == ("ready", 0)


def test_signals_are_heard_in_the_main_thread_and_put_back(queue):
    before = signal.getsignal(signal.SIGTERM)
    queue.enqueue(b"")
    seen = []

    def look(message):
        seen.append(signal.getsignal(signal.SIGTERM))

    work(queue, handler=PythonHandler(look))
    assert seen[0] is not before
    assert signal.getsignal(signal.SIGTERM) is before
