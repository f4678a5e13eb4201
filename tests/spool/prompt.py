"""A Python process that does what it is told, line by line, as at a prompt: see `Child` in helpers.

`queue` is the open queue; every name that a line sets is there for the next one. Each line is answered by one line of
JSON: the value's repr, or the error's class and text.
"""

import builtins
import json
import os
import sys
import time
from pathlib import Path

from spoolq.spool.queue import SpoolQueue


def run(line, names):
    try:
        try:
            code = compile(line, "<line>", "eval")
        except SyntaxError:
            exec(line, names)
            return {"value": "None"}
        return {"value": repr(eval(code, names))}
    except Exception as error:
        return {"error": type(error).__name__, "text": str(error)}


def main():
    options = json.loads(sys.argv[3])
    queue = SpoolQueue.open(Path(sys.argv[1]), sys.argv[2], **options)
    names = {"__builtins__": builtins, "queue": queue, "os": os, "time": time}
    print(json.dumps({"value": "None"}), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line), names)), flush=True)
    queue.close()


main()
