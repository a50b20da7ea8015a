"""What is kept, found, joined and dropped: a registry made for the test, over a chain of a few tipsets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import orjson
import pytest

from blockstore.store import Batch
from chain.errors import NotFound
from chain.index.kept import Kept, save_kept
from chain.tipset import TipsetKey
from rpc.context import WHOLE_HEAD, Context
from rpc.registry import Cache, Registry
from rpc.server.answers.raw_request import find_id, is_id
from rpc.server.dispatch import Dispatcher
from rpc.server.limits import ServerSettings
from rpc.server.request import read_request
from rpc.server.server import serve
from tests.rpc.answers.as_a_client import answer_of
from tests.support.made_chain import MadeChain, links

Answer = Callable[..., Awaitable[Any]]


class Counted:
    """Methods that count how often they are run."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.runs: dict[str, int] = {}
        self.blocked = asyncio.Event()
        self.blocked.set()
        self._add("T.Constant", Cache.IMMUTABLE, lambda ctx: 7)
        self._add("T.Nothing", Cache.IMMUTABLE, lambda ctx: None)
        self._add("T.Never", Cache.NEVER, lambda ctx: 7)
        self._add("T.Silent", None, lambda ctx: 7)
        self._add("T.Admin", Cache.IMMUTABLE, lambda ctx: 7, perm="admin")
        method = self.registry.method

        @method("T.Head", cache=Cache.HEAD)
        async def head(ctx: Context) -> int:
            self._count("T.Head")
            return (await ctx.head()).tipset.height

        @method("T.Liar", cache=Cache.IMMUTABLE)
        async def liar(ctx: Context) -> int:
            self._count("T.Liar")
            return (await ctx.head()).tipset.height

        @method("T.Chain", cache=Cache.CHAIN)
        async def chain(ctx: Context, epoch: int) -> str:
            self._count("T.Chain")
            tipset = await ctx.index.at_height((await ctx.pin_head()).tipset, epoch)
            ctx.note_chain(epoch)
            return str(tipset.key)

        @method("T.Tipset", cache=Cache.TIPSET)
        async def tipset(ctx: Context, key: TipsetKey) -> int:
            self._count("T.Tipset")
            return (await ctx.tipset(key)).height

        @method("T.Fails", cache=Cache.IMMUTABLE)
        async def fails(ctx: Context) -> int:
            self._count("T.Fails")
            await self.blocked.wait()
            raise NotFound("no such thing")

        @method("T.Slow", cache=Cache.IMMUTABLE)
        async def slow(ctx: Context, number: int) -> int:
            self._count("T.Slow")
            await self.blocked.wait()
            return number

        @method("T.Long", cache=Cache.IMMUTABLE)
        async def long(ctx: Context, size: int, number: int) -> str:
            self._count("T.Long")
            return "x" * size

        @method("T.Absent", cache=Cache.CHAIN)
        async def absent(ctx: Context, number: int) -> None:
            self._count("T.Absent")
            await ctx.pin_head()
            ctx.note_chain(WHOLE_HEAD)
            ctx.add_header("X-Filecoin-Not-Found", str(number))

        @method("T.Node", cache=Cache.HEAD)
        async def node(ctx: Context) -> bool:
            self._count("T.Node")
            return ctx.node is not None or True

    def _count(self, name: str) -> None:
        self.runs[name] = self.runs.get(name, 0) + 1

    def _add(self, name: str, cache: Cache | None, answer: Callable[[Context], Any], perm: str = "read") -> None:
        async def run(ctx: Context) -> Any:
            self._count(name)
            return answer(ctx)

        self.registry.method(name, cache=cache, perm=perm)(run)


class Asker:
    """Asks a dispatcher as a connection does, and says how often the method was run meanwhile."""

    def __init__(self, dispatcher: Dispatcher, counted: Counted) -> None:
        self.dispatcher = dispatcher
        self.counted = counted

    async def __call__(self, method: str, *params: Any, request_id: Any = 1, **more: Any) -> tuple[Any, int]:
        before = sum(self.counted.runs.values())
        body = orjson.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": list(params)} | more)
        return orjson.loads(await self.raw(body)), sum(self.counted.runs.values()) - before

    async def raw(self, body: bytes) -> bytes:
        return await answer_of(self.dispatcher, 1, body)

    async def runs(self, method: str, *params: Any, **more: Any) -> int:
        return (await self(method, *params, **more))[1]


