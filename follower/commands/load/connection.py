"""A load on one server for some seconds: connections that ask, wait for the answer, and ask again.

HTTP is read by httptools, the parser of the server too: a client of aiohttp takes five times the processor time for a
request, and would be the limit long before the server is.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import httptools
import orjson

from follower.commands.load.latencies import Latencies
from follower.commands.load.local_cpu import cpu_seconds
from follower.commands.load.mix import Call
from rpc.client.node_info import NodeInfo

#: kinds of errors that are told apart
_MAX_KINDS: Final = 12
#: seconds before a connection that was closed or refused is made again
_RECONNECT_SECONDS: Final = 0.05
TOO_MANY: Final = "HTTP 429"
NOT_JSON_RPC: Final = "not JSON-RPC"


@dataclass(slots=True)
class Tally:
    """What some seconds of load showed. Times in seconds, `bytes` of bodies; `answers` are those with a result.

    `cpu` is the server's processor time, None where it is not known; `own_cpu` that of this process. `limited` counts
    the answers 429; they are no errors.
    """

    seconds: float = 0.0
    answers: int = 0
    limited: int = 0
    bytes: int = 0
    cpu: float | None = None
    own_cpu: float = 0.0
    latencies: Latencies = field(default_factory=Latencies)
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def errors(self) -> int:
        """Requests without a result, those that were limited apart."""
        return self.kinds.total()

    @property
    def rate(self) -> float:
        """Answers with a result a second."""
        return self.answers / self.seconds if self.seconds else 0.0

    @property
    def cpu_each(self) -> float | None:
        """Seconds of the server's processor time a request that was answered in any way."""
        asked = self.answers + self.limited + self.errors
        return self.cpu / asked if self.cpu is not None and asked else None

    @property
    def own_share(self) -> float:
        """The share of one core that this process took, from 0 to 1."""
        return self.own_cpu / self.seconds if self.seconds else 0.0

    def fail(self, kind: str) -> None:
        """Count an error of a kind."""
        self.kinds[kind if kind in self.kinds or len(self.kinds) < _MAX_KINDS else "others"] += 1

    def merge(self, other: Tally) -> None:
        """Count all of `other` too."""
        self.seconds += other.seconds
        self.answers += other.answers
        self.limited += other.limited
        self.bytes += other.bytes
        self.own_cpu += other.own_cpu
        if other.cpu is not None:
            self.cpu = (self.cpu or 0.0) + other.cpu
        self.latencies.merge(other.latencies)
        for kind, count in other.kinds.items():
            self.kinds[kind if kind in self.kinds or len(self.kinds) < _MAX_KINDS else "others"] += count


def fault(status: int, body: bytes) -> str | None:
    """What kind of error an answer is; None for one with a result."""
    if status == 429:
        return TOO_MANY
    if status == 200 and body[:1] == b"{" and b'"error"' not in body:
        return None
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return NOT_JSON_RPC if status == 200 else f"HTTP {status}"
    error = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(error, dict):
        return f"error {error.get('code')}"
    if status != 200:
        return f"HTTP {status}"
    return None if isinstance(answer, dict) and "result" in answer else NOT_JSON_RPC


def requests_of(info: NodeInfo, calls: Sequence[Call]) -> list[bytes]:
    """The bytes of each call's request. They hold the token: not for logs."""
    host, slash, prefix = info.base.partition("/")
    query = f"?{info.query}" if info.query else ""
    lines = [f"Host: {host}", "Content-Type: application/json", "Accept: application/json"]
    lines += [f"{name}: {value}" for name, value in info.headers().items()]
    found = []
    for call in calls:
        start = "\r\n".join([f"POST {slash}{prefix}{call.path}{query} HTTP/1.1", *lines])
        found.append(f"{start}\r\nContent-Length: {len(call.body)}\r\n\r\n".encode() + call.body)
    return found


