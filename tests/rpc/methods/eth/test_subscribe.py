"""`eth_subscribe` and `SubscribeActorEventsRaw` over a WebSocket, as clients see them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import orjson
import pytest

from blockstore.memory import MemoryStore
from chain.address import Address, from_id
from chain.message import EventEntry
from chain.state.tipset_events import TipsetEvent
from rpc.admission import Budget
from rpc.lookup.events.criteria import make_criteria
from rpc.lookup.filters.filter_shares import FilterLimits
from rpc.methods import register_all
from rpc.server.limits import ServerSettings
from rpc.server.push.channels import Channel, Pipe, Subscription
from rpc.server.server import Server, serve
from rpc.session import Burst
from tests.support.event_chain import ADDRESSES, NATIVE, POOL, TOKEN, Client, EventChain, seen, topic
from tests.support.made_chain import MadeChain, links
from tests.support.served import services_over

LIMITS = FilterLimits(per_connection=3)

register_all()


class Session:
    """A client's WebSocket. What is pushed while an answer is awaited is kept."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.pushed: list[Any] = []
        self.frames: list[str] = []
        self._asked = 0

    async def _receive(self) -> Any:
        message = await asyncio.wait_for(self.ws.receive(), 20)
        assert message.type == aiohttp.WSMsgType.TEXT, message
        self.frames.append(message.data)
        return orjson.loads(message.data)

    async def whole(self, method: str, *params: Any) -> Any:
        self._asked += 1
        await self.ws.send_json({"jsonrpc": "2.0", "id": self._asked, "method": method, "params": list(params)})
        while (frame := await self._receive()).get("id") != self._asked:
            self.pushed.append(frame)
        return frame

    async def ask(self, method: str, *params: Any) -> Any:
        answer = await self.whole(method, *params)
        assert "error" not in answer, answer
        return answer["result"]

    async def error(self, method: str, *params: Any) -> str:
        error = (await self.whole(method, *params))["error"]
        assert error["code"] == 1
        return str(error["message"])

    async def next(self) -> Any:
        """The next frame that is pushed."""
        return self.pushed.pop(0) if self.pushed else await self._receive()

    async def results(self, subscription: str, count: int) -> list[Any]:
        """What the next frames say, all of one subscription."""
        found = [await self.next() for _ in range(count)]
        assert {frame["params"]["subscription"] for frame in found} == {subscription}
        return [frame["params"]["result"] for frame in found]

    async def events(self, channel: int, count: int) -> list[Any]:
        """The next values of a channel."""
        found = [await self.next() for _ in range(count)]
        assert {(frame["method"], frame["params"][0]) for frame in found} == {("xrpc.ch.val", channel)}
        return [frame["params"][1] for frame in found]


@contextlib.asynccontextmanager
async def session_of(server: Server, version: int = 1) -> AsyncIterator[Session]:
    async with (
        aiohttp.ClientSession() as client,
        client.ws_connect(f"http://127.0.0.1:{server.port}/rpc/v{version}") as ws,
    ):
        yield Session(ws)


@pytest.fixture
async def chain() -> EventChain:
    chain = EventChain(MemoryStore())
    await chain.grow()
    await chain.grow((TOKEN, 1, b"first"))
    await chain.grow((TOKEN, 2, b"second"), (POOL, 2, b"third"))
    return chain


@pytest.fixture
async def server(chain: EventChain) -> AsyncIterator[Server]:
    services = await services_over(chain.store)
    services.extra["eth_filter_limits"] = LIMITS
    running = await serve(services, "127.0.0.1", 0)
    yield running
    await running.stop(0)


def data(value: bytes) -> str:
    return "0x" + value.hex()


async def test_logs_are_pushed_and_taken_back(chain: EventChain, server: Server) -> None:
    async with session_of(server) as session:
        made = await session.ask("eth_subscribe", "logs")
        assert made[34:] == "0" * 32 and len(made) == 66
        _, _, second = chain.canonical()
        await chain.grow()
        logs = await session.results(made, 2)
        frame = (
            '{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"%s","result":'
            '{"address":"0x%s","data":"0x%s","topics":["%s"],"removed":false,"logIndex":"0x0",'
            '"transactionIndex":"0x0","transactionHash":"%s","blockHash":"%s","blockNumber":"0x2"}}}\n'
        )
        assert session.frames[1] == frame % (
            made, "aa" * 20, b"second".hex(), data(topic(2)), logs[0]["transactionHash"],
            data(second.key.block_hash),
        )  # fmt: skip
        assert [(log["address"], log["blockHash"], log["logIndex"]) for log in logs] == [
            (data(ADDRESSES[who]), data(second.key.block_hash), "0x0") for who in (TOKEN, POOL)
        ]
        await chain.reorg(1, [(TOKEN, 3, None)], [])
        told = await session.results(made, 5)
        fresh = chain.canonical()[3]
        assert [(log["removed"], log["data"], log["blockHash"]) for log in told] == [
            *((removed, log["data"], log["blockHash"]) for removed in (True, False) for log in logs),
            (False, "0x", data(fresh.key.block_hash)),
        ]