async def made(**settings: Any) -> tuple[Asker, MadeChain, list[Any]]:
    """An asker over a chain of tipsets at the epochs 0 to 5, the head at 4."""
    chain = MadeChain()
    tipsets = [await chain.add(None, 0)]
    for height in range(1, 6):
        tipsets.append(await chain.add(tipsets[-1], height))
    chain.log.publish([], tipsets[:5])
    counted = Counted()
    dispatcher = Dispatcher(chain.services(), counted.registry, settings=ServerSettings(**settings))
    return Asker(dispatcher, counted), chain, tipsets


async def test_an_immutable_answer_is_computed_once() -> None:
    ask, _, _ = await made()
    assert await ask("T.Constant") == ({"id": 1, "jsonrpc": "2.0", "result": 7}, 1)
    assert await ask("T.Constant", request_id=2) == ({"id": 2, "jsonrpc": "2.0", "result": 7}, 0)
    assert (await ask("T.Constant", request_id="a"))[0]["id"] == "a"
    assert ask.counted.runs == {"T.Constant": 1}


@pytest.mark.parametrize("method", ["T.Never", "T.Silent", "T.Fails", "T.Nothing"])
async def test_what_is_not_kept(method: str) -> None:
    """Undeclared, errors, absences that are of no head."""
    ask, _, _ = await made()
    assert [await ask.runs(method) for _ in range(3)] == [1, 1, 1]


async def test_what_a_node_was_asked_for_is_not_kept() -> None:
    ask, chain, _ = await made()
    assert [await ask.runs("T.Node") for _ in range(3)] == [1, 0, 0]
    node: Any = object()
    behind = Asker(Dispatcher(replace(chain.services(), node=node), ask.counted.registry), ask.counted)
    assert [await behind.runs("T.Node") for _ in range(3)] == [1, 1, 1]


async def test_a_kept_answer_has_the_headers_of_its_method() -> None:
    ask, chain, tipsets = await made()
    server = await serve(chain.services(), "127.0.0.1", 0, registry=ask.counted.registry)
    try:
        async with aiohttp.ClientSession() as session:

            async def post(request: Any) -> tuple[str | None, str | None]:
                async with session.post(server.url, json=request) as response:
                    await response.read()
                    return response.headers.get("X-Cache"), response.headers.get("X-Filecoin-Not-Found")

            def request(number: int, method: str = "T.Absent") -> dict[str, Any]:
                return {"jsonrpc": "2.0", "id": number, "method": method, "params": [number]}

            # what a batch's calls add is not told apart, so nothing of it is kept
            assert await post([request(1), request(2), request(1, "T.Chain")]) == (None, "1, 2")
            assert [await post(request(1)) for _ in range(3)] == [("MISS", "1"), ("HIT", "1"), ("HIT", "1")]
            assert await post([request(1), request(1, "T.Chain")]) == (None, "1")
            assert await post(request(1, "T.Chain")) == ("MISS", None)
            chain.log.publish([], tipsets[5:])
            assert await post(request(1)) == ("MISS", "1")
    finally:
        await server.stop(0)


async def test_what_follows_the_head_dies_with_it() -> None:
    ask, chain, tipsets = await made()
    assert [await ask("T.Head"), await ask("T.Head")] == [
        ({"id": 1, "jsonrpc": "2.0", "result": 4}, 1),
        ({"id": 1, "jsonrpc": "2.0", "result": 4}, 0),
    ]
    chain.log.publish([], [tipsets[5]])
    assert await ask("T.Head") == ({"id": 1, "jsonrpc": "2.0", "result": 5}, 1)
    assert await ask.runs("T.Head") == 0


async def test_what_uses_the_head_follows_it_whatever_it_was_declared() -> None:
    ask, chain, tipsets = await made()
    assert [await ask.runs("T.Liar"), await ask.runs("T.Liar")] == [1, 1]
    chain.log.publish([], [tipsets[5]])
    assert (await ask("T.Liar"))[0]["result"] == 5


async def test_an_answer_of_the_chain_stands_until_what_it_depends_on_is_taken_back() -> None:
    ask, chain, tipsets = await made()
    low, high = (await ask("T.Chain", 2))[0], (await ask("T.Chain", 4))[0]
    chain.log.publish([], [tipsets[5]])
    assert (await ask("T.Chain", 2), await ask("T.Chain", 4)) == ((low, 0), (high, 0))
    fork = await chain.add(tipsets[3], 4, salt=9)
    chain.log.publish([tipsets[5], tipsets[4]], [fork])
    assert await ask("T.Chain", 2) == (low, 0)
    other, runs = await ask("T.Chain", 4)
    assert (runs, other["result"]) == (1, str(fork.key))


