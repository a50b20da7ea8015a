"""Verifying by execution: before a tipset is published its parent is executed, and the result compared with its header.

A header names the state and the receipts after the parent. A full node has executed the parent too; here it is done
again by a machine of one's own. When the two differ the tipset is not published: one of them is wrong, and only an
operator can tell which.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Final

from cachetools import LRUCache

from chain.errors import ChainError
from chain.tipset import Tipset, TipsetKey
from leader_bridge import metrics
from leader_bridge.clock import monotonic
from leader_bridge.store.execution import Roots, TipsetExecution, require_equal, roots_text
from rpc.errors import CannotExecute, RpcError

log = logging.getLogger(__name__)

#: values of the setting `verify`
ALL: Final = "all"
SAMPLE: Final = "sample"
OFF: Final = "off"

#: the longest that publishing waits for an executor that starts or is busy, and between two tries
_WAIT_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 0.5
#: tipsets whose results, and whether they are verified, are remembered
_KEPT: Final = 1024


class Verifier:
    """Executes tipsets of a bridge: all, or one in `one_in` by chance.

    `wait_seconds` is the longest that a head waits for the executor. One that could not be verified is published, and
    counted: it is no worse than without a verifier.
    """

    def __init__(self, execution: TipsetExecution, *, one_in: int = 1, wait_seconds: float = _WAIT_SECONDS) -> None:
        self._execution = execution
        self._one_in = one_in
        self._wait_seconds = wait_seconds
        #: by the key of the tipset that is executed. By chance: a node must not know which ones
        self._chosen: LRUCache[TipsetKey, bool] = LRUCache(_KEPT)
        self._roots: LRUCache[TipsetKey, Roots] = LRUCache(_KEPT)
        self._running: dict[TipsetKey, asyncio.Task[Roots]] = {}
        #: whether the executor answered the last time: while it does not, heads do not wait for it one after another
        self._is_there = True

    def split(self, applies: Sequence[Tipset]) -> list[list[Tipset]]:
        """Tipsets in parts that are stored one after another: a part begins with a tipset that is to be verified."""
        parts: list[list[Tipset]] = []
        for tipset in applies:
            if not parts or self._chooses(tipset.parents):
                parts.append([])
            parts[-1].append(tipset)
        return parts

    def begin(self, tipset: Tipset) -> None:
        """A tipset was published: execute it while its child is waited for."""
        if tipset.height and self._chooses(tipset.key):
            self._start(tipset)

    async def check(self, child: Tipset) -> None:
        """Compare a header with its parent's execution, if it is to be verified. The parent is stored.

        Errors: ExecutionDiffers, StoreError.
        """
        if not child.height or not self._chooses(child.parents):
            return
        chain = child.parent_state_root, child.parent_message_receipts
        try:
            parent = await self._execution.tipset(child.parents)
            if parent.height == 0:
                # the genesis is not executed: its header names the state after it
                return
            roots = await self._roots_of(parent)
            if roots != chain:
                # a fault of memory does not repeat
                self._roots.pop(parent.key, None)
                again = await self._roots_of(parent)
                if again != roots:
                    first, second = roots_text(roots), roots_text(again)
                    log.error("executing epoch %d gave %s, and then %s", parent.height, first, second)
                roots = again
        except TimeoutError:
            self._report_unverified(child, "late", f"the executor took more than {self._wait_seconds:g} s")
            return
        except CannotExecute as error:
            self._report_unverified(child, "not_executable", str(error))
            return
        except ChainError as error:
            self._report_unverified(child, "not_held", str(error))
            return
        except RpcError as error:
            self._report_unverified(child, "unavailable", str(error))
            return
        self._is_there = True
        if roots != chain:
            # executed anew at the next try
            self._roots.pop(parent.key, None)
        require_equal(parent, roots, chain)
        metrics.VERIFIED.inc()

    async def close(self) -> None:
        """Give up what is being executed."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _chooses(self, key: TipsetKey) -> bool:
        found = self._chosen.get(key)
        if found is None:
            found = self._chosen[key] = random.randrange(self._one_in) == 0
        return found

    async def _roots_of(self, tipset: Tipset) -> Roots:
        kept = self._roots.get(tipset.key)
        if kept is not None:
            return kept
        async with asyncio.timeout(self._wait_seconds):
            while True:
                try:
                    return await asyncio.shield(self._start(tipset))
                except CannotExecute:
                    raise
                except RpcError:
                    if not self._is_there:
                        raise
                await asyncio.sleep(_RETRY_SECONDS)

    def _start(self, tipset: Tipset) -> asyncio.Task[Roots]:
        running = self._running.get(tipset.key)
        if running is None:
            running = self._running[tipset.key] = asyncio.create_task(self._execute(tipset))
            running.add_done_callback(lambda task: self._ended(tipset.key, task))
        return running

    def _ended(self, key: TipsetKey, task: asyncio.Task[Roots]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            # whoever waits for it is told; ahead of its child nobody does
            task.exception()

    async def _execute(self, tipset: Tipset) -> Roots:
        began = monotonic()
        done = await self._execution.execute(tipset)
        metrics.VERIFY_SECONDS.observe(monotonic() - began)
        found = self._roots[tipset.key] = done.root, done.receipts
        return found

    def _report_unverified(self, child: Tipset, reason: str, text: str) -> None:
        metrics.UNVERIFIED.labels(reason).inc()
        if reason in ("late", "unavailable"):
            if self._is_there:
                log.warning("epoch %d is published unverified: %s", child.height, text)
            self._is_there = False
        else:
            log.info("epoch %d is published unverified: %s", child.height, text)
