"""Long answers in gzip's form: whose streams any decoder reads, and who gets them."""

from __future__ import annotations

import asyncio
import gzip
import logging
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.json_wire import Text
from rpc.server.answers import kept_answers
from rpc.server.answers.packed import MOST_PACKED, Packed, accepts_gzip, pack
from rpc.server.gate.gate import GateSettings
from rpc.server.limits import ServerSettings
from rpc.server.observe.observer import Observer
from rpc.server.observe.request_log import RequestLog
from rpc.server.server import Server, serve
from tests.rpc.answers.test_kept_answers import made

_FROM = ServerSettings().gzip_from_bytes


@given(st.binary(max_size=200), st.binary(max_size=5000), st.integers(1, 50))
def test_any_text_comes_back_from_behind_any_start(start: bytes, part: bytes, times: int) -> None:
    text = part * times
    packed = Packed(text)
    assert gzip.decompress(bytes(packed.behind(start))) == start + text
    assert gzip.decompress(bytes(packed.behind(b""))) == text
    assert gzip.decompress(pack(text)) == text
    # one member, and nothing behind it: some browsers read no further
    stream = zlib.decompressobj(31)
    assert stream.decompress(bytes(packed.behind(start))) == start + text
    assert stream.eof
    assert not stream.unused_data


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        (b"", False),
        (b"gzip", True),
        (b"GZIP", True),
        (b"gzip, deflate, br", True),
        (b"br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        (b"deflate,x-gzip", True),
        (b"*", True),
        (b"*;q=0", False),
        (b"*, gzip;q=0", False),
        (b"gzip;q=0, *", False),
        (b"gzip ; q=0.000", False),
        (b"gzip;q=0.001", True),
        (b"identity", False),
        (b"gzipped, deflate", False),
        (b",;q=0,,", False),
    ],
)
def test_accept_encoding(value: bytes, taken: bool) -> None:
    assert accepts_gzip(value) is taken


class _Client:
    """Asks for texts of given sizes, and gives what was sent without decompressing it."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session

    async def ask(self, size: int, accepts: str, request_id: int = 1, number: int = 1) -> aiohttp.ClientResponse:
        body = b'{"jsonrpc":"2.0","id":%d,"method":"T.Long","params":[%d,%d]}' % (request_id, size, number)
        headers = {"Accept-Encoding": accepts}
        async with self.session.post(self.server.url, data=body, headers=headers) as response:
            sent = await response.read()
        assert len(sent) == int(response.headers["Content-Length"])
        packed = response.headers.get("Content-Encoding")
        assert packed in (None, "gzip")
        text = gzip.decompress(sent) if packed else sent
        assert orjson.loads(text) == {"id": request_id, "jsonrpc": "2.0", "result": "x" * size}
        return response


@asynccontextmanager
async def _client(**settings: Any) -> AsyncIterator[_Client]:
    counted, chain, _ = await made()
    registry = counted.counted.registry
    server = await serve(chain.services(), "127.0.0.1", 0, registry=registry, settings=ServerSettings(**settings))
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        try:
            yield _Client(server, session)
        finally:
            await server.stop(0)


@pytest.mark.parametrize("cache_bytes", [64 << 20, 0])
async def test_who_takes_gzip_gets_long_answers_in_it(cache_bytes: int) -> None:
    async with _client(answer_cache_bytes=cache_bytes) as client:
        for request_id in range(1, 5):
            for accepts in ("gzip, deflate", "identity"):
                answer = await client.ask(_FROM, accepts, request_id)
                assert answer.headers.get("Content-Encoding") == ("gzip" if "gzip" in accepts else None)
                assert answer.headers["Vary"] == "Accept-Encoding"
            short = await client.ask(_FROM - 100, "gzip", request_id)
            assert "Content-Encoding" not in short.headers
            assert "Vary" not in short.headers
        assert answer.headers.get("X-Cache") == ("HIT" if cache_bytes else None)


async def test_none_is_packed_where_the_setting_says_so() -> None:
    async with _client(gzip_from_bytes=0) as client:
        for request_id in range(1, 4):
            answer = await client.ask(1 << 20, "gzip", request_id)
            assert "Content-Encoding" not in answer.headers
            assert "Vary" not in answer.headers


async def test_very_long_answers_stay_as_they_are() -> None:
    async with _client(answer_cache_bytes=256 << 20) as client:
        for request_id in range(1, 4):
            answer = await client.ask(MOST_PACKED, "gzip", request_id)
            assert "Content-Encoding" not in answer.headers
            assert answer.headers["Vary"] == "Accept-Encoding"
        assert answer.headers["X-Cache"] == "HIT"


async def test_what_packing_takes_is_counted() -> None:
    async with _client(answer_cache_bytes=2 << 20) as client:
        answers = client.server.dispatcher.answers
        assert answers is not None
        for request_id in (1, 2):
            await client.ask(100_000, "identity", request_id)
        plain = answers.size
        for request_id in (3, 4):
            await client.ask(100_000, "gzip", request_id)
        body = b'{"jsonrpc":"2.0","id":5,"method":"T.Long","params":[100000,1]}'
        found = answers.find_raw(1, body, None, "", True)
        assert found is not None
        assert isinstance(found[1], Packed)
        assert answers.size == plain + len(found[1])
        # far more than fits: the limit holds, packed forms included
        for number in range(2, 60):
            for request_id in (1, 2, 3):
                await client.ask(100_000, "gzip", request_id, number)
            assert answers.size <= 2 << 20


@pytest.mark.parametrize("who_looks", ["a gate", "an observer"])
async def test_a_kept_answer_is_packed_once_where_each_call_is_looked_at(
    who_looks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packings = 0

    class Counting(Packed):
        def __init__(self, text: Text) -> None:
            nonlocal packings
            packings += 1
            super().__init__(text)

    monkeypatch.setattr(kept_answers, "Packed", Counting)
    async with _client(gate=GateSettings() if who_looks == "a gate" else None) as client:
        dispatcher = client.server.dispatcher
        if who_looks == "an observer":
            dispatcher.observe(Observer(RequestLog(logging.DEBUG), dispatcher.is_named))
        assert not dispatcher.finds_raw
        for size in (_FROM, 200_000):
            packings = 0
            for request_id in range(1, 6):
                answer = await client.ask(size, "gzip", request_id)
                assert answer.headers["Content-Encoding"] == "gzip"
                await client.ask(size, "identity", request_id)
            assert answer.headers["X-Cache"] == "HIT"
            assert packings == 1


async def test_packed_answers_free_their_memory() -> None:
    async with _client() as client:
        memory = client.server.dispatcher.admission.memory
        for request_id in range(1, 5):
            await client.ask(1 << 20, "gzip", request_id)
        async with asyncio.timeout(10):
            while memory.used:
                await asyncio.sleep(0.01)
