"""What is asked, apart from how it is written: the key of an answer, and what the answer may depend on."""

from __future__ import annotations

from typing import Any, Final

import orjson

from chain.tipset import TipsetKey
from rpc.json_wire import Text
from rpc.params import ABSENT, param_of
from rpc.registry import Cache, Method

_KEY: Final = param_of("key", TipsetKey)
#: the longest parameters of which an answer is kept, bytes of JSON
_MAX_PARAMS: Final = 16 << 10
#: results that say that there is nothing: they may change when something comes, so they end with their head
_ABSENCES: Final = frozenset({b"null", b"false", b"[]", b"{}", b'""', b'"0x"'})
_LONGEST_ABSENCE: Final = max(map(len, _ABSENCES))


def is_absence(result: Text) -> bool:
    """Whether a result says that there is nothing. A long one is not looked up: its hash would take milliseconds."""
    return len(result) <= _LONGEST_ABSENCE and result in _ABSENCES


def tipset_places(method: Method) -> tuple[int, ...]:
    """The places of a method's parameters that are tipset keys."""
    return tuple(at for at, param in enumerate(method.params) if param.go == _KEY.go)


def question_key(version: int, method: Method, params: Any) -> bytes | None:
    """The key of an answer: method, API version and parameters, however they were written. None for what is not kept.

    Parsed parameters that are equal have equal keys, and only these: orjson writes every value that a parser makes of a
    body in one way, and refuses numbers beyond a float64 and lone surrogates.
    """
    if params is None or params is ABSENT:
        text = b"" if params is ABSENT else b"null"
    else:
        try:
            text = orjson.dumps(params)
        except TypeError:
            return None
        if len(text) > _MAX_PARAMS:
            return None
    return b"%d %b %b" % (version, method.name.encode(), text)


def needs_head(method: Method, places: tuple[int, ...], params: Any) -> bool:
    """Whether the answer to these parameters may depend on the head."""
    if method.cache is Cache.IMMUTABLE:
        return False
    if method.cache is not Cache.TIPSET:
        return True
    if type(params) is not list or not places or len(params) <= places[-1]:
        return True
    return not all(type(params[at]) is list and params[at] for at in places)
