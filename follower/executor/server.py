"""The executor process: a Unix socket in front of the virtual machine, for the workers of one machine.

It ends itself when a message hangs or when it has grown too large: nothing else can stop the machine. Whoever started
it starts it again, and workers ask again or forward meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

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
    frame,
    pack_result,
    read_frame,
    unpack_run,
)
from rpc.errors import CannotExecute, ExecutionRefused, Unavailable
from rpc.executor import Place, Reward, Step

log = logging.getLogger(__name__)

#: exit codes: a message hung, memory grew over its limit
HUNG: Final = 75
GREW: Final = 76
_WATCH_SECONDS: Final = 0.1
#: a run that gets little CPU time may take so many times longer
_BUSY_FACTOR: Final = 5


_Run = tuple[Place, list[Step | Reward], bool, bool]


@dataclass(frozen=True, slots=True)
class ExecutorLimits:
    """`lanes`: runs at once; `queue`: runs that may wait; `run_seconds`: the longest a run may take."""

    lanes: int = 2
    queue: int = 256
    run_seconds: float = 20.0
    memory_bytes: int = 1536 << 20


class ExecutorServer:
    """Serves an executor on a Unix socket. `start`, then `close`."""

    def __init__(self, executor: LocalExecutor, limits: ExecutorLimits) -> None:
        self._executor = executor
        self._limits = limits
        self._lanes = asyncio.Semaphore(limits.lanes)
        self._waiting = 0
        #: of what runs: when it began, by the clock and by this process's CPU time
        self._began: dict[int, tuple[float, float]] = {}
        self._number = 0
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
            self._server = await asyncio.start_unix_server(self._serve, path)
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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers = asyncio.Lock()
        try:
            while True:
                number, kind, value = await read_frame(reader)
                task = asyncio.create_task(self._answer(writer, answers, number, _asked(kind, value)))
                self._tasks.add(task)
                task.add_done_callback(partial(self._answered, writer))
        except (BadFrame, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            log.warning("a worker sent what cannot be read: %s", error)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(
        self, writer: asyncio.StreamWriter, answers: asyncio.Lock, number: int, asked: _Run | list[Cid]
    ) -> None:
        try:
            found = await (self._executor.get_many(asked) if isinstance(asked, list) else self._run(asked))
            data = frame([number, None, found])
        except Missing as error:
            data = frame([number, MISSING, [bytes(error.key), str(error)]])
        except ExecutionRefused as error:
            data = frame([number, REFUSED, str(error)])
        except CannotExecute as error:
            data = frame([number, CANNOT, str(error)])
        except (Unavailable, ValueError, TimeoutError) as error:
            data = frame([number, UNAVAILABLE, str(error)])
        except (ChainError, StoreError) as error:
            data = frame([number, NOT_HELD, str(error)])
        with contextlib.suppress(ConnectionError):
            async with answers:
                writer.write(data)
                await writer.drain()

    def _answered(self, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        """A fault of this process ends the connection: whoever waits at its other end learns that no answer comes."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an execution failed", exc_info=error)
            writer.close()

    async def _run(self, asked: _Run) -> list[Any]:
        if self._waiting >= self._limits.queue:
            raise Unavailable("too many executions are waiting: try again")
        self._waiting += 1
        try:
            await self._lanes.acquire()
        finally:
            self._waiting -= 1
        self._number += 1
        number = self._number
        try:
            self._began[number] = time.monotonic(), time.process_time()
            place, steps, keep_state, objects = asked
            return pack_result(await self._executor.run(place, steps, keep_state=keep_state, objects=objects))
        finally:
            self._began.pop(number, None)
            self._lanes.release()

    def _hangs(self, began: float, used: float) -> bool:
        """On a busy machine a run may take long and yet get little CPU time: that is no hang."""
        took, limit = time.monotonic() - began, self._limits.run_seconds
        return took > limit and (time.process_time() - used > limit or took > limit * _BUSY_FACTOR)

    async def _watch(self) -> None:
        """End the process when a run hangs or memory grows: a machine cannot be interrupted."""
        page = os.sysconf("SC_PAGE_SIZE")
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            oldest = min(self._began.values(), default=None)
            if oldest is not None and self._hangs(*oldest):
                log.error("a message runs for more than %.0f s: the executor ends itself", self._limits.run_seconds)
                os._exit(HUNG)
            resident = _resident_bytes(page)
            if resident > self._limits.memory_bytes:
                log.error("the executor takes %d MiB: it ends itself", resident >> 20)
                os._exit(GREW)


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
