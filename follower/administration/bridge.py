"""What operators may ask of a bridge."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import asdict
from typing import Any, Final

from jsonrpcserver import Result, Success

from blockstore.bridge_rows import BridgeRow
from follower.administration.controls import Controls, LogLevels, invalid
from rpc.server.admin import AdminMethod

log = logging.getLogger("follower.admin")

#: what is told of a bridge's row
_TOLD: Final = ("name", "leads", "term", "height", "node_height", "stopped", "backfill_left")


class BridgeControl:
    """The methods of a bridge. `describe` tells what it does.

    `nodes`: the names of its full nodes. Where there are several, `cordon` is told which are to be left alone.
    """

    def __init__(
        self,
        describe: Callable[[], BridgeRow],
        nodes: Sequence[str] = (),
        cordon: Callable[[Collection[str]], None] = lambda names: None,
    ) -> None:
        self._describe = describe
        self._nodes = nodes
        self._tell_cordoned = cordon
        #: names of the nodes that are left alone
        self.cordoned: set[str] = set()
        self._drained = asyncio.Event()
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._levels = LogLevels()
        controls = Controls(self._status, self._levels)
        controls.add("drain", self._drain)
        controls.add("resume", self._resume)
        if len(set(nodes)) > 1:
            controls.add("cordon", self._cordon)
            controls.add("uncordon", self._uncordon)
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

    # --- full nodes ------------------------------------------------------------------------------------------

    async def _cordon(self, node: str) -> Result:
        """Leave a node alone: it is neither followed nor asked for objects. One node is always left."""
        if node in self._nodes and not set(self._nodes) - self.cordoned - {node}:
            return invalid("it is the last node that is not cordoned: drain the bridge to have it follow none")
        return self._set_cordoned(node, self.cordoned | {node}, cordoned=True)

    async def _uncordon(self, node: str) -> Result:
        return self._set_cordoned(node, self.cordoned - {node}, cordoned=False)

    def _set_cordoned(self, node: str, cordoned_nodes: set[str], *, cordoned: bool) -> Result:
        if node not in self._nodes:
            return invalid(f"no such node; there are {', '.join(self._nodes)}")
        self.cordoned = cordoned_nodes
        self._tell_cordoned(self.cordoned)
        return Success({"node": node, "cordoned": cordoned})
