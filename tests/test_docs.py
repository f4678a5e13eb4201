"""What people read says what is: snippets run, links lead somewhere, tables are those of the code."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoolq import validate
from spoolq.cli import commands, quick
from spoolq.models import STATES
from spoolq.settings import describe
from spoolq.spool import mounts

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "spool" / "README.md"])
OURS = [ROOT / "README.md", *(DOCS / f"{name}.md" for name in ("design", "glossary", "limits", "operations"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
LEVELS = ("debug", "info", "warning", "error")
END = "--- end of a line's output, status"


def _id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _blocks(page: Path, kind: str) -> list[str]:
    return [text for each, text in BLOCK.findall(page.read_text()) if each == kind]


def _modules(*suffixes: str) -> list[Path]:
    """What the package is made of; what somebody is at work on, and git does not know yet, need not be described."""
    git = subprocess.run(["git", "ls-files", "spoolq"], cwd=ROOT, capture_output=True, text=True, check=False)
    known = [ROOT / line for line in git.stdout.splitlines()] or sorted((ROOT / "spoolq").rglob("*"))
    return [path for path in known if path.suffix in (suffixes or (".py", ".sql")) and path.is_file()]


def _cells(page: Path, title: str) -> list[list[str]]:
    """The rows of all tables in a section, without their heads."""
    section = re.split(r"^## ", page.read_text(), flags=re.MULTILINE)
    text = next(part for part in section if part.startswith(f"{title}\n"))
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    heads = {at - 1 for at, row in enumerate(rows) if set("".join(row)) <= set("-|")}
    return [row for at, row in enumerate(rows) if at not in heads and at - 1 not in heads]


# Snippets -----------------------------------------------------------------------


def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys):
    """All of it, in order, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SPOOLQ_")]:
        monkeypatch.delenv(name)
    for text in _blocks(ROOT / "README.md", "python"):
        exec(compile(text, "README.md", "exec"), {"__name__": "readme"})
    assert "b'resize photo 17' 1" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_python_on_a_page_can_be_parsed(page):
    for text in _blocks(page, "python"):
        ast.parse(text)


