"""Base64 against what Go's `encoding/base64` makes of the same texts (`vectors/base64.jsonl`)."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import orjson
import pytest

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


#: as many bytes as a request may have, in texts that are refused late
_MANY = 8 << 20


@pytest.mark.parametrize(
    ("make", "at"),
    [
        (lambda: "A" * _MANY + "!", _MANY),
        (lambda: "A" * _MANY + "A", _MANY),
        (lambda: "=" + "\n" * _MANY, 0),
        (lambda: "AA=" + "\n" * _MANY, _MANY + 3),
        (lambda: "AAA=" + "\r" * _MANY + "A", _MANY + 4),
        (lambda: "\n" * _MANY + "!", _MANY),
    ],
)
def test_a_long_text_is_refused_without_a_step_for_each_byte(make: Callable[[], str], at: int) -> None:
    text = make()
    steps = 0

    def count(frame: Any, event: str, arg: Any) -> Any:
        nonlocal steps
        steps += 1
        return count

    sys.settrace(count)
    try:
        with pytest.raises(ValueError, match=re.escape(f"at input byte {at}") + "$"):
            decode_base64(text)
    finally:
        sys.settrace(None)
    assert steps < 10_000
