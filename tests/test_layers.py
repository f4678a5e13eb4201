"""Who may import whom, who may change files, and who may speak SQL: docs/design.md, section 12.

The layer of each module stands here; a module that is not in the table fails, so that somebody decides where it
belongs. Imports inside functions count as much as those at the top.
"""

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = {
    0: ("errors", "models", "settings", "settings.*", "plain_check", "clock", "reasons", "validate", "testing"),
    1: (
        *("retry", "sources", "holding", "spool", "spool.files", "spool.names", "spool.directory", "spool.index"),
        "spool.looks",
        *("spool.rows", "spool.mounts", "spool.probe", "spool.lock", "spool.wakeup", "spool.holders", "spool.meta"),
    ),
    # Each engine in a folder of its own; `client` is behind http://, `postgres` behind postgresql://.
    2: (
        *("interfaces", "message", "consume", "memory", "memory.*", "client", "client.*", "postgres", "postgres.*"),
        *("spool.session", "spool.believing", "spool.rebuilding", "spool.moves", "spool.mending", "spool.room"),
        *(
            "spool.by_names",
            "spool.keys",
            "spool.producer",
            "spool.claiming",
            "spool.settling",
            "spool.dead_letters",
            "spool.drops",
            "spool.scanning",
            "spool.recovery",
        ),
        *("spool.cleanup", "spool.upkeep", "spool.reading", "spool.checking", "spool.queue", "spool.queues"),
    ),
    3: (
        *("queue", "worker", "worker.*", "tokens", "relay", "relay.*", "audit", "stack", "stack.*"),
        *("selftest", "selftest.*"),
    ),
    4: ("samples", "cli", "cli.*", "web", "web.*", "console", "console.*", "__main__", ""),
}

FACES = ("cli*", "web*", "console*")
NOT_OURS_TO_NAME = "__version__"

CHANGING = frozenset(
    (
        *("rename", "renames", "replace", "link", "symlink", "unlink", "remove", "removedirs", "rmdir"),
        *("mkdir", "makedirs", "mkfifo", "mknod", "chmod", "fchmod", "chown", "fchown", "lchown", "utime"),
        *("write", "writev", "pwrite", "sendfile", "copy_file_range", "posix_fallocate", "truncate", "ftruncate"),
        *("fsync", "fdatasync"),
    )
)
"""Functions of `os` that change something on a disk."""

CHANGING_METHODS = frozenset(
    (
        *("rename", "unlink", "rmdir", "mkdir", "touch", "chmod", "symlink_to", "hardlink_to"),
        *("write_bytes", "write_text"),
    )
)
"""Of a Path. `Files` has some of the same names, and is the one that may."""

WRITING = frozenset(("O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"))
SEAM = frozenset(("files", "_files"))
SQL = ("SELECT ", "INSERT ", "UPDATE ", "DELETE FROM", "PRAGMA ", "CREATE TABLE", " LIKE ", " IS NOT NULL", " = ?")


def modules() -> dict[str, ast.Module]:
    """Every module of the package by its name below `spoolq`; a package by its own."""
    found = {}
    for path in sorted((ROOT / "spoolq").rglob("*.py")):
        parts = path.relative_to(ROOT / "spoolq").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


MODULES = modules()


def layer(name: str) -> int:
    """The layer of a module; a lookup that fails is a module nobody has put anywhere."""
    found = [number for number, patterns in LAYERS.items() for pattern in patterns if fnmatchcase(name, pattern)]
    assert len(found) == 1, f"spoolq.{name} is in the layers {found}: say in LAYERS where it belongs"
    return found[0]


def imports(name: str) -> Iterator[tuple[str, int]]:
    """What a module imports of spoolq, wherever in it, with the line."""
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "spoolq":
                    yield alias.name.removeprefix("spoolq").lstrip("."), node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"spoolq.{name}: imports are absolute"
            module = node.module or ""
            if module.split(".")[0] != "spoolq":
                continue
            base = module.removeprefix("spoolq").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                if alias.name != NOT_OURS_TO_NAME:
                    yield inner if inner in MODULES else base, node.lineno


