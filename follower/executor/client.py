"""A worker's end of the executor's socket."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from blockstore.cid import Cid
from blockstore.errors import Missing
from chain.errors import NotHeld
from chain.message import decode_message
from follower.executor.wire import (
    CANNOT,
    MISSING,
    NOT_HELD,
    REFUSED,
    BadFrame,
    frame,
    pack_run,
    read_frame,
    unpack_result,
)
from rpc.errors import CannotExecute, ExecutionRefused, Unavailable
from rpc.executor import Place, Reward, Run, Step
from rpc.server.metrics import Metrics

#: an execution that was cut off is asked once more: it changes nothing
_TRIES: Final = 2
#: seconds during which messages without a gas limit are refused after the executor ended in the middle of one that
#: had run for so many seconds: it hung, or its trace filled the memory
_PAUSE_SECONDS: Final = 600.0
_SUSPECT_SECONDS: Final = 2.0
_NOT_HELD_PREFIX: Final = "not held: "


class RemoteExecutor:
    """An Executor in another process. It connects when it is first asked, and again after the process was lost."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._paused_until = 0.0
        self.executions = 0
        self.seconds = 0.0
        self.refused = 0
        self.lost = 0
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    async def run(
        self, place: Place, steps: Sequence[Step | Reward], *, keep_state: bool = False, objects: bool = False
    ) -> Run:
        """As `rpc.executor.Executor.run`."""
        limitless = _is_limitless(steps)
        started = time.monotonic()
        if limitless and started < self._paused_until:
            raise ExecutionRefused(
                "a message without a gas limit has ended the executor: for ten minutes no such message is executed here"
            )
        lost = self.lost
        asked = pack_run(place, list(steps), keep_state, objects)
        try:
            # one that hung would hang again
            found = unpack_result(await self._ask("run", asked, 1 if limitless else _TRIES))
        except Unavailable:
            if limitless and self.lost > lost and time.monotonic() - started > _SUSPECT_SECONDS:
                self._paused_until = time.monotonic() + _PAUSE_SECONDS
            raise
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
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

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

    async def _ask(self, kind: str, value: Any, tries: int = _TRIES) -> Any:
        for tried in range(tries):
            try:
                return await self._ask_once(kind, value)
            except Unavailable:
                self.refused += 1
                raise
            except (OSError, asyncio.IncompleteReadError) as error:
                if tried == tries - 1:
                    self.refused += 1
                    raise Unavailable(f"the executor does not answer: {error or type(error).__name__}") from None
        raise AssertionError

    async def _ask_once(self, kind: str, value: Any) -> Any:
        writer = await self._connected()
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            writer.write(frame([number, kind, value]))
            await writer.drain()
            error, found = await future
        finally:
            self._waiting.pop(number, None)
        if error is None:
            return found
        if error == MISSING:
            raise Missing(Cid(found[0]))
        if error == NOT_HELD:
            raise NotHeld(found.removeprefix(_NOT_HELD_PREFIX))
        raise {REFUSED: ExecutionRefused, CANNOT: CannotExecute}.get(error, Unavailable)(found)

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is None:
                reader, self._writer = await asyncio.open_unix_connection(self._path)
                self._reading = asyncio.create_task(self._read(reader, self._writer))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lost: BaseException = ConnectionResetError("the executor has gone")
        try:
            while True:
                number, error, found = await read_frame(reader)
                future = self._waiting.get(number)
                if future is not None and not future.done():
                    future.set_result((error, found))
        except (OSError, asyncio.IncompleteReadError, BadFrame) as error:
            self.lost += 1
            lost = ConnectionResetError(f"the executor has gone: {error}")
        finally:
            self._writer = None
            writer.close()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(lost)
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _is_limitless(steps: Sequence[Step | Reward]) -> bool:
    """Whether the limit of a message that a client made up is beyond what it may use."""
    made_up = [(step.message, step.gas_cap) for step in steps if isinstance(step, Step) and step.gas_cap is not None]
    return any(decode_message(message).gas_limit > cap for message, cap in made_up)
