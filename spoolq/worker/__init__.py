"""Workers: claim messages, have each handled by a command or a Python function, and settle it by how that ended.

DESIGN section 11. The parts, in the order of a message's way: `loop` (slots, signals), `slots` (claim, handle, settle),
`command` and `process` (a command for a message), `handler` (a Python function), `outcome` (what an ending means),
`settle`. `lease` keeps claims that live by time, `guard` sees to it that a command ends with its worker.
"""

from spoolq.worker.command import CommandHandler
from spoolq.worker.handler import CommandNotFound, Handler, PythonHandler, load_handler
from spoolq.worker.loop import Worker

__all__ = ["CommandHandler", "CommandNotFound", "Handler", "PythonHandler", "Worker", "load_handler"]
