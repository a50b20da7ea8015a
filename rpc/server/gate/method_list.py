"""Methods that are allowed or denied: `Filecoin.X`, `!Filecoin.Y`, `# a comment`; a `*` at the end is any rest."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from rpc.registry import Method

_ENTRY: Final = re.compile(r"!?[A-Za-z0-9_.]*\*?")


@dataclass(frozen=True, slots=True)
class MethodList:
    """Names and beginnings of names. A denied method stays denied; where any are allowed, all others are denied."""

    allowed: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()

    @classmethod
    def parse(cls, lines: Iterable[str]) -> MethodList:
        """Errors: ValueError, which names the line."""
        allowed: list[str] = []
        denied: list[str] = []
        for number, line in enumerate(lines, 1):
            entry = line.partition("#")[0].strip()
            if not entry:
                continue
            if not _ENTRY.fullmatch(entry) or entry == "!":
                raise ValueError(f"entry {number} of the methods is no name: Filecoin.ChainHead, !Filecoin.Eth*")
            (denied if entry.startswith("!") else allowed).append(entry.removeprefix("!"))
        return cls(tuple(allowed), tuple(denied))

    def allows(self, method: Method) -> bool:
        """Whether a method may be called. An entry stands for the method under all its names."""
        names = (method.name, *method.aliases)
        if any(_matches(entry, name) for entry in self.denied for name in names):
            return False
        return not self.allowed or any(_matches(entry, name) for entry in self.allowed for name in names)


def _matches(entry: str, name: str) -> bool:
    return name.startswith(entry[:-1]) if entry.endswith("*") else name == entry
