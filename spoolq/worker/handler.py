"""What handles a message: the contract between a worker and its handlers, and the Python function as one of them."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module

from spoolq.errors import SpoolqError
from spoolq.message import Message
from spoolq.worker.lease import kept
from spoolq.worker.outcome import CANNOT_RUN, Decision
from spoolq.worker.process import Terms

_REASON_CHARS = 4000


class CommandNotFound(SpoolqError):
    """What should handle the messages is not there, or cannot be run. Found before the first message is claimed."""

    exit_code = CANNOT_RUN


class Handler(ABC):
    """Handles one message after another, in several threads at once.

    label: what people see of it. can_end: its work can be ended from outside, so it may have a timeout.
    """

    label: str
    can_end: bool

    def open(self) -> None:  # noqa: B027 most have nothing to open
        """Called once, before the first message."""

    @abstractmethod
    def handle(self, message: Message, terms: Terms) -> Decision:
        """Handle a message; what to do with it then. An exception stops the worker, so this is for bugs only."""

    def close(self) -> None:  # noqa: B027
        """Called once, after the last message."""


class PythonHandler(Handler):
    """A function that is called with each message, in the slot's thread.

    Returning acknowledges, unless the function has settled the message itself; an exception requeues it with the
    traceback. What is raised past Exception (SystemExit) gives it back uncounted and stops the worker. A function
    cannot be ended: no timeout, and where the worker's grace ends, its message is given back under it.
    """

    can_end = False

    def __init__(self, function: Callable[[Message], object]) -> None:
        if not callable(function):
            raise ValueError(f"a handler is a function of one argument, the message, not {function!r}")
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise ValueError(f"{function!r} would not run when it is called: a handler is a plain function")
        self.function = function
        self.label = f"{function.__module__}:{getattr(function, '__qualname__', type(function).__name__)}"

    def handle(self, message: Message, terms: Terms) -> Decision:
        """Call the function. The same rules as `with message:`, but settled by the worker, which tries again."""
        try:
            with kept(terms.lease, terms.clock):
                self.function(message)
        except Exception as error:
            return Decision(action="requeue", reason="".join(traceback.format_exception(error))[-_REASON_CHARS:])
        except BaseException as error:
            return Decision(action="release", reason=f"the handler raised {error!r}", exit_code=1)
        return Decision(action="acknowledge")


def load_handler(name: str) -> PythonHandler:
    """The handler `module:function`, the module looked for in the current directory too.

    ValueError for another form, or for what is not a plain function; CommandNotFound where there is no such module or
    function in it. What the module raises when it is imported is raised.
    """
    module_name, _, function_name = name.partition(":")
    parts = [*module_name.split("."), *function_name.split(".")]
    if not all(part.isidentifier() for part in parts):
        raise ValueError(f"a Python handler is given as module:function, not {name!r}")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = import_module(module_name)
        for part in function_name.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise _not_found(name, f"there is no module {error.name}") from error
    except AttributeError as error:
        raise _not_found(name, str(error)) from error
    return PythonHandler(found)  # type: ignore[arg-type] # checked there


def _not_found(name: str, why: str) -> CommandNotFound:
    hint = f"Python looks for modules in the current directory, {os.getcwd()}, and where packages are installed"
    return CommandNotFound(f"cannot load the handler {name}: {why}", op="work", path=name, hint=hint)