async def test_a_head_that_is_not_the_child_of_the_last_drops_what_depends_on_the_chain() -> None:
    """A log that contradicts the chain proves nothing."""
    ask, chain, tipsets = await made()
    await ask("T.Chain", 2)
    await ask("T.Constant")
    other = await chain.add(tipsets[1], 3, salt=9)
    chain.log.publish([], [other])
    assert await ask.runs("T.Chain", 2) == 1
    assert await ask.runs("T.Constant") == 0


async def test_an_answer_of_a_tipset_outlives_heads_and_that_of_the_empty_key_does_not() -> None:
    ask, chain, tipsets = await made()
    key = links(tipsets[2].key)
    assert [await ask.runs("T.Tipset", key), await ask.runs("T.Tipset", [])] == [1, 1]
    assert [await ask.runs("T.Tipset", key), await ask.runs("T.Tipset", [])] == [0, 0]
    chain.log.publish([], [tipsets[5]])
    assert [await ask.runs("T.Tipset", key), await ask.runs("T.Tipset", [])] == [0, 1]


@pytest.mark.parametrize("change", ["what the store holds", "the upgrades"])
async def test_everything_is_dropped_when_the_store_promises_something_else(change: str) -> None:
    """At the next head, or within seconds of `watch`: an immutable answer is made anew, or is not held any more."""
    ask, chain, tipsets = await made()
    services = ask.dispatcher.services
    assert [await ask.runs("T.Constant"), await ask.runs("T.Head"), await ask.runs("T.Constant")] == [1, 1, 0]
    if change == "the upgrades":
        services.network.upgrades = (*services.network.upgrades, (1_000_000, 26))
    else:
        batch = Batch()
        save_kept(batch, Kept({"state": 3}))
        await chain.store.write(batch)
        services.index._kept._fresh_until = 0.0
    answers = ask.dispatcher.answers
    assert answers is not None
    watching = asyncio.create_task(answers.watch(services.head_source.current, 0.001))
    try:
        chain.log.publish([], [tipsets[5]])
        async with asyncio.timeout(5):
            while answers.count:
                await asyncio.sleep(0.001)
    finally:
        watching.cancel()
    assert await ask.runs("T.Constant") == 1


async def test_permissions_hold_for_kept_answers() -> None:
    ask, _, _ = await made(default_permissions=frozenset({"read", "admin"}))
    body = b'{"jsonrpc":"2.0","id":1,"method":"T.Admin","params":[]}'
    answer = await ask.raw(body)
    assert await ask.raw(body) == answer
    assert b'"result":7' in answer
    answers = ask.dispatcher.answers
    assert answers is not None
    assert answers.find_raw(1, body, frozenset({"admin"}), "") is not None
    assert answers.find_raw(1, body, frozenset({"read"}), "") is None
    ctx = ask.dispatcher.context(1, frozenset({"read"}))
    assert b"missing permission" in (await ask.dispatcher.http(1, body, ctx))[1]


async def test_a_client_at_its_limit_is_refused_a_kept_answer() -> None:
    ask, _, _ = await made(max_in_flight_per_client=1)
    body = b'{"jsonrpc":"2.0","id":1,"method":"T.Constant","params":[]}'
    await ask.raw(body)
    answers = ask.dispatcher.answers
    assert answers is not None
    ask.dispatcher.admission.working.take("1.2.3.4")
    assert answers.find_raw(1, body, None, "1.2.3.4") is None
    assert answers.find_raw(1, body, None, "1.2.3.5") is not None


async def test_bytes_are_bounded() -> None:
    ask, _, _ = await made(answer_cache_bytes=1 << 20)
    answers = ask.dispatcher.answers
    assert answers is not None
    for number in range(200):
        await ask("T.Long", 20_000, number)
        assert answers.size <= 1 << 20
    assert 20 < answers.count < 60
    assert [await ask.runs("T.Long", 20_000, 199), await ask.runs("T.Long", 20_000, 0)] == [0, 1]
    # one answer that would take much of it
    assert [await ask.runs("T.Long", 70_000, 1), await ask.runs("T.Long", 70_000, 1)] == [1, 1]
    for number in range(5000):
        await ask.raw(b'{"jsonrpc":"2.0",%b"id":1,"method":"T.Constant","params":[]}' % (b" " * (number % 3000)))
        assert answers.size <= 1 << 20


