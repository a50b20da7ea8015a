"""`python -m benches.gate.crowd_client`: one process of many clients of a follower: idle ones, and subscribers.

Prints a line of JSON when all are connected, `{"idle", "subscriptions", "refused", "closed"}`, and one for each line
`count` of its standard input: also `pushes`, their `bytes`, and `kinds`, the fewest and most pushes of a subscription
of each kind, and `spans`: for each burst of pushes the seconds from the first to the last. A line `begin` has them
count from there on. Connections come from 127.0.0.2 and the addresses behind it. Ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import orjson
import uvloop

_ASKED: Final = b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]}'
#: connections that come from one local address
_PER_ADDRESS: Final = 2000
#: connections that are made at the same time
_AT_ONCE: Final = 64
#: what subscribers ask for, in turn
SUBSCRIPTIONS: Final = (
    b'{"jsonrpc":"2.0","id":%d,"method":"eth_subscribe","params":["newHeads"]}',
    b'{"jsonrpc":"2.0","id":%d,"method":"eth_subscribe","params":["logs",{}]}',
    b'{"jsonrpc":"2.0","id":%d,"method":"Filecoin.ChainNotify","params":[]}',
)
KINDS: Final = ("newHeads", "logs", "ChainNotify")
#: what a push begins with, and where the name of its subscription stands
_ETH: Final = b'{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":'
_CHANNEL: Final = b'{"jsonrpc":"2.0","method":"xrpc.ch.val","params":['
#: pushes that come later than so many seconds after others are another burst
_BURST_SECONDS: Final = 0.2
_TEXT: Final = 1
_CLOSE: Final = 8
_PING: Final = 9
_PONG: Final = 10


def frame(payload: bytes, opcode: int = _TEXT) -> bytes:
    """A client's frame: masked, by zeros."""
    size = len(payload)
    head = bytes((0x80 | opcode, 0x80 | size)) if size < 126 else bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2)
    return head + bytes(4) + payload


class Pushes:
    """What all clients have got."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Count from here on."""
        self.number = self.size = 0
        self._began = self._last = -1.0
        self._spans: list[float] = []

    def came(self) -> None:
        """Some have come."""
        now = time.monotonic()
        if now - self._last > _BURST_SECONDS:
            self._end()
            self._began = now
        self._last = now

    def _end(self) -> None:
        if self._began >= 0:
            self._spans.append(self._last - self._began)

    def told(self) -> dict[str, Any]:
        """The counts."""
        self._end()
        return {"pushes": self.number, "bytes": self.size, "spans": self._spans}


