"""Base64 text as Go's `encoding/base64` reads it: newlines count for nothing, and a fault has a place.

No step looks at a byte in Python: a hostile client sends megabytes.
"""

from __future__ import annotations

import binascii
import re
from typing import Final

_NO_DIGIT: Final = re.compile(rb"[^A-Za-z0-9+/\r\n]")
_NEWLINES: Final = b"\r\n"
_PADDING: Final = ord("=")


def decode_base64(text: str) -> bytes:
    """The bytes that padded standard base64 stands for. Errors: ValueError, with Go's text."""
    data = text.encode()
    joined = data.translate(None, _NEWLINES)
    try:
        # the strict mode takes padding behind a whole quantum
        if not len(joined) % 4 and not joined.endswith(b"==="):
            return binascii.a2b_base64(joined, strict_mode=True)
    except ValueError:
        pass
    raise ValueError(f"illegal base64 data at input byte {_fault(data)}")


def _fault(data: bytes) -> int:
    """The offset that Go names for text that is no base64 (`decodeQuantum` of `encoding/base64`)."""
    found = _NO_DIGIT.search(data)
    at = found.start() if found else len(data)
    digits = (at - data.count(b"\n", 0, at) - data.count(b"\r", 0, at)) % 4
    if not found:
        return at - digits
    if data[at] != _PADDING or digits < 2:
        return at
    at += 1
    if digits == 2:
        at = _behind_newlines(data, at)
        if at == len(data):
            return at
        if data[at] != _PADDING:
            return at - 1
        at += 1
    # what stands behind the padding is one too many
    return _behind_newlines(data, at)


def _behind_newlines(data: bytes, at: int) -> int:
    return len(data) - len(data[at:].lstrip(_NEWLINES))
