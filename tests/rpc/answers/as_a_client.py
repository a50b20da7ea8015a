"""An answer that was found by a request's bytes, as its client reads it."""

from __future__ import annotations

import gzip

from rpc.server.answers.packed import Packed
from rpc.server.dispatch import Dispatcher


async def answer_of(dispatcher: Dispatcher, version: int, body: bytes, *, takes_gzip: bool = False) -> bytes:
    """The text of an answer: the kept one, or else one that is made."""
    assert dispatcher.answers is not None
    found = dispatcher.answers.find_raw(version, body, None, "", takes_gzip)
    if found is None:
        return (await dispatcher.http(version, body))[1]
    start = b'{"id":' + found[0]
    return gzip.decompress(bytes(found[1].behind(start))) if isinstance(found[1], Packed) else start + bytes(found[1])
