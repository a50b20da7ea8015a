"""The report behind the status page: one JSON text, made anew once a second while somebody looks.

However many look, and however often, the text is made once a second, and making it takes at most a twentieth of the
process' time. When nobody has asked for a while, nothing is made.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from blockstore.errors import StoreError
from blockstore.store import COVERAGE, SCHEMA_VERSION, Store
from chain.errors import ChainError
from chain.index.kept import load_kept
from follower.logs.recent_errors import RecentErrors
from follower.readiness import FollowedNode
from follower.status_page.figures import MethodRates, budgets, caches
from follower.status_page.fleet import NO_ANSWER, BridgeStanding, FleetView, LastHead, Standing
from follower.status_page.pool import PoolView
from follower.status_page.timeline import HeadTimeline
from rpc.errors import RpcError
from rpc.server.server import Server
from rpc.services import CheckResult, Services

log = logging.getLogger(__name__)

#: seconds between two reports, between two looks at what changes slowly, and without a question until nothing is made
_INTERVAL: Final = 1.0
_SLOW: Final = 5.0
_UNWATCHED: Final = 10.0
#: seconds that one part may take, and that a question waits for the first report
_PART: Final = 2.5
_FIRST: Final = 5.0
#: the share of the time that making reports may take
_SHARE: Final = 0.05
#: a report this old is not given: the loop was suspended
_OLD: Final = 3.0


@dataclass(frozen=True, slots=True)
class PageSettings:
    """What the page tells of the settings. `address`: the process' row in the fleet ("": none).

    `nodes`: host and port of each full node, best first; `state`: the setting of this name; `workers`: processes on
    this port.
    """

    listen: str
    address: str
    nodes: Sequence[str]
    state: str
    workers: int = 1


class StatusReport:
    """Makes the report of one serving process. `await close()` when done."""

    def __init__(
        self,
        server: Server,
        services: Services,
        settings: PageSettings,
        last_head: LastHead,
        followed: FollowedNode | None,
        errors: RecentErrors,
    ) -> None:
        self._server = server
        self._services = services
        self._store: Store = services.store
        self._settings = settings
        self._followed = followed
        self._errors = errors
        self._fleet = FleetView(services.store, server.health, last_head, settings.address, settings.listen)
        self._pool = PoolView(services.store)
        self._last_head = last_head
        self._rates = MethodRates(server.metrics.methods)
        self._timeline = HeadTimeline(services.store)
        self._text = b""
        self._made_at = -_OLD
        self._asked_at = 0.0
        self._making: asyncio.Task[None] | None = None
        self._made = asyncio.Event()
        #: what changes slowly, and until when it stands
        self._slow: dict[str, Any] = {}
        self._slow_until = 0.0

    async def close(self) -> None:
        """Make no report any more."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)
        await self._fleet.close()

    async def text(self) -> bytes:
        """The newest report, as JSON. Errors: TimeoutError (the first one takes too long)."""
        self._asked_at = time.monotonic()
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make_while_asked(), name="status report")
        if self._asked_at - self._made_at > _OLD:
            self._made.clear()
            async with asyncio.timeout(_FIRST):
                await self._made.wait()
        return self._text

    async def _make_while_asked(self) -> None:
        while time.monotonic() - self._asked_at < _UNWATCHED:
            began = time.process_time()
            try:
                self._text = orjson.dumps(await self.report())
            except Exception:
                # the page must not take the process down, and must not show an old report as a new one
                log.exception("the status report cannot be made")
            else:
                self._made_at = time.monotonic()
                self._made.set()
            # what others used of the processor meanwhile counts too: then there is less reason to hurry
            await asyncio.sleep(max(_INTERVAL, (time.process_time() - began) / _SHARE))

    async def report(self) -> dict[str, Any]:
        """All of it. A part that the store does not answer is null, and `troubles` says why."""
        troubles: list[str] = []

        async def part(name: str, work: Awaitable[Any]) -> Any:
            try:
                async with asyncio.timeout(_PART):
                    return await work
            except TimeoutError:
                troubles.append(f"{name}: the store did not answer within {_PART:g} s")
            except (StoreError, ChainError, RpcError) as error:
                troubles.append(f"{name}: {error}")
            return None

        health = self._server.health
        whole, fresh = await asyncio.gather(health.whole(), health.fresh())
        checks: dict[str, CheckResult] = whole | fresh
        own = await self._fleet.own_standing(checks)
        followers, bridges, pool, timeline, _ = await asyncio.gather(
            part("fleet", self._fleet.followers(own, self._services.agent)),
            part("bridges", self._fleet.bridges()),
            part("pool", self._pool.workers()),
            part("head timeline", self._read_timeline(own)),
            part("store", self._read_slow()),
        )
        self._add_lags(followers or [], bridges or [])
        services = self._services
        return {
            "now": time.time(),
            "follower": {
                "agent": services.agent,
                "pid": os.getpid(),
                "listen": self._settings.listen,
                "workers": self._settings.workers,
                "started_at": services.started_at,
                "state": own.state,
                "checks": [{"name": name, "ok": one.ok, "text": one.text} for name, one in checks.items()],
            },
            "network": services.network.name,
            "block_delay": services.network.block_delay,
            "head": await self._head(),
            "fleet": {
                "shared": self._store.url.startswith("cassandra://") or bool(self._settings.address),
                "followers": followers,
                "bridges": None if bridges is None else [one.report() for one in bridges],
            },
            "pool": pool,
            "timeline": timeline,
            "requests": self._rates.look(),
            "caches": caches(services),
            "budgets": budgets(self._server.dispatcher.admission, self._server.dispatcher.refusals.counts),
            "sources": self._sources(bridges or []),
            **self._slow,
            "errors": self._newest_errors(bridges or []),
            "troubles": troubles,
        }

    async def _head(self) -> dict[str, Any] | None:
        try:
            head = await self._last_head()
        except (StoreError, ChainError, RpcError):
            return None
        if head is None:
            return None
        return {
            "seq": head.seq,
            "term": head.entry.term if head.entry is not None else None,
            "height": head.tipset.height,
            "blocks": len(head.tipset.blocks),
            "timestamp": head.timestamp,
            "cids": [str(cid) for cid in head.tipset.key.cids],
        }

    async def _read_timeline(self, own: Standing) -> dict[str, Any]:
        if own.seq is not None:
            await self._timeline.read(own.seq)
        return self._timeline.report()

    async def _read_slow(self) -> None:
        now = time.monotonic()
        if now < self._slow_until:
            return
        rows, figures, kept = await asyncio.gather(
            self._store.scan(COVERAGE, b"", limit=64), self._store.stats(), load_kept(self._store)
        )
        self._slow = {
            "coverage": [{"index": key.decode(errors="replace"), "ranges": _newest(value)} for key, value in rows],
            "store": {
                "url": self._store.url,
                "schema": SCHEMA_VERSION,
                "figures": figures,
                "state": self._settings.state,
                "lazy": self._services.objects.is_lazy,
                "keeps": kept.report() if kept.policy else None,
                "keeps_text": kept.lines(),
            },
        }
        self._slow_until = now + _SLOW

    def _add_lags(self, followers: list[dict[str, Any]], bridges: Sequence[BridgeStanding]) -> None:
        """Each follower's lag, in epochs behind the highest head that is known."""
        known = [one["height"] for one in followers if one["height"] is not None and one["state"] != NO_ANSWER]
        known += [max(one.row.height, one.row.node_height) for one in bridges if not one.is_silent]
        if self._followed is not None and self._followed.height is not None:
            known.append(self._followed.height)
        top = max(known, default=-1)
        for one in followers:
            one["lag"] = None if one["height"] is None or top < 0 else max(0, top - one["height"])

    def _sources(self, bridges: Sequence[BridgeStanding]) -> list[dict[str, Any]]:
        """The full nodes, best first: as the leading bridge ranks them, else as this follower's settings do."""
        for one in bridges:
            if one.row.nodes and not one.is_silent:
                return [asdict(node) | {"by": f"bridge {one.row.name}"} for node in one.row.nodes]
        found: list[dict[str, Any]] = []
        for place, name in enumerate(self._settings.nodes):
            standing = "in the settings"
            if place == 0 and self._followed is not None and self._followed.height is not None:
                standing = f"head {self._followed.height}"
            found.append({"name": name, "standing": standing, "failures": 0, "wrong_objects": 0, "by": "the settings"})
        return found

    def _newest_errors(self, bridges: Sequence[BridgeStanding]) -> list[dict[str, Any]]:
        """Warnings and errors of this process and of the bridges, newest first."""
        found = [asdict(one) | {"from": "this follower"} for one in self._errors.lines()]
        for bridge in bridges:
            found += [asdict(one) | {"count": 1, "from": f"bridge {bridge.row.name}"} for one in bridge.row.errors]
        return sorted(found, key=lambda one: -int(one["at"]))[:30]


def _newest(value: bytes) -> list[list[int]]:
    """The ranges of a coverage row, the newest of many."""
    try:
        return [[int(low), int(high)] for low, high in orjson.loads(value)][-40:]
    except (ValueError, TypeError):
        return []
