"""A single request's bytes without its id: equal bytes around the id ask the same question.

Only plain ids are taken out: integers of at most 15 digits, and strings of letters, digits, `-` and `_`. They come back
in an answer as they stand in the request. Whether the place is really the request's id is checked once, with a parser,
before an answer is kept under these bytes (`is_id`).
"""

from __future__ import annotations

import re
from typing import Final

import orjson

from rpc.errors import ParseError
from rpc.json_wire import parse
from rpc.server.request import BrokenRequest, Request, read_request

#: requests up to this size are looked up by their bytes
MAX_RAW: Final = 4096

#: the first plain id of a request's bytes
ID: Final = re.compile(rb'"id": ?(0|[1-9][0-9]{0,14}|"[A-Za-z0-9_-]{1,64}")(?=[,}])')
#: ids that `ID` does not match, so they differ from any that it does
_OTHER_NUMBER: Final = b"1234567890123456"
_OTHER_TEXT: Final = b'"%b"' % (b"x" * 65)


def find_id(body: bytes) -> tuple[int, int] | None:
    """Where the first plain id of a request's bytes begins and ends; None where there is none."""
    match = ID.search(body)
    return None if match is None else match.span(1)


def is_id(body: bytes, start: int, end: int, request: Request) -> bool:
    """Whether `body[start:end]` is the id of `request`, which was read from `body`.

    Another id is put there: where the request then has that id, the place is the one that counts. All else in the
    request is the same, for a JSON value was replaced by another one of its kind.
    """
    other = _OTHER_TEXT if body[start] == ord('"') else _OTHER_NUMBER
    try:
        orjson.loads(body)
        found = read_request(parse(body[:start] + other + body[end:], whole=True))
    except (orjson.JSONDecodeError, ParseError, BrokenRequest):
        return False
    return found.id == orjson.loads(other) and found.method == request.method
