"""Reads the recipes of docs/contributing.md: files, pieces of code, commands.

A recipe is a section (`## …`) whose table has files in its first column. A piece of code follows a line that says where
it goes: "At the end of `FILE`:", "New file `FILE`:", "In `FILE`, after the line `TEXT`:" or "… before the line …".
The line is the first one that starts with TEXT, blanks at its start aside. Commands follow "Then run:".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_PIECE: Final = re.compile(
    r"^(?:(?P<end>At the end of)|(?P<new>New file)|In) `(?P<file>[^`]+)`"
    r"(?:, (?P<where>after|before) the line `(?P<line>[^`\n]+)`)?:\n\n```\w+\n(?P<text>.*?)```\n",
    re.MULTILINE | re.DOTALL,
)
_FILE: Final = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)
_COMMANDS: Final = re.compile(r"^Then run:\n\n((?:    .+\n)+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Piece:
    """Text to put into a file: at its end, as a new file, or before or after a line that starts with `line`."""

    file: str
    where: str
    line: str
    text: str

    def apply(self, root: Path) -> None:
        """Change the file under `root`. Errors: ValueError (no such line, or a new file that is there)."""
        path = root / self.file
        if self.where == "new":
            if path.exists():
                raise ValueError(f"{self.file} exists")
            path.write_text(self.text)
            return
        lines = path.read_text().splitlines(keepends=True)
        if self.where == "end":
            at = len(lines)
        else:
            found = [at for at, line in enumerate(lines) if line.strip().startswith(self.line)]
            if not found:
                raise ValueError(f"{self.file} has no line that starts with {self.line!r}: mend docs/contributing.md")
            at = found[0] + (self.where == "after")
        lines.insert(at, self.text)
        path.write_text("".join(lines))


@dataclass(frozen=True, slots=True)
class Recipe:
    """One section of the page."""

    title: str
    files: tuple[str, ...]
    pieces: tuple[Piece, ...] = ()
    commands: tuple[str, ...] = field(default=())


def _piece(match: re.Match[str]) -> Piece:
    where = "end" if match["end"] else "new" if match["new"] else str(match["where"])
    return Piece(match["file"], where, match["line"] or "", match["text"])


def read_recipes(page: str) -> dict[str, Recipe]:
    """The recipes of the page by their titles."""
    recipes: dict[str, Recipe] = {}
    for section in page.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        files = tuple(_FILE.findall(body))
        if not files:
            continue
        commands = _COMMANDS.search(body)
        recipes[title] = Recipe(
            title,
            files,
            tuple(_piece(match) for match in _PIECE.finditer(body)),
            tuple(line.strip() for line in commands[1].splitlines()) if commands else (),
        )
    return recipes