async def test_logs_are_chosen_by_address_and_topic(chain: EventChain, server: Server) -> None:
    async with session_of(server) as session:
        await session.ask("eth_subscribe", "logs", {"address": data(ADDRESSES[POOL]), "topics": []})
        await session.ask("eth_subscribe", "logs", {"topics": [[data(topic(7)), data(topic(8))]], "fromBlock": 3})
        await session.ask("eth_subscribe", "logs", None)
        await chain.grow((POOL, 7, b"p7"), (NATIVE, 8, b"n8"), (POOL, 9, b"p9"))
        await chain.grow()
        found: dict[str, list[str]] = {}
        for _ in range(3 + 2 + 5):
            params = (await session.next())["params"]
            text = bytes.fromhex(params["result"]["data"][2:]).decode()
            found.setdefault(params["subscription"], []).append(text)
        assert sorted(found.values()) == sorted(
            [["third", "p7", "p9"], ["p7", "n8"], ["second", "third", "p7", "n8", "p9"]]
        )


async def test_new_heads_are_the_blocks_below_the_head(chain: EventChain, server: Server) -> None:
    async with session_of(server, 2) as session:
        made = await session.ask("Filecoin.EthSubscribe", "newHeads")
        await chain.grow(nulls=3)
        await chain.grow()
        await chain.reorg(1, [])
        await chain.grow()
        blocks = await session.results(made, 3)
        # a head that is replaced by a sibling has the same parent: that is not told again
        assert [block["hash"] for block in blocks] == [data(tipset.key.block_hash) for tipset in chain.canonical()[2:5]]
        assert blocks[0] == await session.ask("eth_getBlockByHash", blocks[0]["hash"], True)
        assert [len(block["transactions"]) for block in blocks] == [1, 1, 1]
        assert isinstance(blocks[0]["transactions"][0], dict)
        assert await session.ask("eth_unsubscribe", made) is True
        assert await session.ask("eth_unsubscribe", made) is False
        await chain.grow()
        other = await session.ask("eth_subscribe", "newHeads")
        await chain.grow()
        await session.results(other, 1)
        assert session.pushed == []


async def test_a_session_has_so_many_filters_and_subscriptions(chain: EventChain, server: Server) -> None:
    async with session_of(server) as session, session_of(server) as other:
        filters = [await session.ask("eth_newBlockFilter"), await session.ask("eth_newFilter", {})]
        made = await session.ask("eth_subscribe", "logs")
        for method, *params in (("eth_subscribe", "newHeads"), ("eth_newFilter", {}), ("eth_newBlockFilter",)):
            assert await session.error(method, *params) == "too many subscriptions and filters per connection"
        await session.ask("eth_unsubscribe", made)
        made = await session.ask("eth_subscribe", "newHeads")
        assert "too many" in await session.error("eth_subscribe", "newHeads")
        assert await session.ask("eth_uninstallFilter", filters[0]) is True
        await session.ask("eth_subscribe", "newHeads")
        # another session has room, and its subscriptions are its own
        assert await other.ask("eth_unsubscribe", made) is False
        assert await other.ask("eth_getFilterChanges", filters[1]) != []
        await other.ask("eth_subscribe", "newHeads")


async def test_what_is_refused(chain: EventChain, server: Server) -> None:
    async with session_of(server) as session:
        for params, text in (
            ([], "decoding params: expected 1 or 2 params, got 0"),
            (["logs", {}, 1], "decoding params: expected 1 or 2 params, got 3"),
            ([7], "decoding params: json: cannot unmarshal number into Go value of type string"),
            (["logs", []], "cannot unmarshal array into Go value of type ethtypes.EthSubscriptionParams"),
            (["logs", {"address": 1}], "decoding params: "),
            (["logs", {"topics": [None] * 5}], "too many topics in filter: 5, max: 4"),
            (["nope"], "unsupported event type: nope"),
            (["newPendingTransactions"], "not supported"),
        ):
            assert text in await session.error("eth_subscribe", *params)
        # none of them took a place
        for _ in range(LIMITS.per_connection):
            await session.ask("eth_subscribe", "logs")
    client = Client(server.dispatcher)
    assert (await client.error("eth_subscribe", "logs"))["message"] == "connection doesn't support callbacks"
    assert await client.ask("eth_unsubscribe", "0x" + "0" * 64) is False


