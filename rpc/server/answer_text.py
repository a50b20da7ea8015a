"""An answer's text around its result, id or error, as go-jsonrpc writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rpc.errors import InternalError, InvalidRequest, Refused, RpcError, wire_error
from rpc.json_wire import SHORT_TEXT, JsonText, Text, encode_error, encode_id, parts_of, text_between

#: what every answer with a result begins with
BEFORE_ID: Final = b'{"id":'
_BEFORE_RESULT: Final = b',"jsonrpc":"2.0","result":'
_END: Final = b"}\n"


def behind_id(result: Text) -> Text:
    """What follows the id of an answer with this result."""
    return text_between(_BEFORE_RESULT, result, _END)


def answer_with(request_id: Any, behind: Text) -> Text:
    """A whole answer. `behind`: what follows its id."""
    return text_between(BEFORE_ID + encode_id(request_id), behind, b"")


def answer_of(request_id: Any, result: Text) -> Text:
    """A whole answer with this result."""
    return text_between(BEFORE_ID + encode_id(request_id) + _BEFORE_RESULT, result, _END)


def answer_to_batch(answers: Sequence[Text], size: int) -> Text:
    """The answer to a batch, of the answers to its calls. `size`: their bytes in all."""
    if size <= SHORT_TEXT:
        return b"[" + b",".join(map(bytes, answers)) + b"]"
    parts: list[bytes] = []
    for answer in answers:
        parts.append(b"," if parts else b"[")
        parts += parts_of(answer)
    parts.append(b"]")
    return JsonText(parts)


def refused_answer(error: RpcError, request_id: Any) -> tuple[int, bytes]:
    """(HTTP status, text) of an answer with an error."""
    status = 200
    if isinstance(error, Refused):
        status = error.http_status
    elif error.protocol:
        status = 400 if isinstance(error, InvalidRequest) else 500
    try:
        shown = encode_id(request_id)
    except (TypeError, ValueError):
        shown = b"null"
    try:
        return status, encode_error(error, shown)
    except Exception as fault:
        return 500, encode_error(wire_error(fault) if isinstance(fault, RpcError) else InternalError(), shown)
