"""How shared values leave: a few sessions in a turn of the loop, and what one session has to push in one write."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import orjson

from rpc.admission import Budget
from rpc.pacer import PUSHED_IN_A_TURN, PushQueue
from rpc.server.push.channels import Channel, Pipe, Subscription, text_frame_head
from rpc.server.push.outbox import ROOM_BYTES, Outbox
from rpc.session import SharedReader, SharedText


async def test_others_have_their_turn_between_a_few_pushes() -> None:
    queue, pushed, seen = PushQueue(), 0, [0]

    def push() -> None:
        nonlocal pushed
        pushed += 1

    for _ in range(100):
        queue.add(push)
    while pushed < 100:
        await asyncio.sleep(0)
        seen.append(pushed)
    steps = [after - before for before, after in itertools.pairwise(seen)]
    assert max(steps) <= PUSHED_IN_A_TURN
    # the next ones are taken too
    queue.add(push)
    await queue.reached()
    assert pushed == 101


async def test_reached_waits_for_what_was_added_before_and_for_no_more() -> None:
    queue, order = PushQueue(), []
    queue.add(lambda: order.append("before"))
    waiting = asyncio.create_task(queue.reached())
    await asyncio.sleep(0)
    for _ in range(10 * PUSHED_IN_A_TURN):
        queue.add(lambda: order.append("after"))
    await waiting
    assert order[0] == "before" and len(order) < 10 * PUSHED_IN_A_TURN
    await queue.reached()
    assert len(order) == 1 + 10 * PUSHED_IN_A_TURN
    # one that nobody waits for any more is passed over
    queue.add(lambda: None)
    waiting = asyncio.create_task(queue.reached())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await queue.reached()


class Taker(asyncio.Transport):
    """A transport whose peer takes everything, or nothing. `writes`: what was written at once."""

    def __init__(self, *, takes: bool = True) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.takes = takes
        self._unsent = 0

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))
        self._unsent += 0 if self.takes else len(data)

    def get_write_buffer_size(self) -> int:
        return self._unsent

    def is_closing(self) -> bool:
        return False

    def told(self) -> list[tuple[str, Any]]:
        """(channel or subscription, value) of each frame, in order."""
        found, data = [], b"".join(self.writes)
        while data:
            width = {126: 2, 127: 8}.get(data[1], 0)
            size = int.from_bytes(data[2 : 2 + width]) if width else data[1]
            params = orjson.loads(data[2 + width : 2 + width + size])["params"]
            found.append((params["subscription"], params["result"]) if isinstance(params, dict) else tuple(params))
            data = data[2 + width + size :]
        return found


class Session:
    """Channels of one session, and where they push."""

    def __init__(self, takes: bool = True) -> None:
        self.queue = PushQueue()
        self.transport = Taker(takes=takes)
        self.sent = 0
        self.slow = 0
        self.memory = Budget("memory", "bytes", 1 << 24, 1 << 24)
        self.outbox = Outbox(self.queue, lambda: self.transport, self._count)
        self.pipe = Pipe(orjson.dumps, self._send, 2, 10.0, self._slow, self.memory, push=self.outbox.push)

    def _count(self, size: int) -> None:
        self.sent += size

    def _slow(self) -> None:
        self.slow += 1

    async def _send(self, frame: bytes) -> None:
        raise AssertionError("no frame goes alone")

    def channel(self, name: int | bytes) -> tuple[Channel, SharedReader]:
        values = _none()
        made = Channel(name, values, self.pipe) if isinstance(name, int) else Subscription(name, values, self.pipe)
        return made, SharedReader(0)


async def _none() -> AsyncIterator[Any]:
    return
    yield


def texts(*values: Any) -> list[SharedText]:
    return [SharedText(orjson.dumps(value)) for value in values]


async def test_all_that_a_session_has_to_push_leaves_in_one_write_and_in_order() -> None:
    session = Session()
    names: list[int | bytes] = [1, 22, b"\1" * 32, b"\2" * 32]
    shared = texts("a", {"long": "b" * 300}), texts(["c"])
    for each in shared:
        for name in names:
            session.outbox.push(*session.channel(name), each)
    await session.queue.reached()
    assert len(session.transport.writes) == 1
    shown = [name if isinstance(name, int) else "0x" + name.hex() for name in names]
    wanted = [(name, orjson.loads(text.text)) for each in shared for name in shown for text in each]
    assert session.transport.told() == wanted
    assert session.sent == len(session.transport.writes[0])


async def test_more_than_one_write_takes_leaves_in_several_turns() -> None:
    session = Session()
    first, other = session.channel(1), session.channel(2)
    values = [str(number) * 3000 for number in range(60)]
    session.outbox.push(*first, texts(*values))
    session.outbox.push(*other, texts("last"))
    for _ in range(100):
        await session.queue.reached()
    assert session.transport.told() == [*((1, value) for value in values), (2, "last")]
    assert all(len(data) < 2 * ROOM_BYTES for data in session.transport.writes)


async def test_what_the_client_does_not_take_waits_in_its_channel_as_its_memory() -> None:
    session = Session(takes=False)
    channel, reader = session.channel(1)
    session.outbox.push(channel, reader, texts("x" * ROOM_BYTES))
    await session.queue.reached()
    assert (len(session.transport.writes), session.memory.used) == (1, 0)
    for number in range(2):
        session.outbox.push(channel, reader, texts(number))
        await session.queue.reached()
    assert len(session.transport.writes) == 1
    assert session.memory.used == channel.queued_bytes > 0
    assert not reader.is_over
    # a client that takes frames again gets those that wait first: they are the channel's to send
    session.transport.takes, session.transport._unsent = True, 0
    session.outbox.push(channel, reader, texts("later"))
    await session.queue.reached()
    assert (session.slow, reader.is_over, len(session.transport.writes)) == (1, True, 1)


async def test_a_channel_that_has_ended_pushes_nothing_more() -> None:
    session = Session()
    ended, reader = session.channel(1)
    session.outbox.push(ended, reader, texts("a"))
    session.outbox.push(*session.channel(2), texts("b"))
    ended.cancel()
    await session.queue.reached()
    assert session.transport.told() == [(2, "b")]


def test_the_head_of_a_frame_is_as_long_as_its_size_needs() -> None:
    found = {size: text_frame_head(size) for size in (0, 125, 126, 65535, 65536)}
    assert found == {
        0: b"\x81\0", 125: b"\x81\x7d", 126: b"\x81\x7e\0\x7e", 65535: b"\x81\x7e\xff\xff",
        65536: b"\x81\x7f\0\0\0\0\0\1\0\0",
    }  # fmt: skip
