"""The attacks: `python -m tests.attack.cases NAME PORT SECONDS` runs one, and prints what became of it as JSON.

Each is an async function of the port and of the moment at which it ends; it counts what it did in the `Tally` that it
is given. An attack goes on whatever the server answers.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from tests.attack.hostile_code import endless_calls, hostile_calls
from tests.attack.wire import ATTACKER, HOST, Peer, call, post

#: what an attack counts: "answered", "refused" (503, 429, an error of a limit), "ended at a bound" (in the virtual
#: machine), "closed", "wrong"
Tally = Counter[str]
Attack = Callable[[int, float, Tally], Awaitable[None]]
ATTACKS: dict[str, tuple[Attack, str]] = {}

MIB = 1 << 20


def attack(name: str, does: str) -> Callable[[Attack], Attack]:
    """Declare an attack; `does` is its row in the table."""

    def add(function: Attack) -> Attack:
        ATTACKS[name] = function, does
        return function

    return add


def _now() -> float:
    return time.monotonic()


def _count(tally: Tally, status: int, body: bytes) -> None:
    if b"the execution " in body or b"the trace is longer" in body:
        tally["ended at a bound"] += 1
        return
    is_refusal = status in (429, 503) or b"-32005" in body or b"too many" in body or b"too big" in body
    tally["refused" if is_refusal else "answered"] += 1


async def _over_and_over(port: int, end: float, tally: Tally, peers: int, request: Callable[[], bytes]) -> None:
    """`peers` connections that each ask, read the answer, and ask again, connecting anew when they are closed."""

    async def one() -> None:
        while _now() < end:
            try:
                async with asyncio.timeout(max(0.1, end - _now())):
                    peer = await Peer.connect(port, limit=1 << 24)
                    try:
                        while True:
                            _count(tally, *await peer.ask(request()))
                    finally:
                        peer.drop()
            except TimeoutError:
                return
            except (OSError, asyncio.IncompleteReadError):
                tally["closed"] += 1
                await asyncio.sleep(0.05)

    await asyncio.gather(*(one() for _ in range(peers)))


async def _anew(
    port: int, end: float, tally: Tally, session: Callable[[Peer], Awaitable[None]], limit: int = 1 << 16
) -> None:
    """One `session` after another, each on a connection of its own. `limit`: as for `Peer.connect`."""
    while _now() < end:
        try:
            peer = await Peer.connect(port, limit=limit)
            try:
                await session(peer)
            finally:
                peer.drop()
        except OSError:
            tally["closed"] += 1
            await asyncio.sleep(0.05)


async def _stay(port: int, end: float, tally: Tally, peers: int, first: bytes) -> None:
    """`peers` connections that each send `first` and then wait for whatever comes."""

    async def one() -> None:
        try:
            async with asyncio.timeout(max(0.1, end - _now())):
                peer = await Peer.connect(port, limit=1 << 24)
                try:
                    await peer.send(first)
                    if first:
                        _count(tally, *await peer.answer())
                    await peer.reader.read()
                    tally["closed"] += 1
                finally:
                    peer.drop()
        except TimeoutError:
            tally["waiting"] += 1
        except (OSError, asyncio.IncompleteReadError):
            tally["closed"] += 1
        await asyncio.sleep(max(0.0, end - _now()))

    await asyncio.gather(*(one() for _ in range(peers)))


# --- waiting -------------------------------------------------------------------------------------------


@attack("channels", "64 WebSockets with 64 `ChainNotify` each")
async def channels(port: int, end: float, tally: Tally) -> None:
    connector = aiohttp.TCPConnector(local_addr=(ATTACKER, 0), limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one() -> None:
            try:
                async with session.ws_connect(f"http://{HOST}:{port}/rpc/v1", max_msg_size=0) as socket:
                    for number in range(64):
                        await socket.send_bytes(call("Filecoin.ChainNotify", request_id=number))
                    while _now() < end:
                        message = await socket.receive(timeout=max(0.1, end - _now()))
                        if message.type is not aiohttp.WSMsgType.TEXT:
                            tally["closed"] += 1
                            break
                        tally["refused" if '"error"' in message.data else "answered"] += 1
            except aiohttp.WSServerHandshakeError:
                tally["refused"] += 1
            except (aiohttp.ClientError, OSError):
                tally["closed"] += 1
            await asyncio.sleep(max(0.0, end - _now()))

        await asyncio.gather(*(one() for _ in range(64)))


@attack("min-head", "1,200 requests that wait for a far head (`X-Filecoin-Min-Head`)")
async def min_head(port: int, end: float, tally: Tally) -> None:
    far = post(call("Filecoin.ChainHead"), "X-Filecoin-Min-Head: 1000000000")
    await _over_and_over(port, end, tally, 1200, lambda: far)


@attack("wait-msg", "1,200 `StateWaitMsg` of a message whose confidence never comes")
async def wait_msg(port: int, end: float, tally: Tally) -> None:
    message = await _some_message(port)
    await _over_and_over(
        port, end, tally, 1200, lambda: post(call("Filecoin.StateWaitMsg", message, 100_000, -1, True))
    )


# --- what the loop has to parse and to encode ------------------------------------------------------------


@attack("surrogates", "bodies of 99 MB of `\\ud800`")
async def surrogates(port: int, end: float, tally: Tally) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"Filecoin.ChainHead","params":["' + b"\\ud800" * (99 * MIB // 6) + b'"]}'
    whole = post(body)
    await _over_and_over(port, end, tally, 2, lambda: whole)


@attack("odd-json", "bodies of 8 MB: nested arrays, long numbers, many keys, escapes")
async def odd_json(port: int, end: float, tally: Tally) -> None:
    size = 8 * MIB
    inside = [
        b"[" * (size // 2) + b"]" * (size // 2),
        b"9" * size,
        b"{" + b",".join(b'"%d":0' % n for n in range(size // 12)) + b"}",
        b'"' + b"\\u00e9" * (size // 6) + b'"',
        b'"' + b"\\ud83d\\ude00" * (size // 12) + b'"',
        b"[" + b"1e400," * (size // 6) + b"0]",
    ]
    bodies = [post(b'{"jsonrpc":"2.0","id":1,"method":"Filecoin.ChainHead","params":[%s]}' % one) for one in inside]
    at = iter(range(1 << 60))
    await _over_and_over(port, end, tally, 4, lambda: bodies[next(at) % len(bodies)])


# --- memory ----------------------------------------------------------------------------------------------


@attack("unread-batches", "8 batches of the biggest answers, never read")
async def unread_batches(port: int, end: float, tally: Tally) -> None:
    one = call("Filecoin.StateMarketDeals", [])[:-1] + b"}"
    other = call("Filecoin.ChainGetParentReceipts", await _head_block(port))
    big = call("Filecoin.StateReadState", "f04", [])
    batch = post(b"[" + b",".join([one, other, big] * 1000) + b"]")

    async def unread(peer: Peer) -> None:
        await peer.send(batch)
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(max(0.0, end - _now()))
        tally["unread"] += 1

    await asyncio.gather(*(_anew(port, end, tally, unread, limit=1024) for _ in range(8)))


@attack("frames", "16 WebSockets that send 90 MB of a message that they do not end")
async def frames(port: int, end: float, tally: Tally) -> None:
    upgrade = (
        f"GET /rpc/v1 HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()

    async def one() -> None:
        try:
            peer = await Peer.connect(port)
            try:
                await peer.send(upgrade)
                await peer.reader.readuntil(b"\r\n\r\n")
                # a text frame of which more is to come: FIN is not set, the mask is zero
                await peer.send(b"\x01\xff" + (90 * MIB).to_bytes(8, "big") + bytes(4))
                async with asyncio.timeout(max(0.1, end - _now())):
                    for _ in range(90):
                        await peer.send(b" " * (MIB - 1))
                    await peer.reader.read()
                tally["closed"] += 1
            finally:
                peer.drop()
        except TimeoutError:
            tally["waiting"] += 1
        except (OSError, asyncio.IncompleteReadError):
            tally["closed"] += 1
        await asyncio.sleep(max(0.0, end - _now()))

    await asyncio.gather(*(one() for _ in range(16)))


async def _trickle(port: int, end: float, tally: Tally, head: str, at_first: bytes, piece: bytes) -> None:
    async def trickle(peer: Peer) -> None:
        await peer.send(f"POST /rpc/v1 HTTP/1.1\r\nHost: {HOST}\r\n{head}\r\n\r\n".encode() + at_first)
        while _now() < end:
            await peer.send(piece)
            await asyncio.sleep(0.1)

    await asyncio.gather(*(_anew(port, end, tally, trickle) for _ in range(6)))


@attack("trickled-chunks", "6 chunked uploads that trickle after 20 MB")
async def trickled_chunks(port: int, end: float, tally: Tally) -> None:
    first = b"".join(b"100000\r\n" + b" " * MIB + b"\r\n" for _ in range(20))
    await _trickle(port, end, tally, "Transfer-Encoding: chunked", first, b"1\r\n \r\n")


@attack("trickled-bodies", "6 bodies of 99 MB that trickle after 20 MB")
async def trickled_bodies(port: int, end: float, tally: Tally) -> None:
    await _trickle(port, end, tally, f"Content-Length: {99 * MIB}", b" " * (20 * MIB), b" ")


# --- connections -------------------------------------------------------------------------------------------


@attack("sockets", "3,000 connections that say nothing")
async def sockets(port: int, end: float, tally: Tally) -> None:
    await _stay(port, end, tally, 3000, b"")


@attack("half-requests", "1,000 connections that send half a request head")
async def half_requests(port: int, end: float, tally: Tally) -> None:
    async def one() -> None:
        try:
            peer = await Peer.connect(port)
            await peer.send(b"POST /rpc/v1 HTTP/1.1\r\nHost: x\r\nX-Part: ")
            await asyncio.sleep(max(0.0, end - _now()))
            peer.drop()
        except OSError:
            tally["closed"] += 1

    await asyncio.gather(*(one() for _ in range(1000)))


# --- work ----------------------------------------------------------------------------------------------------


async def _result(port: int, method: str, *params: Any) -> Any:
    peer = await Peer.connect(port, limit=1 << 24)
    _, body = await peer.ask(post(call(method, *params)))
    peer.drop()
    return json.loads(body)["result"]


async def _head_block(port: int) -> Any:
    return (await _result(port, "Filecoin.ChainHead"))["Cids"][0]


async def _some_message(port: int) -> Any:
    """The CID of a message that was executed."""
    head = await _result(port, "Filecoin.ChainHead")
    for height in range(head["Height"] - 1, 0, -1):
        tipset = await _result(port, "Filecoin.ChainGetTipSetByHeight", height, head["Cids"])
        messages = await _result(port, "Filecoin.ChainGetMessagesInTipset", tipset["Cids"])
        if messages:
            return messages[0]["Cid"]
    raise LookupError("the chain has no message")


@attack("list-messages", "4 batches of 500 `StateListMessages` over all epochs, again and again")
async def list_messages(port: int, end: float, tally: Tally) -> None:
    one = call("Filecoin.StateListMessages", {"To": "f01"}, [], 0)
    batch = post(b"[" + b",".join([one] * 500) + b"]")
    await _over_and_over(port, end, tally, 4, lambda: batch)


@attack("list-actors", "16 connections that list 60,000 actors, again and again")
async def list_actors(port: int, end: float, tally: Tally) -> None:
    one = post(call("Filecoin.StateListActors", []))
    await _over_and_over(port, end, tally, 16, lambda: one)


@attack("logs", "8 `eth_getLogs` with 10,000 values in each of 4 topics, again and again")
async def logs(port: int, end: float, tally: Tally) -> None:
    values = [f"0x{number:064x}" for number in range(10_000)]
    one = post(call("eth_getLogs", {"fromBlock": "earliest", "toBlock": "latest", "topics": [values] * 4}))
    await _over_and_over(port, end, tally, 8, lambda: one)


@attack("all-logs", "16 `eth_getLogs` over every epoch, again and again")
async def all_logs(port: int, end: float, tally: Tally) -> None:
    one = post(call("eth_getLogs", {"fromBlock": "earliest", "toBlock": "latest"}))
    await _over_and_over(port, end, tally, 16, lambda: one)


@attack("fee-history", "16 `eth_feeHistory` of 1,024 blocks with 100 percentiles, again and again")
async def fee_history(port: int, end: float, tally: Tally) -> None:
    one = post(call("eth_feeHistory", "0x400", "latest", [float(n) for n in range(100)]))
    await _over_and_over(port, end, tally, 16, lambda: one)


@attack("walks", "batches of every method that walks: deals, paths, whole DAGs, sectors")
async def walks(port: int, end: float, tally: Tally) -> None:
    block = await _head_block(port)
    some = [
        call("Filecoin.StateMarketParticipants", []),
        call("Filecoin.StateMarketDeals", []),
        call("Filecoin.ChainStatObj", block, None),
        call("Filecoin.StateCirculatingSupply", []),
        call("Filecoin.StateListMiners", []),
        call("Filecoin.StateChangedActors", block, block),
        call("eth_getBlockReceipts", "latest"),
    ]
    batch = post(b"[" + b",".join(some * 30) + b"]")
    await _over_and_over(port, end, tally, 8, lambda: batch)


@attack("forwarded", "64 `eth_call`, while the node behind does not answer")
async def forwarded(port: int, end: float, tally: Tally) -> None:
    one = post(call("eth_call", {"to": "0x" + "11" * 20, "data": "0x"}, "latest"))
    await _over_and_over(port, end, tally, 64, lambda: one)


# --- what the virtual machine executes ---------------------------------------------------------------------


async def _some_sender(port: int) -> tuple[str, int]:
    """An account that has sent a message, and the head's height."""
    head = await _result(port, "Filecoin.ChainHead")
    message = await _result(port, "Filecoin.ChainGetMessage", await _some_message(port))
    return message["From"], head["Height"]