def test_the_readmes_session_runs_and_says_what_it_shows(tmp_path):
    """The lines after `$`, in one shell. A background line writes to a file; `ls` is asked until it answers."""
    readme = ROOT / "README.md"
    session: list[tuple[str, list[str]]] = []
    for line in "".join(_blocks(readme, "console")).splitlines():
        if line.startswith("$ "):
            session.append((line[2:], []))
        else:
            session[-1][1].append(line)
    (tmp_path / "README.md").write_text(readme.read_text())
    process = next(text for text in _blocks(readme, "sh") if text.startswith("#!"))
    for name, text in (
        ("process.sh", process),
        ("spoolq", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m spoolq "$@"\n'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "SPOOLQ_QUEUE": "try"}
    ran = subprocess.run(
        ["sh", "-s"], input="".join(f'{_patient(line)}\necho "{END} $?"\n' for line, _ in session), cwd=tmp_path,
        env=environ, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
    )  # fmt: skip
    outputs = re.split(rf"^{END} (\d+)\n", ran.stdout, flags=re.MULTILINE)
    assert len(outputs) == 2 * len(session) + 1, ran.stdout
    for (line, expected), output, status in zip(session, outputs[0::2], outputs[1::2], strict=False):
        shown = (tmp_path / "background").read_text() if line.endswith(" &") else output
        assert status == "0", f"$ {line}\n{output}"
        assert _matches("\n".join(expected), shown.rstrip("\n")), f"$ {line}\n{shown}\nbut the page says\n{expected}"


def _patient(line: str) -> str:
    if line.endswith(" &"):
        return f"{line[:-2]} > background 2>&1 &"
    if line.startswith("spoolq ls "):
        return f"for n in $(seq 50); do {line} > shown; [ -s shown ] && [ -s background ] && break; done; cat shown"
    if line.startswith("spoolq work --once "):  # the guard may need a moment to end the command of a killed worker
        return f"for n in $(seq 50); do {line}; status=$?; [ $status = 3 ] || break; done; (exit $status)"
    return line


def _matches(expected: str, output: str) -> bool:
    # The shell itself may tell of the worker that was killed.
    output = re.sub(r"^.*Killed.*\n?", "", output, flags=re.MULTILINE).rstrip("\n")
    return re.fullmatch(".*".join(map(re.escape, expected.split("..."))), output, re.DOTALL) is not None


@pytest.mark.parametrize("page", OURS, ids=_id)
def test_a_command_that_is_shown_can_be_given(page):
    """Every line of shell that begins with `spoolq` is a command line."""
    text = "".join(_blocks(page, "sh") + [line for block in _blocks(page, "console") for line in block.split("$ ")])
    for line in text.splitlines():
        words = [word for word in shlex.split(line, comments=True) if word != "&"] if line[:7] == "spoolq " else []
        if not words or words[1] == "module:function":
            continue
        found = commands.find(words[1:])
        assert found is not None, line
        assert quick.read(commands.load(found[0]), found[1], {}) is not None, line


@pytest.mark.parametrize("page", OURS, ids=_id)
def test_a_command_that_is_mentioned_exists(page):
    """`spoolq xyz` in running text."""
    named = re.findall(r"`spoolq ([a-z][a-z-]*)(?: ([a-z]+))?", page.read_text())
    known = {name for _, name in commands.names()}
    assert [each for each in named if each[0] not in known and " ".join(each) not in known] == []


# Links and paths ------------------------------------------------------------------


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = BLOCK.sub("", page.read_text())
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_every_link_leads_somewhere(page):
    """Within the repository; others are not asked."""
    broken = []
    for link in LINK.findall(BLOCK.sub("", page.read_text())):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", OURS, ids=_id)
def test_every_file_that_is_named_is_there(page):
    """What stands in backticks and begins with one of our folders."""
    named = re.findall(r"`((?:spoolq|docs|tests|scripts|benchmarks)/[\w./-]*)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_tour_goes_past_every_module():
    text = (ROOT / "README.md").read_text().split("\n## Reading the source\n")[1].split("\n## ")[0]
    named = set(re.findall(r"[\w/]+\.(?:py|sql)\b", text))
    folders = set(re.findall(r"`(spoolq/\w+/)`", text)) - {"spoolq/spool/"}
    for path in _modules():
        inside = str(path.relative_to(ROOT))
        if path.name == "__init__.py":
            continue
        whole = inside if path.parent.name != "spool" else path.name
        assert inside in named or whole in named or inside.startswith(tuple(folders)), inside


# Tables ---------------------------------------------------------------------------


def test_the_settings_are_those_of_the_code():
    shown = ["| " + " | ".join(row) + " |" for row in _cells(DOCS / "operations.md", "Settings")]
    assert shown == [
        f"| `{each.key}` | `{each.default}` | {each.allowed} | {each.meaning} | `{each.variable}` |"
        for each in describe()
    ]


def test_the_log_lines_are_those_of_the_code():
    """Each word with its levels: none is missing, none has gone."""
    shown = {row[0].strip("`"): set(row[1].split(", ")) for row in _cells(DOCS / "operations.md", "Log lines")}
    found: dict[str, set[str]] = {}
    for path in _modules(".py"):
        for word, level in _log_lines(ast.parse(path.read_text())):
            found.setdefault(word, set()).add(level)
    assert shown == found


def _log_lines(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for call in ast.walk(function):
                if isinstance(call, ast.Call):
                    yield from ((word, level) for word in _words(call) for level in _levels(call, function))


def _words(call: ast.Call) -> list[str]:
    """The word of `log.warning("word ...")`, `log.log(level, "word ...")` or `emit(level, "word")`."""
    by_method = isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name)
    if by_method and ast.unparse(call.func).partition(".")[0].strip("_").lower() != "log":
        return []
    if not by_method and not (isinstance(call.func, ast.Name) and call.func.id == "emit"):
        return []
    texts = [each.value for each in call.args[:2] if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return [text.split()[0] for text in texts[:1] if text != "%s"]


def _levels(call: ast.Call, function: ast.FunctionDef) -> list[str]:
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if method == "exception":
        return ["error"]
    if method in LEVELS:
        return [method]
    level = ast.unparse(call.args[0])
    # One that is chosen: all that the function names.
    choices = level if level.startswith("logging.") else ast.unparse(function)
    return [each for each in LEVELS if f"logging.{each.upper()}" in choices]


def test_the_limits_are_those_of_the_code():
    text = (DOCS / "limits.md").read_text()
    for number in (validate.MAX_NAME_CHARS, validate.MAX_HEADERS_CHARS, validate.MAX_LIMIT):
        assert f"{number:,}" in text
    assert f"| {validate.MAX_KEY_CHARS} characters |" in text
    for title, kinds in (("Network file systems", mounts.NETWORK), ("File systems without modes", mounts.LACKING)):
        shown = re.search(rf"\*\*{title}.*?: (.*?)\.\n", text, flags=re.DOTALL)
        assert shown is not None, title
        assert set(re.split(r",\s+", shown[1])) == kinds


def test_the_glossary_has_every_state_and_every_verb():
    words = [row[0] for title in _titles() for row in _cells(DOCS / "glossary.md", title)]
    assert len(words) == len(set(words)), "a word has one meaning"
    assert [row[0] for row in _cells(DOCS / "glossary.md", "States")] == [*STATES, "settled"]
    known = " ".join(words)
    verbs = [name for theme, name in commands.names() if theme in {"Produce", "Consume", "Change"}]
    assert [verb for verb in verbs if verb.replace("-", " ") not in known] == []


def _titles() -> list[str]:
    return re.findall(r"^## (.*)$", (DOCS / "glossary.md").read_text(), flags=re.MULTILINE)
