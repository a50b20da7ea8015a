"""Long texts in parts: the same bytes as in one piece, wherever they leave, and never joined on the way."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.context import Context
from rpc.json_wire import SHORT_TEXT, ArrayBuilder, JsonText, TextBuilder, as_text, text_between
from rpc.registry import EVERY_VERSION, Cache, Registry
from rpc.server.answer_text import answer_to_batch
from rpc.server.answers.packed import Packed, pack
from rpc.server.dispatch import Dispatcher
from rpc.server.limits import ServerSettings
from rpc.server.server import serve
from tests.support.wire_node import services

PIECES = st.lists(st.tuples(st.binary(max_size=40), st.integers(1, 4000)).map(lambda pair: pair[0] * pair[1]))
#: a part is no longer than this where its pieces are short
MOST = 256 << 10


@given(PIECES)
def test_a_builder_joins_nothing_long_and_loses_nothing(pieces: list[bytes]) -> None:
    builder = TextBuilder()
    for piece in pieces:
        builder.write(piece)
    assert builder.size == sum(map(len, pieces))
    text = builder.text()
    assert bytes(text) == b"".join(pieces)
    assert len(text) == builder.size
    longest = max(map(len, pieces), default=0)
    assert all(len(part) < SHORT_TEXT * 2 + longest for part in text.parts)
    assert all(len(part) >= SHORT_TEXT for part in text.parts[:-1])


@given(st.lists(st.lists(st.binary(min_size=1, max_size=9), max_size=70)))
def test_an_array_is_its_items_with_commas(runs: list[list[bytes]]) -> None:
    array = ArrayBuilder()
    for run in runs:
        array.add(run)
    assert bytes(array.text()) == b"[" + b",".join(item for run in runs for item in run) + b"]"


@given(PIECES, st.binary(max_size=30), st.binary(max_size=30))
def test_both_forms_of_a_text_are_the_same_bytes(pieces: list[bytes], start: bytes, end: bytes) -> None:
    whole = b"".join(pieces)
    parts = JsonText(pieces)
    assert bytes(text_between(start, parts, end)) == text_between(start, whole, end) == start + whole + end
    assert bytes(as_text(parts)) == bytes(as_text(whole)) == whole
    assert isinstance(as_text(parts), bytes) == isinstance(as_text(whole), bytes) == (len(whole) <= SHORT_TEXT)
    assert gzip.decompress(pack(parts)) == whole
    assert gzip.decompress(bytes(Packed(parts).behind(start))) == start + whole


@given(st.lists(PIECES.map(JsonText) | st.binary(max_size=100), min_size=1))
def test_a_batch_is_its_answers_with_commas(answers: list[bytes | JsonText]) -> None:
    size = sum(map(len, answers))
    assert bytes(answer_to_batch(answers, size)) == b"[" + b",".join(map(bytes, answers)) + b"]"


def long_registry() -> Registry:
    """Methods whose answers are long, in each form that a result may have."""
    registry = Registry()

    @registry.method("T.List", versions=EVERY_VERSION, cache=Cache.IMMUTABLE)
    async def rows(ctx: Context, count: int) -> list[dict[str, str]]:
        return [{"a<b": f"{at:>100}"} for at in range(count)]

    @registry.method("T.Text", versions=EVERY_VERSION, cache=Cache.IMMUTABLE)
    async def text(ctx: Context, count: int) -> JsonText:
        array = ArrayBuilder()
        for at in range(count):
            array.add([b"%100d" % at])
        return array.text()

    @registry.method("T.Never", versions=EVERY_VERSION, cache=Cache.NEVER)
    async def never(ctx: Context, count: int) -> list[dict[str, str]]:
        return await rows(ctx, count)

    return registry


WANTED = {
    "T.List": lambda count: [{"a<b": f"{at:>100}"} for at in range(count)],
    "T.Never": lambda count: [{"a<b": f"{at:>100}"} for at in range(count)],
    "T.Text": lambda count: list(range(count)),
}


def question(method: str, count: int, request_id: int) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": [count]}


@pytest.mark.parametrize("method", WANTED)
async def test_a_long_answer_is_in_parts_all_the_way(method: str) -> None:
    dispatcher = Dispatcher(services(), long_registry())
    for request_id in range(3):
        status, text = await dispatcher.answer_http(1, orjson.dumps(question(method, 20_000, request_id)))
        assert status == 200
        assert isinstance(text, JsonText)
        assert len(text) > 2_000_000
        assert max(map(len, text.parts)) < MOST
        wanted = {"id": request_id, "jsonrpc": "2.0", "result": WANTED[method](20_000)}
        assert orjson.loads(bytes(text)) == wanted
    assert dispatcher.answers is not None
    found = dispatcher.answers.find_raw(1, orjson.dumps(question(method, 20_000, 7)), None, "")
    assert (found is None) == (method == "T.Never")
    if found is not None:
        assert isinstance(found[1], JsonText)
        assert max(map(len, found[1].parts)) < MOST


@pytest.mark.parametrize("count", [3, 700, 20_000, 90_000])
@pytest.mark.parametrize("method", WANTED)
async def test_any_way_out_has_the_same_answer(method: str, count: int) -> None:
    settings = ServerSettings(answer_cache_bytes=1 << 30)
    server = await serve(services(), "127.0.0.1", 0, registry=long_registry(), settings=settings)
    wanted = WANTED[method](count)

    async def chunks(body: bytes) -> Any:
        yield body

    async with aiohttp.ClientSession() as session:
        try:
            for request_id, accepts in enumerate(("identity", "gzip", "identity", "gzip")):
                body = orjson.dumps(question(method, count, request_id))
                async with session.post(server.url, data=body, headers={"Accept-Encoding": accepts}) as answer:
                    assert orjson.loads(await answer.read())["result"] == wanted
            # with a body of unknown length the other handler answers
            async with session.post(server.url, data=chunks(body)) as answer:
                assert orjson.loads(await answer.read())["result"] == wanted
            batch = orjson.dumps([question(method, count, 1), question("T.Text", 1, 2)])
            async with session.post(server.url, data=batch) as answer:
                values = orjson.loads(await answer.read())
            assert [value["result"] for value in values] == [wanted, [0]]
            async with session.ws_connect(server.url, max_msg_size=0) as socket:
                await socket.send_bytes(body)
                assert orjson.loads((await socket.receive()).data)["result"] == wanted
        finally:
            await server.stop(0)


async def test_messages_of_two_frames_are_not_mixed_up() -> None:
    """Long and short answers to calls under way at once, and pings, on one WebSocket."""
    server = await serve(services(), "127.0.0.1", 0, registry=long_registry())
    counts = [20_000, 1, 700, 20_001, 2, 20_002] * 3
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        try:
            async with session.ws_connect(server.url, max_msg_size=0) as socket:
                for request_id, count in enumerate(counts):
                    await socket.send_bytes(orjson.dumps(question("T.List", count, request_id)))
                    await socket.ping()
                found = {}
                for _ in counts:
                    answer = orjson.loads((await socket.receive()).data)
                    assert "result" in answer, answer
                    found[answer["id"]] = answer["result"]
            assert found == {at: WANTED["T.List"](count) for at, count in enumerate(counts)}
        finally:
            await server.stop(0)


async def _message(reader: asyncio.StreamReader) -> list[tuple[int, bytes]]:
    """(first byte, payload) of the frames of one message."""
    found = []
    while not found or not found[-1][0] & 0x80:
        first, size = await reader.readexactly(2)
        if size >= 126:
            size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8))
        found.append((first, await reader.readexactly(size)))
    return found


@pytest.mark.parametrize(("count", "frames"), [(3, 1), (4_000, 1), (20_000, 2)])
async def test_a_long_message_has_a_second_frame_that_is_short(count: int, frames: int) -> None:
    server = await serve(services(), "127.0.0.1", 0, registry=long_registry())
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 24)
        writer.write(
            b"GET /rpc/v1 HTTP/1.1\r\nHost: f\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        body = orjson.dumps(question("T.List", count, 1))
        # a mask of zeros
        writer.write(bytes((0x81, 0x80 | len(body))) + bytes(4) + body)
        found = await _message(reader)
        writer.close()
        await server.stop(0)
    assert [first for first, _ in found] == ([0x81] if frames == 1 else [0x01, 0x80])
    assert orjson.loads(b"".join(payload for _, payload in found))["result"] == WANTED["T.List"](count)
    if frames == 2:
        # so long that aiohttp looks whether the peer reads, and no longer than needed for that
        assert 1 << 16 < len(found[1][1]) < 2 * MOST


async def test_who_waits_for_a_long_answer_gets_it_whole() -> None:
    dispatcher = Dispatcher(services(), long_registry())
    bodies = [orjson.dumps(question("T.List", 20_000, at)) for at in range(5)]
    answers = await asyncio.gather(*(dispatcher.answer_http(1, body) for body in bodies))
    assert [orjson.loads(bytes(text))["id"] for _, text in answers] == list(range(5))
    assert {len(text) for _, text in answers} == {len(answers[0][1])}
    stats = dispatcher.metrics.method("T.List")
    assert (stats.misses, stats.joined) == (1, 4)
