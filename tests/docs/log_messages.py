"""The warnings and errors that the programs log, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support.paths import ROOT

#: played nodes are for trying and testing
TREES: Final = ("blockstore", "chain", "follower", "leader_bridge", "loadbalancer", "rpc")
_LEVELS: Final = ("warning", "error", "exception", "critical")


def _texts(node: ast.expr) -> Iterator[str]:
    """The texts that an argument may be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "%s" for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)


def log_messages() -> dict[str, Path]:
    """Each text with the placeholders of `logging`, and the file that logs it."""
    found: dict[str, Path] = {}
    for tree in TREES:
        for file in sorted((ROOT / tree).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in _LEVELS
                    and isinstance(node.func.value, ast.Name)
                    and node.func.value.id in ("log", "logger", "logging")
                    and node.args
                ):
                    for text in _texts(node.args[0]):
                        found[text] = file
    return found


if __name__ == "__main__":
    for text, file in log_messages().items():
        print(f"{file.relative_to(ROOT)}: {text}")
