"""A worker's end of the executor's socket."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from blockstore.cid import Cid
from blockstore.errors import Missing
from chain.errors import NotHeld
from follower.executor.wire import MISSING, NOT_HELD, REFUSED, BadFrame, frame, pack_run, read_frame, unpack_result
from rpc.errors import ExecutionRefused, Unavailable
from rpc.executor import Place, Reward, Run, Step

#: an execution that was cut off is asked once more: it changes nothing
_TRIES: Final = 2
_NOT_HELD_PREFIX: Final = "not held: "


class RemoteExecutor:
    """An Executor in another process. It connects when it is first asked, and again after the process was lost."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    async def run(
        self, place: Place, steps: Sequence[Step | Reward], *, keep_state: bool = False, objects: bool = False
    ) -> Run:
        """As `rpc.executor.Executor.run`."""
        return unpack_result(await self._ask("run", pack_run(place, list(steps), keep_state, objects)))

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

    async def _ask(self, kind: str, value: Any) -> Any:
        for tried in range(_TRIES):
            try:
                return await self._ask_once(kind, value)
            except (OSError, asyncio.IncompleteReadError) as error:
                if tried == _TRIES - 1:
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
        raise ExecutionRefused(found) if error == REFUSED else Unavailable(found)

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
            lost = ConnectionResetError(f"the executor has gone: {error}")
        finally:
            self._writer = None
            writer.close()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(lost)
            with contextlib.suppress(OSError):
                await writer.wait_closed()
