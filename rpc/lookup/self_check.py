"""The self-check: what is executed here is compared with what the chain says of it.

The header of a tipset's child names the state and the receipts after the tipset. When they differ from what was
executed, the virtual machine of this process is wrong, or the node that the bridge follows. Then nothing is executed
here until an operator has looked, and what was kept of executions is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from blockstore.cid import Cid
from blockstore.store import POST
from chain.ipld.dag_cbor import decode
from chain.tipset import Tipset, TipsetKey
from rpc.context import Context
from rpc.errors import Unavailable
from rpc.executor import Call, Executor, Outcome, Place, Reward, Run, Step
from rpc.lookup.tipset_execution import Executed, execute_tipset
from rpc.services import Services

log = logging.getLogger("follower.execution")

_EXECUTED: Final = "executed_tipsets"
#: the caches, by their names in `Services.caches`, that may hold what follows from the executed head
_CACHES: Final = (
    _EXECUTED, "eth_events", "eth_executed", "event_search", "executed_answers", "executed_traces", "lotus_json",
    "places_of_calls",
)  # fmt: skip
#: tipsets without a child whose roots are kept
_KEPT: Final = 64

#: of the state and of the receipts after a tipset
Roots = tuple[Cid, Cid]


@dataclass(frozen=True, slots=True)
class Difference:
    """A tipset that gave other roots (of state and receipts) here than its child's header has."""

    epoch: int
    tipset: Cid
    executed: Roots
    chain: Roots
    #: seconds since 1970
    found_at: int

    def __str__(self) -> str:
        return (
            f"the tipset {self.tipset} at epoch {self.epoch} gave state {self.executed[0]} and receipts"
            f" {self.executed[1]} here, the chain has {self.chain[0]} and {self.chain[1]}"
        )


class ExecutionStopped(Unavailable):
    """Nothing is executed here until an operator has looked."""

    def __init__(self, epoch: int) -> None:
        super().__init__(
            f"nothing is executed by this follower: its result for epoch {epoch} differs from the chain, and an"
            " operator has to look (follower resume)"
        )


class CheckedExecutor:
    """An Executor that refuses to run anything once a difference was found, until `resume`."""

    def __init__(self, executor: Executor, services: Services) -> None:
        self._executor = executor
        self._services = services
        #: why nothing is executed
        self.stopped: Difference | None = None
        self.differences = 0

    async def run(
        self, place: Place, steps: Sequence[Step | Reward], *, keep_state: bool = False, objects: bool = False
    ) -> Run:
        """As `rpc.executor.Executor.run`. Errors: ExecutionStopped too."""
        self._refuse()
        found = await self._executor.run(place, steps, keep_state=keep_state, objects=objects)
        # it may have been stopped meanwhile
        self._refuse()
        return found

    async def call(self, place: Place, call: Call) -> Outcome | None:
        """As `rpc.executor.Executor.call`. Errors: ExecutionStopped too."""
        self._refuse()
        found = await self._executor.call(place, call)
        self._refuse()
        return found

    async def get(self, cid: bytes) -> bytes:
        """As `rpc.executor.Executor.get`."""
        return await self._executor.get(cid)

    async def get_many(self, cids: Sequence[bytes]) -> list[bytes]:
        """As `rpc.executor.Executor.get_many`."""
        return await self._executor.get_many(cids)

    def stop(self, difference: Difference) -> None:
        """Execute nothing more, and forget what was kept of executions."""
        if self.stopped is None:
            self.differences += 1
            log.error("%s: nothing is executed here until an operator has looked (follower resume)", difference)
        self.stopped = difference
        self._forget()

    def resume(self) -> None:
        """Execute again: an operator has looked."""
        if self.stopped is not None:
            log.warning("messages are executed here again: an operator has allowed it")
        self.stopped = None
        self._forget()

    def _forget(self) -> None:
        # whoever is at work for one of them now fills what nobody reads any more
        for name in _CACHES:
            self._services.caches.pop(name, None)

    def _refuse(self) -> None:
        if self.stopped is not None:
            raise ExecutionStopped(self.stopped.epoch)