class Client(asyncio.Protocol):
    """One connection. `wanted`: subscriptions to make, -1: an idle HTTP connection, 0: an idle WebSocket."""

    def __init__(self, wanted: int, found: Counter[str], pushes: Pushes) -> None:
        self._pushes = pushes
        #: by the id of the request, the subscription's name as its pushes have it, and how many it got
        self.subscribed: dict[int, bytes] = {}
        self.heard: dict[bytes, int] = {}
        self._wanted = wanted
        self._found = found
        self._rest = b""
        self._is_open = False
        self._answers = 0
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        #: done once everything that this client asked for is answered
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        if self._wanted < 0:
            self._transport.write(
                b"POST /rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(_ASKED) + _ASKED
            )
            return
        key = base64.b64encode(os.urandom(16))
        self._transport.write(
            b"GET /rpc/v1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
        )

    def data_received(self, data: bytes) -> None:
        self._rest += data
        if not self._is_open:
            head, end, rest = self._rest.partition(b"\r\n\r\n")
            if not end:
                return
            self._rest, self._is_open = rest, True
            if not head.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200")):
                self._found["refused"] += 1
                self._transport.close()
            if self._wanted < 0:
                self._finish("idle")
                return
            texts = [_ASKED] if not self._wanted else [SUBSCRIPTIONS[at % 3] % at for at in range(self._wanted)]
            for text in texts:
                self._transport.write(frame(text))
        if self._wanted >= 0:
            self._frames()

    def _frames(self) -> None:
        data, at = self._rest, 0
        while len(data) - at >= 2:
            size, start = data[at + 1] & 0x7F, at + 2
            if size >= 126:
                width = 2 if size == 126 else 8
                size, start = int.from_bytes(data[start : start + width]), start + width
            if len(data) < start + size:
                break
            self._frame(data[at] & 0x0F, data[start : start + size])
            at = start + size
        self._rest = data[at:]
        if self._wanted > 0:
            self._pushes.came()

    def _frame(self, opcode: int, payload: bytes) -> None:
        if opcode == _PING:
            self._transport.write(frame(payload, _PONG))
        elif payload.startswith(_ETH):
            self._push(payload[len(_ETH) : len(_ETH) + 68], len(payload))
        elif payload.startswith(_CHANNEL):
            self._push(payload[len(_CHANNEL) : payload.index(b",", len(_CHANNEL))], len(payload))
        elif opcode == _TEXT:
            self._answers += 1
            answer = orjson.loads(payload)
            if "error" in answer:
                self._found["refused"] += 1
            elif self._wanted:
                self._found["subscriptions"] += 1
                subscription = orjson.dumps(answer["result"])
                self.subscribed[answer["id"]] = subscription
                self.heard.setdefault(subscription, 0)
            if self._answers == max(self._wanted, 1):
                self._finish("" if self._wanted else "idle")

    def _push(self, subscription: bytes, size: int) -> None:
        self._pushes.number += 1
        self._pushes.size += size
        # the first one may come before the answer
        self.heard[subscription] = self.heard.get(subscription, 0) + 1

    def _finish(self, counted: str) -> None:
        if counted:
            self._found[counted] += 1
        if not self.ready.done():
            self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._found["closed"] += 1
        if not self.ready.done():
            self.ready.set_result(None)


async def run(port: int, idle: int, subscriptions: int, per_connection: int) -> None:
    """Open everything, then count when standard input says so, until it ends."""
    found: Counter[str] = Counter()
    pushes = Pushes()
    wanted = [-1, 0] * (idle // 2) + [per_connection] * (subscriptions // per_connection)
    loop = asyncio.get_running_loop()
    places = asyncio.Semaphore(_AT_ONCE)
    clients: list[Client] = []

    async def one(number: int, kind: int) -> None:
        async with places:
            source = f"127.0.0.{2 + number // _PER_ADDRESS}"
            _, client = await loop.create_connection(
                lambda: Client(kind, found, pushes), "127.0.0.1", port, local_addr=(source, 0)
            )
            await client.ready
            clients.append(client)

    await asyncio.gather(*(one(number, kind) for number, kind in enumerate(wanted)))
    # what is held now is held until the end
    gc.freeze()
    print(orjson.dumps(found).decode(), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        if line == "count\n":
            told = {**found, **pushes.told(), "kinds": counted(clients)}
            print(orjson.dumps(told).decode(), flush=True)
        elif line == "begin\n":
            for client in clients:
                client.heard = dict.fromkeys(client.heard, 0)
            pushes.clear()


def counted(clients: Sequence[Client]) -> dict[str, list[int]]:
    """By kind: how many pushes the subscription got that got the fewest, and the most."""
    found: dict[str, list[int]] = {}
    for client in clients:
        for at, subscription in client.subscribed.items():
            number = client.heard[subscription]
            fewest, most = found.get(KINDS[at % 3], (number, number))
            found[KINDS[at % 3]] = [min(fewest, number), max(most, number)]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Be many clients."""
    parser = argparse.ArgumentParser(prog="python -m benches.gate.crowd_client", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--idle", type=int, default=0, help="connections that ask once: half of them WebSockets")
    parser.add_argument("--subscriptions", type=int, default=0)
    parser.add_argument("--per-connection", type=int, default=8, help="subscriptions of a connection")
    args = parser.parse_args(arguments)
    # clients work on machines of their own: here they get what the follower and the measuring client leave
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(run(args.port, args.idle, args.subscriptions, args.per_connection))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
