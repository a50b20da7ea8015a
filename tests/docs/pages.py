"""The fenced blocks of a page that is run as it is written, and what their titles say.

A title is a list, separated by " · ":

    on f1, f2, f3              the machines, in this order ("on f1, then f2" too)
    file /etc/name             the block is the text of this file
    lines of NAME              lines to set in a file of another program; shown only
    needs the internet         not run by a test: what it needs is not there
    runs until Ctrl-C          the block does not end by itself
    after Ctrl-C               the block that runs is stopped first
    in a second terminal       said to the reader
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

#: languages whose blocks are commands
SHELL: Final = ("sh",)
_BLOCK: Final = re.compile(r'^```(\w+)(?: title="([^"\n]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One block of a page. `heading`: the one above it. `needs`: what a test does not have ("": nothing)."""

    page: str
    line: int
    heading: str
    language: str
    text: str
    machines: tuple[str, ...] = ()
    needs: str = ""
    file: str = ""
    is_shown_only: bool = False
    runs_on: bool = False
    stops: bool = False

    @property
    def is_shell(self) -> bool:
        """Whether it holds commands."""
        return self.language in SHELL

    @property
    def place(self) -> str:
        """Page and line, for messages."""
        return f"{self.page}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order. Errors: ValueError (a title says something that is not known)."""
    text = page.read_text()
    blocks = []
    for found in _BLOCK.finditer(text):
        language, title, body = found.groups()
        above = _HEADING.findall(_without_blocks(text[: found.start()]))
        line = text.count("\n", 0, found.start()) + 1
        said = _read_title(title or "", f"{page.name}:{line}")
        blocks.append(Block(page.name, line, above[-1] if above else "", language, body, **said))  # type: ignore[arg-type]
    return blocks


def _without_blocks(text: str) -> str:
    """A comment in a block looks like a heading."""
    return _BLOCK.sub("", text)


def _read_title(title: str, place: str) -> dict[str, object]:
    said: dict[str, object] = {}
    for part in filter(None, title.split(" · ")):
        word, _, rest = part.partition(" ")
        if word == "on":
            said["machines"] = tuple(re.split(r", then |, ", rest))
        elif word == "needs":
            said["needs"] = rest
        elif word == "file":
            said["file"] = rest
        elif part.startswith("lines of "):
            said["is_shown_only"] = True
        elif part == "runs until Ctrl-C":
            said["runs_on"] = True
        elif part == "after Ctrl-C":
            said["stops"] = True
        elif part != "in a second terminal":
            raise ValueError(f"{place}: the title says {part!r}, which nobody knows")
    return said


def json_answers(printed: str) -> list[dict[str, Any]]:
    """The JSON-RPC answers in what blocks printed."""
    found, at, decoder = [], 0, json.JSONDecoder()
    while (at := printed.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(printed, at)
        except ValueError:
            at += 1
        else:
            if "jsonrpc" in value:
                found.append(value)
    return found
