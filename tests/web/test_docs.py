"""docs/rest-api.md: its curl lines run against a real server and answer what they say; every route is on it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spoolq.web import problems
from spoolq.web.app import create_app
from tests.helpers import needs
from tests.web.conftest import ROOT, Process

PAGE = ROOT / "docs" / "rest-api.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
END = "--- answered"


def lines() -> list[tuple[str, str]]:
    """Each line, with the status that it is said to be answered ("" for none)."""
    found = []
    for line in "\n".join(BLOCK.findall(PAGE.read_text())).splitlines():
        words, _, status = line.partition("  # ")
        if words.strip():
            found.append((words.rstrip(), status.strip()))
    return found


def test_every_line_is_answered_as_it_says(process: Callable[..., Process], tmp_path: Path):
    """In one shell, so that a later line can use what an earlier one made."""
    needs(shutil.which("curl") is not None, "curl")
    server = process()
    said = lines()
    script = [
        'silent() { command curl -sS "$@"; }',
        "shown() { command curl -sS -o answer -w '%{http_code}\\n' \"$@\"; }",
    ]
    for words, status in said:
        if words.startswith("API="):
            script.append(f"API={server.url}")
        elif status:
            script += [f"shown {words.removeprefix('curl ')}", "cat answer; rm -f answer; echo", f"echo '{END}'"]
        else:
            script.append(words.replace("$(curl ", "$(silent "))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "README.md").write_text("# Read me\n")
    ran = subprocess.run(
        ["sh", "-s"], input="\n".join(script), cwd=tmp_path / "here", check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
    )  # fmt: skip
    answers = ran.stdout.split(f"{END}\n")[:-1]
    asked = [(words, status) for words, status in said if status]
    assert len(answers) == len(asked) > 50, ran.stdout[-2000:]
    for (words, status), answer in zip(asked, answers, strict=True):
        assert answer.startswith(f"{status}\n"), f"{words}\n{answer}"


def _schema(spool: Path) -> dict[str, Any]:
    gate: Any = create_app(spool)
    schema: dict[str, Any] = gate._app._app.openapi()
    return schema


def test_every_route_and_parameter_is_on_the_page(tmp_path: Path):
    text = re.sub(r"`, `/", "` `/", PAGE.read_text())
    for path, operations in _schema(tmp_path)["paths"].items():
        shown = path.replace("/queues/{q}/claims/{receipt}/", "/").replace("/queues/{q}/", "/")
        assert path in text or shown in text, path
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                assert f"`{parameter['name']}`" in text or f"{{{parameter['name']}}}" in text, (path, parameter["name"])


def test_every_problem_is_on_the_page():
    text = PAGE.read_text().split("\n## 3 Problems\n")[1].split("\n## ")[0]
    shown = dict(re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", text, re.MULTILINE))
    assert shown == {kind: str(status) for kind, (status, _) in problems.KINDS.items()}


def test_the_document_has_an_example_or_a_schema_for_each_success(tmp_path: Path):
    for path, operations in _schema(tmp_path)["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                if status in ("200", "201"):
                    assert answer["content"], (method, path)
                if status[0] in "45":
                    assert list(answer["content"]) == ["application/problem+json"], (method, path, status)
