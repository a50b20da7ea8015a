"""Base64 text as Go's `encoding/base64` reads it: newlines count for nothing, and a fault has a place."""

from __future__ import annotations

import binascii
import re
from typing import Final

_VALID: Final = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", re.ASCII)
_DIGITS: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
_NEWLINES: Final = frozenset(b"\r\n")
_PADDING: Final = ord("=")


def decode_base64(text: str) -> bytes:
    """The bytes that padded standard base64 stands for. Errors: ValueError, with Go's text."""
    joined = text.replace("\n", "").replace("\r", "")
    if not _VALID.fullmatch(joined):
        raise ValueError(f"illegal base64 data at input byte {_fault(text.encode())}")
    return binascii.a2b_base64(joined)


def _fault(data: bytes) -> int:
    """The offset that Go names for text that is no base64 (`decodeQuantum` of `encoding/base64`)."""
    at = digits = 0
    while at < len(data):
        byte = data[at]
        at += 1
        if byte in _DIGITS:
            digits = (digits + 1) % 4
        elif byte in _NEWLINES:
            continue
        elif byte != _PADDING or digits < 2:
            return at - 1
        else:
            if digits == 2:
                at = _behind_newlines(data, at)
                if at == len(data):
                    return at
                if data[at] != _PADDING:
                    return at - 1
                at += 1
            # what stands behind the padding is one too many
            return _behind_newlines(data, at)
    return at - digits


def _behind_newlines(data: bytes, at: int) -> int:
    while at < len(data) and data[at] in _NEWLINES:
        at += 1
    return at