class _Run:
    """What the connections of one slice share."""

    def __init__(self, requests: Sequence[bytes], first: int) -> None:
        self.requests = requests
        self.at = first
        self.tally = Tally()
        self.deadline = 0.0
        self.waiting = 0
        self.open: set[_Connection] = set()
        self.idle = asyncio.Event()

    def next(self) -> bytes:
        """The next request; the list begins again at its end."""
        self.at += 1
        return self.requests[self.at % len(self.requests)]


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._body: list[bytes] = []
        self._sent = 0.0
        self._waits = False
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self._transport = transport  # type: ignore[assignment]
        self._run.open.add(self)
        self._ask()

    def _ask(self) -> None:
        now = time.perf_counter()
        if now >= self._run.deadline or self._transport is None:
            self.close()
            return
        self._sent = now
        self._waits = True
        self._run.waiting += 1
        self._transport.write(self._run.next())

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._failed("not HTTP")
            self.close()

    def on_body(self, body: bytes) -> None:
        """A part of an answer's body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """An answer is whole: count it, and ask again."""
        if not self._waits:
            self.close()
            return
        now = time.perf_counter()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._waits = False
        run = self._run
        run.waiting -= 1
        kind = fault(self._parser.get_status_code(), body)
        tally = run.tally
        if kind is None:
            tally.latencies.add(now - self._sent)
            tally.bytes += len(body)
            # one that comes late counts for its latency, not for the rate
            if now <= run.deadline:
                tally.answers += 1
        elif kind == TOO_MANY:
            tally.limited += 1
        else:
            tally.fail(kind)
        if self._parser.should_keep_alive():
            self._ask()
        else:
            self.close()

    def _failed(self, kind: str) -> None:
        if self._waits:
            self._waits = False
            self._run.waiting -= 1
            self._run.tally.fail(kind)

    def connection_lost(self, exc: Exception | None) -> None:
        """A request that waits has failed."""
        self._failed("connection closed")
        self._run.open.discard(self)
        if not self.closed.done():
            self.closed.set_result(None)

    def close(self, kind: str = "connection closed") -> None:
        """Close; a request that waits is an error of `kind`."""
        waited = self._waits
        self._failed(kind)
        if self._transport is not None:
            (self._transport.abort if waited else self._transport.close)()


async def _keep_asking(run: _Run, info: NodeInfo, context: ssl.SSLContext | None) -> None:
    loop = asyncio.get_running_loop()
    host, port = host_and_port(info)
    while time.perf_counter() < run.deadline:
        try:
            async with asyncio.timeout(10):
                _, connection = await loop.create_connection(
                    lambda: _Connection(run), host, port, ssl=context, server_hostname=host if context else None
                )
        except (OSError, TimeoutError) as error:
            run.tally.fail("connection refused" if isinstance(error, ConnectionRefusedError) else "no connection")
            await asyncio.sleep(_RECONNECT_SECONDS)
            continue
        await connection.closed
        if time.perf_counter() < run.deadline:
            await asyncio.sleep(0)


def host_and_port(info: NodeInfo) -> tuple[str, int]:
    """Where a server listens."""
    host, colon, port = info.name.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = info.name, "443" if info.secure else "80"
    return host.strip("[]"), int(port)


async def load(
    info: NodeInfo,
    requests: Sequence[bytes],
    *,
    seconds: float,
    concurrency: int,
    first: int = 0,
    pids: Sequence[int] = (),
    timeout: float = 10.0,
) -> Tally:
    """Ask `requests` in turn from the one at `first`, over `concurrency` connections, for `seconds`.

    Answers that have not come `timeout` seconds after the end are errors. `pids`: the server's processes.
    """
    run = _Run(requests, first - 1)
    context = ssl.create_default_context() if info.secure else None
    began = time.perf_counter()
    run.deadline = began + seconds
    before, own = cpu_seconds(pids), time.process_time()
    tasks = [asyncio.create_task(_keep_asking(run, info, context)) for _ in range(concurrency)]
    try:
        await asyncio.sleep(seconds)
        # before those that come late are waited for: they add time in which few ask
        run.tally.seconds = time.perf_counter() - began
        run.tally.cpu = cpu_seconds(pids) - before if pids else None
        run.tally.own_cpu = time.process_time() - own
        await asyncio.wait(tasks, timeout=timeout)
    finally:
        for connection in tuple(run.open):
            connection.close("no answer in time")
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    return run.tally
