"""`python -m benches.gate.crowd_asker`: asks at a fixed rate, and tells how long each answer took.

Prints one line of JSON: `{"errors", "took"}`, where `took` has for each request the moment at which it was due
(`time.monotonic`, seconds) and the seconds from then to the last byte of its answer. A request is due at a moment
that no other answer delays. The loop waits with `select`: uvloop's clock and `epoll` know whole milliseconds only.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import selectors
import sys
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

_CONNECTIONS: Final = 32
#: seconds that the last answers may take
_LAST_SECONDS: Final = 30.0


class NoResult(Exception):
    """An answer that is none."""


class Asker(asyncio.Protocol):
    """One connection: one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self._rest = b""
        self._answer: asyncio.Future[float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def ask(self, body: bytes) -> asyncio.Future[float]:
        """When the answer has come (`time.monotonic`). Errors: NoResult."""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(b"POST /rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._rest += data
        head, end, body = self._rest.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]):
            return
        self._rest = b""
        assert self._answer is not None
        if b'"error"' in body[:80] or b" 200 " not in head[:16]:
            self._answer.set_exception(NoResult(f"{head.decode()} {body[:300].decode()}"))
        else:
            self._answer.set_result(time.monotonic())

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(NoResult("the connection was closed"))


async def ask_at(rate: float, seconds: float, port: int, bodies: Sequence[bytes]) -> tuple[list[list[float]], int]:
    """([due, seconds] of each answer, errors) of `rate` requests a second."""
    loop = asyncio.get_running_loop()
    askers = [(await loop.create_connection(Asker, "127.0.0.1", port))[1] for _ in range(_CONNECTIONS)]
    free = deque(askers)
    took: list[list[float]] = []
    errors = running = 0
    ended = asyncio.Event()

    def answered(asker: Asker, due: float, answer: asyncio.Future[float]) -> None:
        nonlocal errors, running
        if (error := answer.exception()) is not None:
            errors += 1
            print(error, file=sys.stderr)
        else:
            took.append([due, answer.result() - due])
        running -= 1
        free.append(asker)
        ended.set()

    began = time.monotonic()
    for number in range(int(rate * seconds)):
        due = began + number / rate
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        while not free:
            ended.clear()
            await ended.wait()
        asker = free.popleft()
        running += 1
        # a callback of the future, not a task: it costs the asker's process less
        asker.ask(bodies[number % len(bodies)]).add_done_callback(partial(answered, asker, due))
    async with asyncio.timeout(_LAST_SECONDS):
        while running:
            ended.clear()
            await ended.wait()
    for asker in askers:
        asker.transport.close()
    return took, errors


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, and print."""
    parser = argparse.ArgumentParser(prog="python -m benches.gate.crowd_asker", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--bodies", required=True, help="file of requests, one a line, asked in turn")
    args = parser.parse_args(arguments)
    bodies = Path(args.bodies).read_bytes().splitlines()
    gc.disable()
    try:
        # it measures, as on a machine of its own: waiting for a core would count as the follower's time
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        print("not allowed to have real-time priority: waiting for a core counts too", file=sys.stderr)
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    took, errors = loop.run_until_complete(ask_at(args.rate, args.seconds, args.port, bodies))
    print(json.dumps({"errors": errors, "took": took}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
