"""docs/client.md names each error code and each header that a client can see."""

from __future__ import annotations

import re
from typing import Final

import chain.errors
import rpc.errors
from tests.support.paths import ROOT

PAGE: Final = (ROOT / "docs" / "client.md").read_text()


def test_every_error_code_is_described() -> None:
    described = {
        int(code) for code in re.findall(r"^\| (-?\d+) \| .{10}", PAGE.partition("## Error codes")[2], re.MULTILINE)
    }
    codes = {
        found.code
        for module in (rpc.errors, chain.errors)
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Exception) and isinstance(getattr(found, "code", None), int)
    }
    assert len(codes) > 10
    assert codes <= described, f"docs/client.md lacks {sorted(codes - described)}"


def test_every_header_of_ours_is_described() -> None:
    named = set()
    for folder in ("rpc", "follower"):
        for file in (ROOT / folder).rglob("*.py"):
            named |= set(re.findall(r"X-Filecoin-[A-Za-z-]+[a-z]", file.read_text()))
    assert {"X-Filecoin-Head", "X-Filecoin-Min-Head"} <= named
    assert named <= set(re.findall(r"`(X-Filecoin-[A-Za-z-]+)` \(", PAGE))