async def test_another_way_of_writing_a_question_is_found_by_its_bytes_too() -> None:
    ask, _, _ = await made()
    answers = ask.dispatcher.answers
    assert answers is not None
    ways = [
        b'{"jsonrpc":"2.0","id":1,"method":"T.Constant","params":[]}',
        b'{"id":1,"jsonrpc":"2.0","method":"T.Constant","params":[]}',
        b'{"method": "T.Constant", "params": [], "id": 1, "jsonrpc": "2.0"}',
    ]
    for body in ways:
        assert answers.find_raw(1, body, None, "") is None
        assert b'"result":7' in await ask.raw(body)
        assert answers.find_raw(1, body, None, "") is not None
    assert ask.counted.runs["T.Constant"] == 1
    assert answers.count == 1


async def test_identical_calls_are_joined() -> None:
    ask, _, _ = await made()
    ask.counted.blocked.clear()
    calls = [asyncio.create_task(ask("T.Slow", 5, request_id=number)) for number in range(20)]
    await asyncio.sleep(0)
    ask.counted.blocked.set()
    answers = await asyncio.gather(*calls)
    assert [one[0]["id"] for one in answers] == list(range(20))
    assert {one[0]["result"] for one in answers} == {5}
    assert ask.counted.runs == {"T.Slow": 1}
    (stats,) = (one for one in ask.dispatcher.metrics.methods() if one.name == "T.Slow")
    assert stats.joined == 19


async def test_who_goes_away_fails_nobody_else() -> None:
    ask, _, _ = await made()
    ask.counted.blocked.clear()
    calls = [asyncio.create_task(ask("T.Slow", 5, request_id=number)) for number in range(5)]
    await asyncio.sleep(0)
    calls[0].cancel()
    calls[3].cancel()
    await asyncio.sleep(0)
    ask.counted.blocked.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in answers] == [asyncio.CancelledError, tuple, tuple, asyncio.CancelledError, tuple]
    assert ask.counted.runs == {"T.Slow": 2}


async def test_an_error_is_each_calls_own() -> None:
    ask, _, _ = await made()
    ask.counted.blocked.clear()
    calls = [asyncio.create_task(ask("T.Fails")) for _ in range(4)]
    await asyncio.sleep(0)
    ask.counted.blocked.set()
    answers = await asyncio.gather(*calls)
    assert all(one[0]["error"]["message"] == "no such thing" for one in answers)
    assert ask.counted.runs == {"T.Fails": 4}


async def test_who_waits_has_a_budget_of_his_own() -> None:
    ask, _, _ = await made()
    body = b'{"jsonrpc":"2.0","id":1,"method":"T.Slow","params":[5]}'
    ask.counted.blocked.clear()
    first = asyncio.create_task(ask.raw(body))
    await asyncio.sleep(0)
    ctx = ask.dispatcher.context(1)
    ctx.time_budget_seconds = 0.01
    assert b'"error"' in (await ask.dispatcher.http(1, body, ctx))[1]
    ask.counted.blocked.set()
    assert b'"result":5' in await first


async def test_a_batch_and_a_single_request_share_answers() -> None:
    ask, _, _ = await made()
    await ask("T.Long", 3, 1)
    body = b'[{"jsonrpc":"2.0","id":1,"method":"T.Long","params":[3, 1]},{"id":2,"method":"T.Long","params":[3,1]}]'
    _, answer = await ask.dispatcher.http(1, body)
    assert [one["result"] for one in orjson.loads(answer)] == ["xxx", "xxx"]
    assert ask.counted.runs == {"T.Long": 1}


@pytest.mark.parametrize(
    ("body", "id_text"),
    [
        (b'{"jsonrpc":"2.0","id":12,"method":"m","params":[]}', b"12"),
        (b'{"method":"m","params":[],"id": "a-1","jsonrpc":"2.0"}', b'"a-1"'),
        (b'{"id":0,"method":"m","params":[{"id":5}]}', b"0"),
        # the one that counts is another
        (b'{"method":"m","params":[{"id":5}],"id":6}', None),
        (b'{"id":1,"method":"m","params":[],"id":2}', None),
        (b'{"id":1,"method":"m","params":[],"x":1,"ID":2}', None),
        (b'{"method":"m","params":["\\"id\\":3,"],"id":4}', b"4"),
        (b'{"id":1,"method":"m","params":[]} trailing', None),
        # not plain
        (b'{"id":1.5,"method":"m","params":[]}', None),
        (b'{"id":-1,"method":"m","params":[]}', None),
        (b'{"id":01,"method":"m","params":[]}', None),
        (b'{"id":1e3,"method":"m","params":[]}', None),
        (b'{"id":1234567890123456,"method":"m","params":[]}', None),
        (b'{"id":"\\u0061","method":"m","params":[]}', None),
        (b'{"id":null,"method":"m","params":[]}', None),
        (b'[{"id":1,"method":"m","params":[]}]', None),
    ],
)
def test_the_id_is_taken_out_only_where_it_is_the_id(body: bytes, id_text: bytes | None) -> None:
    place = find_id(body)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = {"id": 1, "method": "m"}
    request = read_request(value) if isinstance(value, dict) else read_request(value[0])
    found = None
    if place is not None and is_id(body, *place, request):
        found = body[place[0] : place[1]]
    assert found == id_text


