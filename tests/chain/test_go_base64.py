"""Base64 against what Go's `encoding/base64` makes of the same texts (`vectors/base64.jsonl`)."""

from __future__ import annotations

from typing import Any

import orjson

from chain.go_base64 import decode_base64
from tests.support.paths import VECTORS


def vectors() -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (VECTORS / "base64.jsonl").read_bytes().splitlines()]


def outcome(text: str) -> dict[str, str]:
    try:
        return {"text": text, "bytes": decode_base64(text).hex()}
    except ValueError as error:
        return {"text": text, "error": str(error)}


def test_every_text_is_read_or_refused_as_by_go() -> None:
    assert [outcome(vector["text"]) for vector in vectors()] == vectors()
    assert sum("bytes" in vector for vector in vectors()) > 100
    assert sum("error" in vector for vector in vectors()) > 200