async def test_a_session_ends_when_a_subscription_has_missed_something() -> None:
    chain = MadeChain()
    chain.log.publish([], [await chain.add(None, 0)])
    # a source whose entries end, as they do for one who reads too slowly
    server = await serve(chain.services(), "127.0.0.1", 0)
    try:
        async with session_of(server) as session:
            await session.ask("eth_subscribe", "newHeads")
            message = await asyncio.wait_for(session.ws.receive(), 10)
            assert message.type == aiohttp.WSMsgType.CLOSE
            assert message.data == aiohttp.WSCloseCode.TRY_AGAIN_LATER
            assert message.extra is not None
            assert "subscribe again" in message.extra
    finally:
        await server.stop(0)


class Peer:
    """A socket that takes so many frames and then no more."""

    def __init__(self, takes: int) -> None:
        self.taken: list[bytes] = []
        self._takes = takes

    async def send(self, frame: bytes) -> None:
        if len(self.taken) == self._takes:
            await asyncio.Event().wait()
        self.taken.append(frame)


MEMORY = Budget("memory", "bytes", 1 << 20, 1 << 20)


def pipe(send: Callable[[bytes], Awaitable[None]], seconds: float, on_slow: Callable[[], Any]) -> Pipe:
    return Pipe(orjson.dumps, send, 2, seconds, on_slow, MEMORY, "a client")


async def _values(*values: Any) -> AsyncIterator[Any]:
    for value in values:
        yield value
    await asyncio.Event().wait()


async def test_a_burst_waits_for_the_reader_but_not_for_ever() -> None:
    slow: list[int] = []
    peer = Peer(takes=5)
    values = _values(Burst(range(20)))
    subscription = Subscription(b"\1" * 32, values, pipe(peer.send, 0.02, lambda: slow.append(1)))
    async with asyncio.timeout(10):
        await subscription.run(asyncio.ensure_future(anext(values)))
    assert slow == [1]
    assert not subscription.cancelled
    assert MEMORY.used == 0
    assert [orjson.loads(frame)["params"]["result"] for frame in peer.taken] == [0, 1, 2, 3, 4]


async def test_a_burst_larger_than_the_buffer_reaches_who_reads() -> None:
    peer = Peer(takes=1000)
    values = _values(Burst(range(500)), Burst([]), Burst([500, 501]))
    channel = Channel(3, values, pipe(peer.send, 10.0, lambda: pytest.fail("slow")))
    running = asyncio.create_task(channel.run(asyncio.ensure_future(anext(values))))
    async with asyncio.timeout(10):
        while len(peer.taken) < 502:
            await asyncio.sleep(0)
    channel.cancel()
    await running
    assert [orjson.loads(frame)["params"] for frame in peer.taken] == [*([3, n] for n in range(502)), [3]]


# --- events of actors ----------------------------------------------------------------------------------


def brief(events: list[Any]) -> list[tuple[int, bool]]:
    return [(event["height"], event["reverted"]) for event in events]


async def test_actor_events_begin_with_what_there_is(chain: EventChain, server: Server) -> None:
    async with session_of(server) as session:
        channel = await session.ask("Filecoin.SubscribeActorEventsRaw", {"fromHeight": 0})
        _, first, second = chain.canonical()
        [event] = await session.events(channel, 1)
        assert event["tipsetKey"] == links(first.key)
        assert event["emitter"].startswith("t410f")
        assert [entry["Key"] for entry in event["entries"]] == ["t1", "d"]
        await chain.grow((NATIVE, None, None))
        assert brief(await session.events(channel, 2)) == [(second.height, False)] * 2
        await chain.grow()
        [bare] = await session.events(channel, 1)
        assert brief([bare]) == [(3, False)]
        assert bare["entries"] is None
        await chain.reorg(2, [], [])
        assert brief(await session.events(channel, 5)) == [(3, True), (2, True), (2, True), (2, False), (2, False)]


