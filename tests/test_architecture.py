"""Imports run one way: what each room may know, read off the source."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mwactl

PACKAGE = Path(mwactl.__file__).parent
PLUGINS = PACKAGE.parent / "backbones"

BASE = {"errors", "files", "home", "progress"}
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors", "home"},
    "home": set(),
    "progress": set(),
    "packaged": {"errors"},
    "config": {"errors", "files", "packaged"},
    "chart": set(),
    "runs": BASE | {"chart"},
    "registry": BASE,
    "card": {"errors", "files", "packaged", "registry", "chart"},
    "remote": BASE | {"registry"},
    "backbone": BASE | {"config"},
    "adapter": BASE | {"config", "backbone"},
    "runtime": set(),
    "data": BASE | {"runtime"},
    "train": BASE | {"config", "backbone", "adapter", "data"},
    "bench": BASE | {"config", "backbone", "adapter", "data", "train", "chart"},
    "evaluate": BASE | {"backbone", "data"},
    "export": BASE | {"backbone", "adapter", "data", "evaluate", "runtime"},
    "search": BASE | {"data", "runtime"},
    "quickstart": BASE,
    "scaffold": {"errors", "files", "packaged", "backbone"},
    "testing": {"errors", "progress", "config", "backbone", "adapter", "train", "export", "runtime"},
    "workflow": BASE
    | {
        "config",
        "registry",
        "backbone",
        "adapter",
        "data",
        "train",
        "evaluate",
        "export",
        "search",
        "runtime",
        "quickstart",
        "runs",
    },
    "api": BASE | {"config", "registry", "backbone", "search", "workflow"},
    "cli": BASE
    | {
        "bench",
        "packaged",
        "config",
        "registry",
        "card",
        "remote",
        "backbone",
        "adapter",
        "data",
        "train",
        "evaluate",
        "export",
        "search",
        "runtime",
        "quickstart",
        "runs",
        "chart",
        "scaffold",
        "workflow",
    },
}
"""Room → the rooms it may import. The version in `mwactl/__init__.py` is open to all."""

WITHOUT_TORCH = (
    "errors",
    "files",
    "home",
    "progress",
    "packaged",
    "scaffold",
    "config",
    "registry",
    "card",
    "remote",
    "cli",
    "runtime",
    "search",
)
HEAVY = {"torch", "numpy", "pydantic", "yaml", "PIL", "open_clip", "transformers", "safetensors"}


def imports(file: Path, *, at_module_level: bool = False) -> Iterator[str]:
    """The full names that a file imports; without those under `if TYPE_CHECKING` and, if asked, in functions."""
    tree = ast.parse(file.read_text("utf-8"))
    hidden: set[ast.AST] = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if typing_only or (at_module_level and inside):
            hidden.update(ast.walk(node))
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"a relative import in {file}"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(room: str) -> list[Path]:
    single = PACKAGE / f"{room}.py"
    return [single] if single.is_file() else sorted((PACKAGE / room).rglob("*.py"))


def rooms() -> list[str]:
    found = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    return sorted(found - {"__init__", "__main__"})


def top(name: str) -> str:
    return name.partition(".")[0]


def test_every_room_has_its_rules():
    assert set(rooms()) <= MAY_IMPORT.keys(), "say in MAY_IMPORT what a new room may know"


def test_the_rules_themselves_run_one_way():
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        ready = {room for room, allowed in MAY_IMPORT.items() if allowed <= done} - done
        assert ready, f"a circle among {set(MAY_IMPORT) - done}"
        done |= ready


@pytest.mark.parametrize("room", rooms())
def test_a_room_imports_only_what_it_may_know(room: str):
    known = set(rooms())
    for file in files_of(room):
        for name in imports(file):
            parts = name.split(".")
            if parts[0] == "mwactl" and len(parts) > 1 and parts[1] in known - {room}:
                assert parts[1] in MAY_IMPORT[room], f"{file} imports {name}"


@pytest.mark.parametrize("room", rooms())
def test_no_room_imports_a_plugin_by_name(room: str):
    for file in files_of(room):
        assert not [name for name in imports(file) if top(name).startswith("mwactl_")], file


@pytest.mark.parametrize("room", [room for room in WITHOUT_TORCH if files_of(room)])
def test_rooms_without_torch_do_not_import_it(room: str):
    for file in files_of(room):
        assert "torch" not in map(top, imports(file, at_module_level=room == "cli")), file


def test_the_command_line_imports_nothing_heavy_before_a_command_runs():
    for file in files_of("cli"):
        assert not HEAVY & set(map(top, imports(file, at_module_level=True))), file


@pytest.mark.parametrize("plugin", sorted(path.name for path in PLUGINS.glob("mwactl_*")))
def test_a_plugin_knows_the_contract_and_nothing_else(plugin: str):
    allowed = ("mwactl.backbone", "mwactl.errors", "mwactl.files")
    files = sorted((PLUGINS / plugin).rglob("*.py"))
    assert files
    for file in files:
        for name in imports(file):
            if top(name).startswith("mwactl") and top(name) != plugin:
                assert name.startswith(allowed), f"{file} imports {name}"


def test_importing_a_light_room_really_loads_no_torch():
    """What the source says, and what its imports then import themselves."""
    program = (
        "import sys\n"
        "import mwactl.errors, mwactl.files, mwactl.home, mwactl.progress, mwactl.cli\n"
        f"heavy = {sorted(HEAVY)!r}\n"
        "assert not set(heavy) & set(sys.modules), set(heavy) & set(sys.modules)\n"
        "import mwactl.registry, mwactl.backbone, mwactl_clip\n"
        "assert not {'torch', 'open_clip', 'pydantic'} & set(sys.modules)\n"
        "import mwactl.config\n"
        "assert not {'torch', 'open_clip'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
