"""What operators may ask of a follower's process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from cachetools import Cache
from jsonrpcserver import Result, Success

from chain.ipld.tree_nodes import NodeCache
from follower.administration.controls import Controls, LogLevels, invalid, seconds_of
from follower.forwarding.route import ForwardRoute
from follower.object_tier.open import ObjectTier
from rpc.server.admin import AdminMethod
from rpc.server.server import Server

log = logging.getLogger("follower.admin")


class WorkerControl:
    """The methods of one process over its parts. `stop` begins the end of the process."""

    def __init__(
        self,
        server: Server,
        *,
        route: ForwardRoute | None = None,
        tier: ObjectTier | None = None,
        stop: Callable[[], object] = lambda: None,
    ) -> None:
        self._server = server
        self._route = route
        self._tier = None if tier is None or tier.disk is None else tier
        self._stop = stop
        self._stopping: asyncio.TimerHandle | None = None
        self._levels = LogLevels(server.look_at_log_level)
        controls = Controls(self._status, self._levels)
        controls.add("drain", self._drain)
        controls.add("resume", self._resume)
        controls.add("drop_cache", self._drop_cache)
        if route is not None:
            controls.add("cordon", self._cordon)
            controls.add("uncordon", self._uncordon)
        self.methods: dict[str, AdminMethod] = controls.methods

    def close(self) -> None:
        """The process ends: take back what lasts for a while."""
        self._levels.close()
        if self._stopping is not None:
            self._stopping.cancel()

    async def _status(self) -> dict[str, Any]:
        server = self._server
        services = server.dispatcher.services
        told: dict[str, Any] = {
            "role": "follower",
            "listen": f"{server.host}:{server.port}",
            "network": services.network.name,
            "in_flight": server.dispatcher.in_flight,
            "draining": server.health.draining,
            "stops": self._stopping is not None,
            "head": None,
        }
        try:
            async with asyncio.timeout(2.0):
                head = await services.head_source.current()
            told["head"] = {"seq": head.seq, "height": head.tipset.height}
        except Exception:
            log.warning("no head to tell", exc_info=True)
        told["caches"] = {name: size for name, size in self._cache_bytes().items() if size is not None}
        if self._route is not None:
            told["nodes"] = [
                {
                    "name": node.name,
                    "height": node.height,
                    "answers": node.breaker.is_closed,
                    "cordoned": node.is_cordoned,
                }
                for node in self._route.nodes
            ]
        return told

    # --- in and out of service -------------------------------------------------------------------------------

    async def _drain(self, seconds: float | None = None) -> Result:
        """Out of service: not ready. With `seconds` the process stops after them; else it waits for `resume`."""
        lasting = None if seconds is None else seconds_of(seconds)
        if seconds is not None and lasting is None:
            return invalid("seconds must be a number from 0 to 86400")
        self._server.drain()
        if lasting is not None and self._stopping is None:
            # balancers look at the ready check; they get this long to see it
            self._stopping = asyncio.get_running_loop().call_later(lasting, self._stop)
        return Success({"draining": True, "stops": self._stopping is not None})

    async def _resume(self) -> Result:
        if self._stopping is not None:
            self._stopping.cancel()
            self._stopping = None
        return Success({"draining": not self._server.resume(), "stops": False})

    # --- full nodes ------------------------------------------------------------------------------------------

    async def _cordon(self, node: str) -> Result:
        return self._set_cordoned(node, cordoned=True)

    async def _uncordon(self, node: str) -> Result:
        return self._set_cordoned(node, cordoned=False)

    def _set_cordoned(self, name: str, *, cordoned: bool) -> Result:
        assert self._route is not None
        found = [node for node in self._route.nodes if node.name == name]
        if not found:
            return invalid(f"no such node; there are {', '.join(node.name for node in self._route.nodes)}")
        for node in found:
            node.is_cordoned = cordoned
        return Success({"node": name, "cordoned": cordoned})

    # --- caches ----------------------------------------------------------------------------------------------

    def _decoded(self) -> list[NodeCache | Cache[Any, Any]]:
        return [one for one in self._server.dispatcher.services.caches.values() if isinstance(one, NodeCache | Cache)]

    def _cache_bytes(self) -> dict[str, int | None]:
        """By name, the bytes in use; None for a cache that this process does not have."""
        answers = self._server.dispatcher.answers
        return {
            "answers": None if answers is None else answers.size,
            "objects": self._server.dispatcher.services.objects.cached_bytes,
            "decoded": int(sum(getattr(one, "used_bytes", getattr(one, "currsize", 0)) for one in self._decoded())),
            "forwarded": None if self._route is None else self._route.kept_bytes,
            "disk": None if self._tier is None or self._tier.disk is None else self._tier.disk.used_bytes,
        }

    async def _drop_cache(self, name: str) -> Result:
        sizes = {known: size for known, size in self._cache_bytes().items() if size is not None}
        if name != "all" and name not in sizes:
            return invalid(f"the caches are {', '.join(sizes)}, or all")
        dispatcher = self._server.dispatcher
        for one in sizes if name == "all" else [name]:
            if one == "answers" and dispatcher.answers is not None:
                dispatcher.answers.clear()
            elif one == "objects":
                dispatcher.services.objects.drop_cached()
            elif one == "decoded":
                for cache in self._decoded():
                    cache.clear()
            elif one == "forwarded" and self._route is not None:
                self._route.drop_kept()
            elif one == "disk" and self._tier is not None:
                await self._tier.objects.drop_disk()
        return Success({"dropped_bytes": sizes if name == "all" else {name: sizes[name]}})