async def test_actor_events_of_a_range_end_with_it(chain: EventChain, server: Server) -> None:
    async with session_of(server) as session:
        channel = await session.ask("Filecoin.SubscribeActorEventsRaw", {"fromHeight": 1, "toHeight": 2})
        assert brief(await session.events(channel, 1)) == [(1, False)]
        # the head has come to the last epoch: as at the node, nothing more is waited for
        assert (await session.next())["method"] == "xrpc.ch.close"
        channel = await session.ask("Filecoin.SubscribeActorEventsRaw", {"fromHeight": 1, "toHeight": 3})
        await chain.grow((TOKEN, 1, b"x"))
        await chain.grow((TOKEN, 1, b"y"))
        await chain.grow()
        assert brief(await session.events(channel, 4)) == [(1, False), (2, False), (2, False), (3, False)]
        assert await session.next() == {"jsonrpc": "2.0", "method": "xrpc.ch.close", "params": [channel]}


async def test_actor_events_as_they_come_by_emitter_field_and_tipset(chain: EventChain, server: Server) -> None:
    async with session_of(server) as session:
        _, _, second = chain.canonical()
        natives = await session.ask("Filecoin.SubscribeActorEventsRaw", {"addresses": [f"t0{NATIVE}"]})
        value = {"Codec": 0x55, "Value": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAk="}
        nines = await session.ask("Filecoin.SubscribeActorEventsRaw", {"fields": {"t1": [value]}})
        one = await session.ask("Filecoin.SubscribeActorEventsRaw", {"tipsetKey": links(second.key)})
        await chain.grow((NATIVE, 9, None), (POOL, 9, b"p"))
        await chain.grow()
        found: dict[int, list[tuple[int, str]]] = {}
        for _ in range(1 + 2 + 2):
            channel, event = (await session.next())["params"]
            found.setdefault(channel, []).append((event["height"], event["emitter"][:5]))
        assert found == {
            natives: [(3, f"t0{NATIVE}")],
            nines: [(3, f"t0{NATIVE}"), (3, "t410f")],
            one: [(2, "t410f")] * 2,
        }


async def test_what_actor_events_refuse(chain: EventChain, server: Server) -> None:
    async with session_of(server) as session:
        key = links(chain.canonical()[1].key)
        for wanted, text in (
            ({"fromHeight": -1}, "range 'from' must be greater than or equal to 0"),
            ({"fromHeight": 2, "toHeight": 1}, "must be after 'from' height"),
            ({"toHeight": 9999}, "'to' height is too far in the future (maximum: 2880)"),
            ({"tipsetKey": key, "fromHeight": 1}, "cannot specify both TipSetKey and FromHeight/ToHeight"),
            ({"addresses": ["t2" + "a" * 39]}, ""),
            ({"fromHeight": 1, "toHeight": 99, "addresses": ["t077"]}, "range end is in the future, highest epoch: 2"),
        ):
            answer = await session.whole("Filecoin.SubscribeActorEventsRaw", wanted)
            assert text in answer["error"]["message"]


async def test_logs_that_were_pushed_are_those_that_are_asked_for(chain: EventChain, server: Server) -> None:
    async with session_of(server) as session:
        made = await session.ask("eth_subscribe", "logs")
        for number in range(5):
            await chain.grow(*[(TOKEN, number, b"x")] * number)
        pushed = await session.results(made, 2 + 1 + 2 + 3)
        asked = await session.ask("eth_getLogs", {"fromBlock": "0x2", "toBlock": "latest"})
        assert [dict(log, logIndex="0x0") for log in asked] == pushed
        assert [index for _, index, _ in seen(asked)] == [0, 1, 0, 0, 1, 0, 1, 2]


async def test_a_session_that_does_not_read_is_ended(chain: EventChain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpc.server.websocket._CLOSE_TIMEOUT_SECONDS", 0.05)
    settings = ServerSettings(ws_channel_buffer=1, ws_slow_reader_seconds=0.05)
    server = await serve(await services_over(chain.store), "127.0.0.1", 0, settings=settings)
    try:
        async with session_of(server) as session, session_of(server) as other:
            await session.ask("eth_subscribe", "logs")
            made = await other.ask("eth_subscribe", "newHeads")
            # far more than sockets take that nobody reads from
            await chain.grow(*[(TOKEN, 1, bytes(500_000))] * 40)
            await chain.grow()
            async with asyncio.timeout(30):
                while not server.dispatcher.slow_channels:
                    await asyncio.sleep(0.01)
                while (message := await session.ws.receive()).type == aiohttp.WSMsgType.TEXT:
                    pass
            assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.ERROR)
            # whoever reads goes on
            await other.results(made, 2)
    finally:
        await server.stop(0)


async def test_what_is_there_and_what_comes_name_an_actor_in_different_ways(chain: EventChain, server: Server) -> None:
    by_id = {"fromHeight": 0, "addresses": [f"t0{TOKEN}", f"t0{NATIVE}"]}
    f410 = Address(b"\x04\x0a" + ADDRESSES[POOL]).text("t")
    async with session_of(server) as session:
        ids = await session.ask("Filecoin.SubscribeActorEventsRaw", by_id)
        # an index knows the token's ID; as they come its events go by its delegated address alone
        assert brief(await session.events(ids, 1)) == [(1, False)]
        either = {"fromHeight": 0, "addresses": [f"t0{NATIVE}", f410]}
        both = await session.ask("Filecoin.SubscribeActorEventsRaw", either)
        empty = await session.ask("Filecoin.SubscribeActorEventsRaw", {"fromHeight": 0, "fields": {"t1": []}})
        # a key of which no value is wanted counts for what comes alone
        assert brief(await session.events(empty, 1)) == [(1, False)]
        stranger = {"addresses": ["t1d2xrzcslx7xlbbylc5c3d5lvandqw4iwl6epxba"]}
        other = await session.ask("Filecoin.SubscribeActorEventsRaw", stranger)
        await chain.grow((TOKEN, 3, b"x"), (NATIVE, 3, b"y"), (POOL, 3, b"z"))
        await chain.grow()
        told: dict[int, list[str]] = {ids: [], both: [], empty: [], other: []}
        for _ in range(4):
            channel, event = (await session.next())["params"]
            told[channel].append(event["emitter"][:5])
        assert told == {ids: [f"t0{NATIVE}"], both: ["t410f", f"t0{NATIVE}", "t410f"], empty: [], other: []}


async def test_actor_events_that_are_there(chain: EventChain, server: Server) -> None:
    async with session_of(server) as session:
        _, first, head = chain.canonical()

        async def events(wanted: Any) -> Any:
            return await session.ask("Filecoin.GetActorEventsRaw", wanted)

        # nobody has executed the head yet
        assert await events({"tipsetKey": links(head.key)}) is None
        assert brief(await events({"tipsetKey": links(first.key)})) == [(1, False)]
        # a negative end other than -1 is none either
        assert brief(await events({"fromHeight": 0, "toHeight": -5})) == [(1, False)]
        other = "t1d2xrzcslx7xlbbylc5c3d5lvandqw4iwl6epxba"
        refused = "can only query events by ID or Delegated addresses; but request has address"
        for wanted in ({"fromHeight": 0, "addresses": [other]}, {"tipsetKey": links(first.key), "addresses": [other]}):
            for name in ("Filecoin.GetActorEventsRaw", "Filecoin.SubscribeActorEventsRaw"):
                error = await session.error(name, wanted)
                assert error == f"get events for filter: failed to make prefill filter query: {refused}: {other}"
        # where no index is asked nothing is said of it, and a range that is none comes first
        assert await events({"addresses": [other]}) is None
        error = await session.error("Filecoin.GetActorEventsRaw", {"fromHeight": -1, "addresses": [other]})
        assert error == "range 'from' must be greater than or equal to 0"
        unknown = [{"/": "bafy2bzacea3wsdh6y3a36tb3skempjoxqpuyompjbmfeyf34fi3uy6uue42v4"}]
        for name in ("Filecoin.GetActorEventsRaw", "Filecoin.SubscribeActorEventsRaw"):
            error = await session.error(name, {"tipsetKey": unknown})
            assert "get events for filter: failed to get tipset by cid: cannot find tipset with cid bafy2bzace" in error
            assert unknown[0]["/"] not in error, "it is the key's CID, not the block's"


def test_an_index_tells_an_entry_once_for_each_way_to_find_the_event() -> None:
    entries = tuple(EventEntry(flags, key, 0x51, value) for flags, key, value in (
        (3, "$type", b"a"), (3, "piece-cid", b"p"), (3, "piece-cid", b"q"), (0, "piece-cid", b"p"), (3, "sector", b"1"),
    ))  # fmt: skip
    event = TipsetEvent(0, 0, TOKEN, from_id(TOKEN), entries)

    def times(**keys: set[bytes]) -> int:
        wanted = {key.replace("_", "-"): frozenset((0x51, one) for one in values) for key, values in keys.items()}
        return make_criteria((), wanted).count_matches(event)

    assert times() == 1
    assert times(piece_cid={b"p"}) == 1
    assert times(piece_cid={b"p", b"q"}) == 2
    assert times(piece_cid={b"p", b"q", b"r"}, sector={b"1"}) == 2
    assert times(piece_cid={b"r"}) == 0
