"""What operators may ask of a bridge."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any, Final

from jsonrpcserver import Result, Success

from blockstore.bridge_rows import BridgeRow
from follower.administration.controls import Controls, LogLevels
from rpc.server.admin import AdminMethod

log = logging.getLogger("follower.admin")

#: what is told of a bridge's row
_TOLD: Final = ("name", "leads", "term", "height", "node_height", "stopped", "backfill_left")


class BridgeControl:
    """The methods of a bridge. `describe` tells what it does."""

    def __init__(self, describe: Callable[[], BridgeRow]) -> None:
        self._describe = describe
        self._drained = asyncio.Event()
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._levels = LogLevels()
        controls = Controls(self._status, self._levels)
        controls.add("drain", self._drain)
        controls.add("resume", self._resume)
        self.methods: dict[str, AdminMethod] = controls.methods

    def close(self) -> None:
        """The process ends: take back what lasts for a while."""
        self._levels.close()

    async def follow_while_wanted(
        self, follow: Callable[[asyncio.Event], Coroutine[Any, Any, None]], stop: asyncio.Event
    ) -> None:
        """`follow(until)` again and again, until `stop`: it ends when an operator drains the bridge.

        Errors: those of `follow`.
        """
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                until = asyncio.Event()
                drained = asyncio.create_task(self._drained.wait())
                following = asyncio.create_task(follow(until))
                try:
                    await asyncio.wait({following, stopped, drained}, return_when=asyncio.FIRST_COMPLETED)
                    until.set()
                    await following
                finally:
                    drained.cancel()
                    following.cancel()
                if stop.is_set() or not drained.done() or drained.cancelled():
                    return
                log.info("drained: nothing is followed until an operator resumes")
                resumed = asyncio.create_task(self._resumed.wait())
                await asyncio.wait({resumed, stopped}, return_when=asyncio.FIRST_COMPLETED)
                resumed.cancel()
        finally:
            stopped.cancel()

    async def _status(self) -> dict[str, object]:
        row = asdict(self._describe())
        told = {
            name: row[name] for name in ("name", "leads", "term", "height", "node_height", "stopped", "backfill_left")
        }
        nodes = [{"name": node["name"], "standing": node["standing"]} for node in row["nodes"]]
        return {"role": "bridge", "draining": self._drained.is_set(), **told, "nodes": nodes}

    async def _drain(self) -> Result:
        """Finish the head change under way, give up the lease, and follow nothing until `resume`."""
        self._resumed.clear()
        self._drained.set()
        return Success({"draining": True})

    async def _resume(self) -> Result:
        self._drained.clear()
        self._resumed.set()
        return Success({"draining": False})
