"""docs/client.md: its Python runs, and what it says of names is so."""

import re
from pathlib import Path

from spoolq import errors

TEXT = (Path(__file__).parents[2] / "docs" / "client.md").read_text()


def test_the_examples_run(live, capsys):
    """Against a real server."""
    examples = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example.replace("http://127.0.0.1:8000", live.server), "docs/client.md", "exec"), {})
    assert "b'hello'" in capsys.readouterr().out
    assert live.stats().done == 1


def test_the_errors_have_these_exit_statuses():
    """As the table says."""
    rows = re.findall(r"^\| `(\w+)`.* \| (\d+) \|$", TEXT, re.MULTILINE)
    assert len(rows) == 4
    for name, status in rows:
        assert getattr(errors, name).exit_code == int(status)
