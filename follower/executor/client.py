"""A worker's end of the executor's socket."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import cbor2
from cachetools import LRUCache

from follower.executor.wire import (
    BadFrame,
    FrameBuffer,
    frame,
    pack_call,
    pack_place,
    pack_run,
    raise_error,
    unpack_outcome,
    unpack_result,
)
from rpc.errors import Unavailable
from rpc.executor import Call, Outcome, Place, Reward, Run, Step
from rpc.server.metrics import Metrics

#: an execution that was cut off is asked once more: it changes nothing
_TRIES: Final = 2
#: places whose CBOR is kept
_PLACES: Final = 256


class RemoteExecutor:
    """An Executor in another process. It connects when it is first asked, and again after the process was lost."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.executions = 0
        self.seconds = 0.0
        self.refused = 0
        self.lost = 0
        self._numbers = itertools.count(1)
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._packed: LRUCache[Place, bytes] = LRUCache(_PLACES)

    async def run(
        self, place: Place, steps: Sequence[Step | Reward], *, keep_state: bool = False, objects: bool = False
    ) -> Run:
        """As `rpc.executor.Executor.run`."""
        started = time.monotonic()
        try:
            found = unpack_result(await self._ask("run", pack_run(place, list(steps), keep_state, objects)))
        finally:
            self.seconds += time.monotonic() - started
        self.executions += 1
        return found

    async def call(self, place: Place, call: Call) -> Outcome | None:
        """As `rpc.executor.Executor.call`."""
        packed = self._packed.get(place)
        if packed is None:
            packed = self._packed[place] = cbor2.dumps(pack_place(place))
        started = time.monotonic()
        try:
            found = unpack_outcome(await self._ask("call", pack_call(packed, call)))
        finally:
            self.seconds += time.monotonic() - started
        self.executions += 1
        return found

    async def get(self, cid: bytes) -> bytes:
        """As `rpc.executor.Executor.get`."""
        return (await self.get_many([cid]))[0]

    async def get_many(self, cids: Sequence[bytes]) -> list[bytes]:
        """As `rpc.executor.Executor.get_many`."""
        found: list[bytes] = await self._ask("get", [bytes(cid) for cid in cids])
        return found

    async def close(self) -> None:
        """Give up what is waited for."""
        if self._connection is not None:
            self._connection.close()

    def register(self, metrics: Metrics) -> None:
        """Declare the metrics."""
        metrics.counter(
            "follower_executions", "Runs of the virtual machine that gave a result.", lambda: self.executions
        )
        metrics.counter(
            "follower_execution_seconds",
            "Seconds from asking the executor for a run to its answer, the queue included.",
            lambda: self.seconds,
        )
        metrics.counter(
            "follower_executions_unavailable",
            "Requests that the executor did not answer: its queue was full, or it had gone.",
            lambda: self.refused,
        )
        metrics.counter(
            "follower_executor_lost",
            "Connections to the executor that it has closed or that have died.",
            lambda: self.lost,
        )

    async def _ask(self, kind: str, value: Any) -> Any:
        for tried in range(_TRIES):
            try:
                connection = self._connection or await self._connected()
                error, found = await connection.ask(next(self._numbers), kind, value)
                break
            except OSError as gone:
                if tried == _TRIES - 1:
                    self.refused += 1
                    raise Unavailable(f"the executor does not answer: {gone or type(gone).__name__}") from None
        if error is None:
            return found
        try:
            raise_error(error, found)
        except Unavailable:
            self.refused += 1
            raise

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection is None:
                loop = asyncio.get_running_loop()
                make = partial(_Connection, self._gone)
                _, self._connection = await loop.create_unix_connection(make, str(self._path))
            return self._connection

    def _gone(self, connection: _Connection, is_lost: bool) -> None:
        self.lost += is_lost
        if self._connection is connection:
            self._connection = None


class _Connection(asyncio.Protocol):
    """One connection: requests out, answers in any order."""

    def __init__(self, gone: Any) -> None:
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[tuple[Any, Any]]] = {}
        self._frames = FrameBuffer()
        self._transport: asyncio.Transport
        self._is_closing = False

    async def ask(self, number: int, kind: str, value: Any) -> tuple[Any, Any]:
        """(error, value) of the answer. Errors: ConnectionResetError."""
        if self._transport.is_closing():
            raise ConnectionResetError("the executor has gone")
        future = self._waiting[number] = self._loop.create_future()
        try:
            self._transport.write(frame([number, kind, value]))
            answer: tuple[Any, Any] = await future
            return answer
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """End it."""
        self._is_closing = True
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            for number, error, found in self._frames.feed(data):
                future = self._waiting.get(number)
                if future is not None and not future.done():
                    future.set_result((error, found))
        except (BadFrame, ValueError, TypeError):
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._gone(self, not self._is_closing)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionResetError(f"the executor has gone: {error or 'it closed'}"))