async def test_http_says_where_an_answer_came_from() -> None:
    ask, chain, _ = await made()
    server = await serve(
        chain.services(), "127.0.0.1", 0, registry=ask.counted.registry, settings=ServerSettings(server_timing=True)
    )
    try:
        async with aiohttp.ClientSession() as session:

            async def post(method: str, **headers: str) -> aiohttp.ClientResponse:
                body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": []}
                async with session.post(server.url, json=body, headers=headers) as response:
                    await response.read()
                    return response

            found = [await post("T.Head") for _ in range(3)]
            assert [one.headers["X-Cache"] for one in found] == ["MISS", "HIT", "HIT"]
            assert len({one.headers["X-Filecoin-Head"] for one in found}) == 1
            stages = [part.split(";dur=") for part in found[0].headers["Server-Timing"].split(", ")]
            assert [name for name, _ in stages] == ["read", "cache", "decode", "answer", "encode"]
            assert all(float(took) >= 0 for _, took in stages)
            constant = [await post("T.Constant") for _ in range(2)]
            assert [one.headers["X-Cache"] for one in constant] == ["MISS", "HIT"]
            assert constant[1].headers["Server-Timing"].startswith("cache;dur=")
            assert "X-Cache" not in (await post("T.Never")).headers
            assert "X-Cache" not in (await post("T.Fails")).headers
            waited = await post("T.Head", **{"X-Filecoin-Min-Head": "1"})
            assert waited.headers["X-Cache"] == "HIT"
            async with session.get(server.url.removesuffix("/rpc/v1") + "/metrics") as metrics:
                assert 'follower_rpc_answers_total{cache="hit",method="T.Head"}' in await metrics.text()
    finally:
        await server.stop(0)


@pytest.mark.parametrize("size", [100, 32_000, 33_000, 64_000, 70_000, 900_000])
async def test_long_kept_answers_leave_whole_and_free_their_memory(size: int) -> None:
    ask, chain, _ = await made()
    server = await serve(chain.services(), "127.0.0.1", 0, registry=ask.counted.registry)
    memory = server.dispatcher.admission.memory
    try:
        async with aiohttp.ClientSession() as session:
            for request_id in (1, 2, 333, "a-b", 4):
                body = b'{"jsonrpc":"2.0","id":%b,"method":"T.Long","params":[%d,1]}' % (orjson.dumps(request_id), size)
                async with session.post(server.url, data=body) as response:
                    answer = orjson.loads(await response.read())
                assert answer == {"id": request_id, "jsonrpc": "2.0", "result": "x" * size}
                assert response.headers.get("X-Cache") == ("MISS" if request_id == 1 else "HIT")
        assert ask.counted.runs == {"T.Long": 1}
        async with asyncio.timeout(10):
            while memory.used:
                await asyncio.sleep(0.01)
    finally:
        await server.stop(0)


async def test_a_long_kept_answer_needs_memory() -> None:
    ask, _, _ = await made()
    await ask.raw(b'{"jsonrpc":"2.0","id":1,"method":"T.Constant","params":[]}')
    for _ in range(2):
        await ask("T.Long", 70_000, 1)
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "T.Long", "params": [70_000, 1]})
    answers = ask.dispatcher.answers
    assert answers is not None
    found = answers.find_raw(1, body, None, "1.2.3.4")
    assert found is not None
    assert found[4] is not None
    memory = ask.dispatcher.admission.memory
    assert memory.by_client["1.2.3.4"] == found[4].reserved_bytes > 70_000
    memory.take("", memory.cap - memory.used - 10)
    assert answers.find_raw(1, body, None, "1.2.3.4") is None