async def execute_checked(
    ctx: Context, executor: Executor, tipset: Tipset, *, tracing: bool = False, objects: bool = False
) -> Executed:
    """Execute a tipset, as `execute_tipset`. The result is compared with the chain's: now where the tipset has a child,
    else when one has come (`check_executed`). Errors: NotHeld, Unavailable.
    """
    done = await execute_tipset(ctx, executor, tipset, tracing=tracing, objects=objects)
    executed = done.root, done.receipts
    post = await ctx.index.post(tipset.key)
    if post is None:
        _executed(ctx.services).waiting[tipset.key] = tipset, executed
    elif post != executed:
        _stop(ctx.services, tipset, executed, post)
        raise ExecutionStopped(tipset.height)
    return done


async def executed_roots(ctx: Context, executor: Executor, tipset: Tipset) -> tuple[Cid, Cid]:
    """The roots of state and receipts after a tipset that has no child yet. Executed once for all who ask.

    What they are made of can be read like what is stored, for a while. Errors: NotHeld, Unavailable.
    """
    known = _executed(ctx.services)
    kept = known.made.get(tipset.key)
    if kept is not None:
        return kept
    running = known.running.get(tipset.key)
    if running is None:
        work = _execute(ctx, known, executor, tipset)
        running = known.running[tipset.key] = asyncio.get_running_loop().create_task(work)
        running.add_done_callback(lambda _: known.running.pop(tipset.key, None))
    return await asyncio.shield(running)


async def _execute(ctx: Context, known: _ExecutedTipsets, executor: Executor, tipset: Tipset) -> Roots:
    done = await execute_checked(ctx, executor, tipset, objects=True)
    ctx.objects.remember(done.objects)
    found = known.made[tipset.key] = done.root, done.receipts
    return found


class _ExecutedTipsets:
    """Tipsets without a child that were executed here."""

    def __init__(self) -> None:
        #: roots that wait for a child's header to be compared with
        self.waiting: LRUCache[bytes, tuple[Tipset, Roots]] = LRUCache(_KEPT)
        #: roots of what `Objects.remember` has
        self.made: LRUCache[bytes, Roots] = LRUCache(_KEPT)
        self.running: dict[bytes, asyncio.Task[Roots]] = {}


def _executed(services: Services) -> _ExecutedTipsets:
    known: _ExecutedTipsets | None = services.caches.get(_EXECUTED)
    if known is None:
        known = services.caches[_EXECUTED] = _ExecutedTipsets()
    return known


async def check_executed(services: Services) -> None:
    """Compare what was executed with the headers that have come since. One read of rows, where something waits.

    Errors: StoreError.
    """
    waiting = _executed(services).waiting
    if not waiting:
        return
    entries = list(waiting.items())
    rows = await services.store.rows(POST, [(TipsetKey(key).cid, b"") for key, _ in entries])
    for (_, (tipset, _)), row in zip(entries, rows, strict=True):
        if row is not None:
            state, receipts = decode(row)
            check_post(services, tipset, (Cid(state), Cid(receipts)))


def check_post(services: Services, tipset: Tipset, chain: Roots) -> None:
    """Compare what was executed of a tipset, if it was, with the roots that its child's header has."""
    known: _ExecutedTipsets | None = services.caches.get(_EXECUTED)
    found = None if known is None else known.waiting.pop(tipset.key, None)
    if found is not None and found[1] != chain:
        _stop(services, tipset, found[1], chain)


def _stop(services: Services, tipset: Tipset, executed: Roots, chain: Roots) -> None:
    difference = Difference(tipset.height, tipset.key.cid, executed, chain, int(time.time()))
    executor = services.executor
    if isinstance(executor, CheckedExecutor):
        executor.stop(difference)
    else:
        # this process has no operator to ask
        log.error("%s: nothing is executed here any more", difference)
        services.executor = None
