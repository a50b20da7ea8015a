"""The executor process: a Unix socket in front of the virtual machine, for the workers of one machine.

It ends itself when a message hangs or when it has grown too large: nothing else can stop the machine. Whoever started
it starts it again, and workers ask again or forward meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import cbor2

from blockstore.cid import Cid
from blockstore.errors import Missing, StoreError
from chain.errors import ChainError
from follower.executor.local import LocalExecutor
from follower.executor.wire import (
    CANNOT,
    MISSING,
    NOT_HELD,
    REFUSED,
    UNAVAILABLE,
    BadFrame,
    FrameBuffer,
    frame,
    pack_result,
    unpack_call,
    unpack_place,
    unpack_run,
)
from rpc.errors import CannotExecute, ExecutionRefused, RpcError, Unavailable
from rpc.executor import Call, Place, Reward, Step

log = logging.getLogger(__name__)

#: exit codes: a message hung, memory grew over its limit
HUNG: Final = 75
GREW: Final = 76
_WATCH_SECONDS: Final = 0.1
#: a run that gets little CPU time may take so many times longer
_BUSY_FACTOR: Final = 5


_Run = tuple[Place, list[Step | Reward], bool, bool]
#: what a request of the wrong shape leads to
_BAD: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError)


@dataclass(frozen=True, slots=True)
class ExecutorLimits:
    """`lanes`: runs at once; `queue`: runs and calls that may wait; `run_seconds`: the longest a message may take."""

    lanes: int = 2
    queue: int = 256
    run_seconds: float = 20.0
    memory_bytes: int = 1536 << 20


class ExecutorServer:
    """Serves an executor on a Unix socket. `start`, then `close`."""

    def __init__(self, executor: LocalExecutor, limits: ExecutorLimits) -> None:
        self.executor = executor
        self._limits = limits
        self._lanes = asyncio.Semaphore(limits.lanes)
        self._waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._path: Path | None = None

    async def start(self, path: Path) -> None:
        """Listen at `path`, for this user alone. Errors: OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        before = os.umask(0o177)
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(partial(_Connection, self), str(path))
        finally:
            os.umask(before)
        self._path = path
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop listening; what is running is given up."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    def demand_room(self) -> None:
        """Errors: Unavailable (too much waits)."""
        if self._waiting + self.executor.waiting() >= self._limits.queue:
            raise Unavailable("too many executions are waiting: try again")

    def spawn(self, work: Coroutine[Any, Any, None], connection: _Connection) -> None:
        """Do `work` for a connection. A fault of this process ends it: whoever waits at its other end learns that no
        answer comes."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, connection))

    def _done(self, connection: _Connection, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an execution failed", exc_info=error)
            connection.abort()

    async def run(self, asked: _Run) -> list[Any]:
        """What a run gives, for CBOR. Errors: those of `rpc.executor.Executor.run`."""
        self.demand_room()
        self._waiting += 1
        try:
            await self._lanes.acquire()
        finally:
            self._waiting -= 1
        try:
            place, steps, keep_state, objects = asked
            return pack_result(await self.executor.run(place, steps, keep_state=keep_state, objects=objects))
        finally:
            self._lanes.release()

    def _hangs(self, took: float, used: float) -> bool:
        """On a busy machine a message may take long and yet get little CPU time: that is no hang."""
        limit = self._limits.run_seconds
        return took > limit and (used > limit or took > limit * _BUSY_FACTOR)

    async def _watch(self) -> None:
        """End the process when a message hangs or memory grows: a machine cannot be interrupted."""
        page = os.sysconf("SC_PAGE_SIZE")
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if any(self._hangs(took, used) for took, used in self.executor.running()):
                log.error("a message runs for more than %.0f s: the executor ends itself", self._limits.run_seconds)
                os._exit(HUNG)
            resident = _resident_bytes(page)
            if resident > self._limits.memory_bytes:
                log.error("the executor takes %d MiB: it ends itself", resident >> 20)
                os._exit(GREW)


class _Connection(asyncio.Protocol):
    """A worker: requests in, answers in any order."""

    def __init__(self, server: ExecutorServer) -> None:
        self._server = server
        self._executor = server.executor
        self._frames = FrameBuffer()
        self._transport: asyncio.Transport
        self._asker = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses
        self._transport = cast("asyncio.Transport", transport)
        self._asker = self._executor.add_asker(self._transport.write)

    def connection_lost(self, error: Exception | None) -> None:
        self._executor.remove_asker(self._asker)

    def abort(self) -> None:
        """End it at once."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            for number, kind, value in self._frames.feed(data):
                if kind == "call":
                    self._call(number, *unpack_call(value))
                else:
                    self._server.spawn(self._answer(number, _asked(kind, value)), self)
        except (BadFrame, *_BAD) as error:
            log.warning("a worker sent what cannot be read: %s", error)
            self.abort()

    def _call(self, number: int, packed: bytes, call: Call) -> None:
        """Submit a call: at once where its place is prepared."""
        try:
            self._server.demand_room()
        except Unavailable as error:
            self._send([number, UNAVAILABLE, str(error)])
            return
        task = self._executor.place_of(packed, lambda: unpack_place(cbor2.loads(packed)))
        if task.done() and task.exception() is None:
            self._executor.submit(self._asker, number, task.result(), call)
        else:
            self._server.spawn(self._call_when_prepared(number, task, call), self)

    async def _call_when_prepared(self, number: int, task: asyncio.Task[Any], call: Call) -> None:
        await asyncio.wait([task])
        if self._transport.is_closing():
            return
        try:
            self._executor.submit(self._asker, number, task.result(), call)
        except (Missing, ChainError, StoreError, RpcError, TimeoutError) as error:
            self._send(_error(number, error))

    async def _answer(self, number: int, asked: _Run | list[Cid]) -> None:
        try:
            found = await (self._executor.get_many(asked) if isinstance(asked, list) else self._server.run(asked))
            data = frame([number, None, found])
        except (ChainError, StoreError, RpcError, ValueError, TimeoutError) as error:
            data = frame(_error(number, error))
        self._transport.write(data)

    def _send(self, value: list[Any]) -> None:
        self._transport.write(frame(value))


def _error(number: int, error: Exception) -> list[Any]:
    """The answer that says what went wrong."""
    if isinstance(error, Missing):
        return [number, MISSING, [bytes(error.key), str(error)]]
    if isinstance(error, ExecutionRefused):
        return [number, REFUSED, str(error)]
    if isinstance(error, CannotExecute):
        return [number, CANNOT, str(error)]
    return [number, NOT_HELD if isinstance(error, ChainError | StoreError) else UNAVAILABLE, str(error)]


def _asked(kind: str, value: Any) -> _Run | list[Cid]:
    """What a worker asks for. Errors: BadFrame, and whatever values of other types lead to."""
    if kind == "run":
        return unpack_run(value)
    if kind == "get" and all(isinstance(one, bytes) for one in value):
        return [Cid(one) for one in value]
    raise BadFrame(f"no request: {kind!r:.40}")


def _resident_bytes(page: int) -> int:
    """Memory of this process; 0 where /proc is not there."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page
    except OSError:
        return 0
