"""When a follower is alive, whole and fresh: the checks behind `/livez`, `/readyz` and the agent check.

*Alive*: the process need not be restarted. *Whole*: every answer that it gives is right. *Fresh*: its head is near the
newest one. A follower that is whole but not fresh is the last that a balancer chooses, never down: it has the right
answer to most questions.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from blockstore.errors import StoreError
from chain.errors import ChainError, NotHeld
from follower.head import StoreHeads
from rpc.client.client import NodeClient
from rpc.errors import RpcError
from rpc.node_errors import NodeError
from rpc.release import agent
from rpc.server.health import Health
from rpc.server.metrics import Metrics
from rpc.services import Check, CheckResult, Checks, Head

if TYPE_CHECKING:
    from follower.shared_store_heads import SharedStoreHeads

log = logging.getLogger(__name__)

_NODE_POLL_SECONDS: Final = 5.0
_WATCH_SECONDS: Final = 2.0
#: a lease counts as not renewed after so many lease times, and after so many seconds: a standby takes over in two
_STALE_LEASES: Final = 6
_STALE_LEASE_SECONDS: Final = 30.0


class FollowedNode:
    """The head of the node that is followed, asked regularly. Freshness is measured against it."""

    def __init__(self, client: NodeClient) -> None:
        self.client = client
        self.height: int | None = None
        self.asked_at = 0.0

    async def watch(self) -> None:
        """Ask until cancelled. When the node does not answer, the last height stands."""
        while True:
            try:
                head = await self.client.call("Filecoin.ChainHead")
                self.height = int(head["Height"])
                self.asked_at = time.monotonic()
            except (NodeError, KeyError, TypeError, ValueError) as error:
                log.debug("the followed node's head: %s", error)
            await asyncio.sleep(_NODE_POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class Freshness:
    """What counts as fresh.

    `lag_epochs`: the most that the head is behind the followed node's. `head_age_epochs`: the most that the head's
    timestamp lies back by the wall clock, in epochs of `block_delay_seconds`; 0 for any age, as an archive or a replay
    wants it. `lease_seconds`: how long a bridge of a shared store leads without a renewal.
    """

    lag_epochs: int
    head_age_epochs: int
    block_delay_seconds: int
    lease_seconds: float = 5.0


async def _version() -> CheckResult:
    """No check: a verbose answer names the software."""
    return CheckResult(True, agent())


def build_checks(
    heads: StoreHeads | SharedStoreHeads,
    followed: FollowedNode | None,
    freshness: Freshness,
    wall: Callable[[], float] = time.time,
) -> Checks:
    """The checks of one serving process. `wall`: seconds since 1970."""

    async def last_head() -> Head | CheckResult:
        try:
            head = await heads.last_head()
        except (NotHeld, RpcError, StoreError) as error:
            return CheckResult(False, str(error))
        return CheckResult(True, "no head has been served yet") if head is None else head

    async def near_node() -> CheckResult:
        if followed is None:
            return CheckResult(True, "no node is followed from here")
        if followed.height is None:
            return CheckResult(True, "the followed node has not answered yet")
        head = await last_head()
        if isinstance(head, CheckResult):
            return head
        behind = followed.height - head.tipset.height
        age = time.monotonic() - followed.asked_at
        text = f"{max(behind, 0)} epochs behind the node (asked {age:.0f} s ago)"
        return CheckResult(behind <= freshness.lag_epochs, text)

    async def young() -> CheckResult:
        head = await last_head()
        if isinstance(head, CheckResult):
            return head
        seconds = head.age_seconds(int(wall()))
        most = freshness.head_age_epochs * freshness.block_delay_seconds
        text = f"the head is {seconds} s old"
        if not most:
            return CheckResult(True, f"{text}; any age is fresh here")
        if seconds <= most:
            return CheckResult(True, text)
        return CheckResult(
            False,
            f"{text}, more than {freshness.head_age_epochs} epochs ({most} s). Set ready_head_age_epochs to 0 for an "
            "archive or a replay",
        )

    fresh: dict[str, Check] = {"node": near_node, "age": young}
    if isinstance(heads, StoreHeads):
        return Checks(live={"version": _version, "store": heads.check}, ready={"head": heads.check}, fresh=fresh)

    async def led() -> CheckResult:
        return heads.lease_check(max(_STALE_LEASES * freshness.lease_seconds, _STALE_LEASE_SECONDS))

    if freshness.head_age_epochs:
        fresh["lease"] = led
    ready: dict[str, Check] = {"head": heads.check, "clock": heads.clock_check}
    return Checks(live={"version": _version, "store": heads.live_check}, ready=ready, fresh=fresh)


class ReadinessWatch:
    """Runs the checks regularly, for the log and for metrics: who asks `/readyz` sees only the present.

    In its first `start_seconds` a follower that is not ready yet is no news: clocks are being measured.
    """

    def __init__(
        self,
        health: Health,
        heads: StoreHeads | SharedStoreHeads,
        wall: Callable[[], float] = time.time,
        *,
        start_seconds: float = 0.0,
    ) -> None:
        self._start_ends = time.monotonic() + start_seconds
        self._health = health
        self._heads = heads
        self._wall = wall
        self._state = "ready"
        self.is_whole = False
        self.is_fresh = False
        self.head_height = -1
        self.head_timestamp: int | None = None

    def register(self, metrics: Metrics) -> None:
        """Declare the metrics."""
        metrics.gauge("follower_head_height", "Epoch of the head that is served.", lambda: self.head_height)
        metrics.gauge(
            "follower_head_age_seconds",
            "Seconds since the timestamp of the head that is served.",
            self._head_age_seconds,
        )
        metrics.gauge(
            "follower_whole", "1 while every answer of this follower is right; else it is down.", lambda: self.is_whole
        )
        metrics.gauge(
            "follower_fresh",
            "1 while the head is near the newest one; else this follower is a balancer's last resort.",
            lambda: self.is_fresh,
        )
        metrics.counter(
            "follower_head_log_resets",
            "How often the shared store's head log went back, as one restored from a backup does.",
            lambda: getattr(self._heads, "resets", 0),
        )

    def _head_age_seconds(self) -> float:
        return 0.0 if self.head_timestamp is None else self._wall() - self.head_timestamp

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_WATCH_SECONDS)

    async def look(self) -> None:
        """Run the checks once; a change is logged."""
        whole, fresh = await asyncio.gather(self._health.whole(), self._health.fresh())
        self.is_whole = all(result.ok for result in whole.values())
        self.is_fresh = all(result.ok for result in fresh.values())
        try:
            head = await self._heads.last_head()
        except (ChainError, RpcError, StoreError) as error:
            log.debug("the head is not known: %s", error)
        else:
            if head is not None:
                self.head_height, self.head_timestamp = head.tipset.height, head.timestamp
        state = "ready" if self.is_whole and self.is_fresh else "behind" if self.is_whole else "down"
        if state == "ready":
            self._start_ends = 0.0
        if state == self._state or time.monotonic() < self._start_ends:
            return
        self._state = state
        reasons = "; ".join(f"{name}: {r.text}" for name, r in (whole | fresh).items() if not r.ok)
        if state == "ready":
            log.warning("ready")
        elif state == "behind":
            log.warning("behind, so balancers use this follower as a last resort: %s", reasons)
        else:
            log.error("not ready: %s", reasons)
