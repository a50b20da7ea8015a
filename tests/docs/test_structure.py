"""The rules of docs/contributing.md for files and folders: their size, and no circle of imports.

An import counts wherever it stands: inside a function and under TYPE_CHECKING too.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

from tests.support.paths import ROOT

_TREES: Final = (
    "benches",
    "blockstore",
    "chain",
    "devnode",
    "follower",
    "leader_bridge",
    "loadbalancer",
    "rpc",
    "tests",
)
FILES: Final = [file for tree in _TREES for file in sorted((ROOT / tree).rglob("*.py"))]


def _name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES: Final = {_name(file): file for file in FILES}


def test_files_are_short() -> None:
    long = {str(file.relative_to(ROOT)): lines for file in FILES if (lines := len(file.read_text().splitlines())) > 500}
    assert not long, f"files of more than 500 lines: {long}"


def test_folders_are_small() -> None:
    count = Counter(str(file.parent.relative_to(ROOT)) for file in FILES)
    big = {folder: files for folder, files in count.items() if files > 20}
    assert not big, f"folders of more than 20 Python files: {big}"


def _imported(module: str, file: Path) -> Iterator[str]:
    """The modules of this project that a file imports; `from package import module` is the module."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in names]
        else:
            continue
        yield from (name for name in names if name in MODULES and name != module)


def test_no_circle_of_imports() -> None:
    graph = {module: set(_imported(module, file)) for module, file in MODULES.items()}
    assert sum(len(found) for found in graph.values()) > 1000
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError("a circle of imports: " + " <- ".join(error.args[1])) from None