def calls(name: str) -> Iterator[ast.Call]:
    return (node for node in ast.walk(MODULES[name]) if isinstance(node, ast.Call))


def last_name(node: ast.expr) -> str:
    """`files` of `self.session.directory.files`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("name", MODULES)
def test_no_import_points_up_a_layer(name):
    mine = layer(name)
    up = [
        f"line {line}: {f'spoolq.{other}' if other else 'spoolq'} (layer {layer(other)})"
        for other, line in imports(name)
        if layer(other) > mine
    ]
    assert up == [], f"spoolq.{name} is of layer {mine}, and imports"


def test_every_entry_of_the_table_names_a_module():
    for patterns in LAYERS.values():
        for pattern in patterns:
            assert any(fnmatchcase(name, pattern) for name in MODULES), pattern


def test_what_the_faces_know_of_a_spool_is_what_everybody_is_told():
    """Through the interface: no module of the engine, no SQL."""
    for name in MODULES:
        if any(fnmatchcase(name, pattern) for pattern in FACES):
            assert [other for other, _ in imports(name) if other.split(".")[0] in {"spool", "postgres"}] == [], name


def test_the_directory_knows_no_index_and_the_index_no_directory():
    """So that the argument about crashes is in the modules that know both."""
    assert "spool.index" not in {other for other, _ in imports("spool.directory")}
    assert not {"spool.directory", "spool.files"} & {other for other, _ in imports("spool.index")}
    assert [ast.unparse(call) for call in calls("spool.index") if ast.unparse(call.func).startswith("os.")] == []


def changes(name: str) -> Iterator[str]:
    """Calls in a module that change something on a disk, but through `Files`."""
    for call in calls(name):
        function, text = call.func, ast.unparse(call)
        if isinstance(function, ast.Name) and function.id == "open":
            mode = next((ast.unparse(word.value) for word in call.keywords if word.arg == "mode"), "")
            mode = mode or (ast.unparse(call.args[1]) if len(call.args) > 1 else "'r'")
            if set(mode) & set("wax+"):
                yield f"line {call.lineno}: {text}"
        elif isinstance(function, ast.Attribute):
            of = last_name(function.value)
            by_os = of == "os" and (function.attr in CHANGING or (function.attr == "open" and is_writing(call)))
            by_path = function.attr in CHANGING_METHODS and of not in SEAM | {"self", "os"}
            if by_os or by_path or of == "shutil":
                yield f"line {call.lineno}: {text}"


def is_writing(call: ast.Call) -> bool:
    return any(isinstance(node, ast.Attribute) and node.attr in WRITING for node in ast.walk(call))


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("spool.") and name != "spool.files"])
def test_only_files_changes_anything_on_the_disk(name):
    """It is the seam at which tests die, fail and record: what goes past it is tested by nobody."""
    assert list(changes(name)) == []


def test_the_check_above_would_see_it():
    """Its own test: each way of changing something is found in files.py, or in a line made for it."""
    seen = " ".join(changes("spool.files"))
    for function in ("os.rename", "os.unlink", "os.mkdir", "os.utime", "os.write", "os.fsync", "shutil.rmtree"):
        assert function in seen, function
    MODULES["made"] = ast.parse("open(p, 'wb')\nos.open(p, os.O_RDWR)\npath.write_text('')\nopen(p)\nos.open(p, 0)\n")
    try:
        assert [line.split(":")[0] for line in changes("made")] == ["line 1", "line 2", "line 3"]
    finally:
        del MODULES["made"]


@pytest.mark.parametrize(
    "name", [name for name in MODULES if name not in {"spool.index", "spool.looks", "postgres.statements"}]
)
def test_only_the_index_speaks_sql(name):
    """Its two halves, and the statements of PostgreSQL. Others may catch its errors and hold its connection."""
    used = {
        node.attr
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sqlite3"
    }
    assert used <= {"Error", "Connection"}
    documentation = {id(node.value) for node in ast.walk(MODULES[name]) if isinstance(node, ast.Expr)}
    texts = [
        node.value
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
    ]
    assert [text for text in texts if any(word in text for word in SQL)] == []