@attack("hostile-calls", "16 connections with code that loops, recurses, fills memory, emits events, returns 1 MiB")
async def hostile(port: int, end: float, tally: Tally) -> None:
    request, numbers = hostile_calls(*await _some_sender(port)), itertools.count()
    await _over_and_over(port, end, tally, 16, lambda: post(request(next(numbers))))


@attack("endless-calls", "4 `StateCall` of code that ends within any bounded gas, and not with 4.6 × 10^18")
async def endless(port: int, end: float, tally: Tally) -> None:
    request, numbers = endless_calls((await _some_sender(port))[0]), itertools.count()
    await _over_and_over(port, end, tally, 4, lambda: post(request(next(numbers))))


# --- what is no number ---------------------------------------------------------------------------------------


@attack("ids", "ids and headers that are no numbers: `1e999`, 5,000 digits")
async def ids(port: int, end: float, tally: Tally) -> None:
    body = b'{"jsonrpc":"2.0","id":%s,"method":"Filecoin.ChainHead","params":[]}'
    some = [post(body % one) for one in (b"1e999", b"-1e999", b"9" * 5000, b"0." + b"1" * 5000)]
    some += [post(call("Filecoin.ChainHead"), f"X-Filecoin-Min-Head: {one}") for one in ("9" * 5000, "-1", "x")]

    async def one(request: bytes) -> None:
        while _now() < end:
            peer = await Peer.connect(port)
            try:
                async with asyncio.timeout(5):
                    status, answer = await peer.ask(request)
                # an answer in JSON, on a connection that lives: neither an internal error nor silence
                fault = json.loads(answer)
                tally["wrong" if "internal error" in str(fault).lower() or status >= 502 else "answered"] += 1
            except (OSError, ValueError, asyncio.IncompleteReadError):
                tally["wrong"] += 1
            finally:
                peer.drop()
            await asyncio.sleep(0.02)

    await asyncio.gather(*(one(request) for request in some))


async def run(name: str, port: int, seconds: float) -> Tally:
    """Run an attack; what it counted."""
    tally: Tally = Counter()
    await ATTACKS[name][0](port, _now() + seconds, tally)
    return tally


if __name__ == "__main__":
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(asyncio.run(run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))))
