"""What many channels hear alike: made once, told to each in order and whole, whoever does not read."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson

from blockstore.memory import MemoryStore
from rpc.admission import Budget
from rpc.context import Context
from rpc.lookup.shared_values import Shown, heard
from rpc.methods import register_all
from rpc.server.push.channels import Channel, Pipe
from rpc.server.server import serve
from rpc.session import SharedReader, SharedText
from tests.support.event_chain import EventChain
from tests.support.paths import ROOT
from tests.support.served import services_over
from tests.support.wire_node import services
from tests.support.wire_server import until

register_all()


class Feed:
    """A source that a test moves. `made`: how often it was begun; `items`: what it tells, by head change."""

    def __init__(self) -> None:
        self.made = 0
        self.items: list[Shown] = []
        self._moved = asyncio.Condition()

    async def tell(self, *items: Shown) -> None:
        async with self._moved:
            self.items += items
            self._moved.notify_all()

    async def make(self, ctx: Context, seen: int) -> AsyncIterator[Shown]:
        self.made += 1
        at = 0
        while True:
            async with self._moved:
                while len(self.items) <= at:
                    await self._moved.wait()
            while at < len(self.items):
                if self.items[at].seq > seen:
                    yield self.items[at]
                at += 1


class Listener:
    """A channel over a source, and what its client got. `reads`: whether the client takes frames."""

    def __init__(self, ctx: Context, feed: Feed, seen: int, *, buffer: int = 4, patience: float = 20.0) -> None:
        self.got: list[Any] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.was_slow = False
        self.budget = Budget("memory", "bytes", 1 << 30, 1 << 30)
        values = heard(ctx, "feed", feed.make, seen)
        pipe = Pipe(
            encode=orjson.dumps,
            send=self._send,
            buffer=buffer,
            slow_reader_timeout_seconds=patience,
            on_slow=self._slow,
            memory=self.budget,
            push=self._push,
        )
        channel = Channel(1, values, pipe)
        self.task = asyncio.create_task(channel.run(asyncio.ensure_future(anext(values))))

    def _push(self, channel: Channel, reader: SharedReader, texts: Sequence[SharedText]) -> None:
        """As an outbox without a queue does."""
        if channel.is_behind or not self.reads.is_set():
            channel.keep(reader, texts)
            return
        for text in texts:
            self._take(_payload(b"".join(channel.parts(text))))

    async def _send(self, frame: bytes) -> None:
        await self.reads.wait()
        self._take(frame)

    def _take(self, frame: bytes) -> None:
        told = orjson.loads(frame)
        if told["method"] == "xrpc.ch.val":
            self.got.append(told["params"][1])

    def _slow(self) -> None:
        self.was_slow = True


def _payload(frame: bytes) -> bytes:
    """What one whole text frame of a server carries."""
    assert frame[0] == 0x81
    width = {126: 2, 127: 8}.get(frame[1], 0)
    size = int.from_bytes(frame[2 : 2 + width]) if width else frame[1]
    assert len(frame) == 2 + width + size
    return frame[2 + width :]


def shown(seq: int, *values: Any, of: object = None) -> Shown:
    return Shown(seq, list(values), of)


async def _begin(count: int = 0) -> tuple[Context, Feed, list[Listener]]:
    ctx, feed = Context(services()), Feed()
    listeners = [Listener(ctx, feed, 10) for _ in range(count)]
    for _ in range(5):
        await asyncio.sleep(0)
    return ctx, feed, listeners


async def _end(*listeners: Listener) -> None:
    for one in listeners:
        one.task.cancel()
    await asyncio.gather(*(one.task for one in listeners), return_exceptions=True)
    assert [one.budget.used for one in listeners] == [0] * len(listeners)


async def test_one_source_tells_all_and_ends_with_the_last_of_them() -> None:
    ctx, feed, listeners = await _begin(200)
    await feed.tell(shown(11, "a"), shown(12, "b", "c"), shown(13))
    await until(lambda: all(len(one.got) == 3 for one in listeners))
    assert {tuple(one.got) for one in listeners} == {("a", "b", "c")}
    assert feed.made == 1
    await _end(*listeners)
    other = Listener(ctx, feed, 12)
    await feed.tell(shown(14, "d"))
    await until(lambda: other.got == ["d"])
    assert feed.made == 2
    await _end(other)


async def test_who_comes_later_misses_nothing_and_hears_nothing_twice() -> None:
    ctx, feed, listeners = await _begin(1)
    await feed.tell(shown(11, "a"), shown(12, "b"))
    await until(lambda: len(listeners[0].got) == 2)
    # one whose request saw an older head than the source has told, one at its place, one ahead of it
    late = [Listener(ctx, feed, seen) for seen in (11, 12, 13)]
    await until(lambda: late[0].got == ["b"])
    assert feed.made == 2, "the one behind has a source of its own"
    await feed.tell(shown(13, "c"), shown(14, "d"))
    await until(lambda: listeners[0].got[-1] == "d" and all(one.got[-1:] == ["d"] for one in late))
    assert [one.got for one in late] == [["b", "c", "d"], ["c", "d"], ["d"]]
    assert feed.made == 2
    await _end(*listeners, *late)


async def test_nobody_is_told_the_same_twice_running() -> None:
    ctx, feed, listeners = await _begin(1)
    await feed.tell(shown(11, "a", of="A"))
    await until(lambda: listeners[0].got == ["a"])
    new = Listener(ctx, feed, 11)
    for _ in range(5):
        await asyncio.sleep(0)
    await feed.tell(shown(12, "a", of="A"), shown(12, "b", of="B"))
    await until(lambda: listeners[0].got[-1] == "b" and new.got[-1:] == ["b"])
    # the new one has not heard it yet
    assert (listeners[0].got, new.got) == (["a", "b"], ["a", "b"])
    await _end(*listeners, new)


async def test_one_that_does_not_read_ends_and_the_others_go_on() -> None:
    _, feed, listeners = await _begin(2)
    slow, fast = listeners
    slow.reads.clear()
    for number in range(30):
        await feed.tell(shown(11 + number, number))
    await until(lambda: len(fast.got) == 30 and slow.was_slow)
    slow.reads.set()
    await asyncio.wait_for(slow.task, 20)
    assert slow.got == list(range(len(slow.got)))
    await _end(*listeners)


async def test_many_values_at_once_wait_for_a_client_that_reads() -> None:
    _, feed, listeners = await _begin(2)
    slow, fast = listeners
    slow.reads.clear()
    await feed.tell(shown(11, *range(500)))
    await until(lambda: len(fast.got) == 500)
    assert not slow.was_slow
    slow.reads.set()
    await feed.tell(shown(12, 500))
    await until(lambda: len(slow.got) == 501)
    assert slow.got == list(range(501))
    await _end(*listeners)


async def test_a_source_tells_the_next_head_once_the_last_one_was_pushed() -> None:
    ctx, feed = Context(services()), Feed()
    waiting: list[int] = []
    most = 0

    def take(texts: Sequence[SharedText]) -> None:
        nonlocal most
        waiting.append(len(texts))
        most = max(most, len(waiting))
        ctx.services.pushes.add(waiting.clear)

    await feed.tell(*(shown(number, number, of=number) for number in (11, 12, 13)))
    values = heard(ctx, "feed", feed.make, 10)
    first = await anext(values)
    assert isinstance(first, SharedReader)
    first.attach(take)
    await until(lambda: not ctx.services.pushes.waiting and first.last == 13)
    await values.aclose()  # type: ignore[attr-defined]
    assert most == 1


async def test_others_have_their_turn_while_a_source_tells_many() -> None:
    ctx, feed, told = Context(services()), Feed(), 0
    channels = [heard(ctx, "feed", feed.make, 10) for _ in range(1000)]

    def take(texts: Sequence[SharedText]) -> None:
        nonlocal told
        told += 1

    for values in channels:
        (await anext(values)).attach(take)
    await feed.tell(shown(11, "a"))
    turns = []
    while told < 1000:
        before = told
        await asyncio.sleep(0)
        turns.append(told - before)
    assert 0 < max(turns) < 200
    for values in channels:
        await values.aclose()  # type: ignore[attr-defined]


async def test_a_reader_that_nobody_attaches_holds_a_bounded_number() -> None:
    reader = SharedReader(5, buffer=3)
    for _ in range(4):
        reader.push([SharedText(b"1")])
    assert reader.is_over
    taken: list[Any] = []
    reader.attach(taken.append)
    assert [[one.text for one in texts] for texts in taken] == [[b"1"]] * 3


async def test_a_crowd_of_idle_clients_and_subscribers_is_served() -> None:
    """The benchmark `benches.gate.crowd` in small: that all are taken and told, not how fast."""
    chain = EventChain(MemoryStore())
    for _ in range(3):
        await chain.grow()
    server = await serve(await services_over(chain.store), "127.0.0.1", 0)
    arguments = ("--port", str(server.port), "--idle", "120", "--subscriptions", "240")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benches.gate.crowd_client", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None

    async def told(line: bytes = b"") -> dict[str, Any]:
        process.stdin.write(line)  # type: ignore[union-attr]
        found: dict[str, Any] = json.loads(await process.stdout.readline())  # type: ignore[union-attr]
        return found

    try:
        async with asyncio.timeout(60):
            assert await told() == {"idle": 120, "subscriptions": 240}
            # of each connection's eight, three hear new heads, three logs (there are none), two head changes: these
            # begin with the head
            counts: dict[str, Any] = {"pushes": 0}
            for number in range(1, 4):
                await chain.grow()
                pushes = 60 + 150 * number
                while counts["pushes"] < pushes:
                    counts = await told(b"count\n")
            assert counts["kinds"] == {"newHeads": [3, 3], "logs": [0, 0], "ChainNotify": [4, 4]}
            assert (counts["pushes"], counts.get("refused"), counts.get("closed")) == (510, None, None)
            process.stdin.write(b"begin\n")
            assert (await told(b"count\n"))["pushes"] == 0
        budgets = server.dispatcher.admission
        assert (budgets.channels.used, budgets.websockets.used) == (240, 60 + 30)
    finally:
        process.stdin.close()
        await process.wait()
        await server.stop(0)
    assert (budgets.channels.used, budgets.connections.used) == (0, 0)
