"""A hook that raises or hangs, and two processes with one hook: order is kept, nothing is left out or told twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from prometheus_client import REGISTRY

from blockstore.extensions import TIPSET_HOOKS
from blockstore.open import open_store
from blockstore.store import Batch, HeadEntry, TipsetRef
from chain.network import NetworkRecord, save_network
from chain.tipset import Tipset
from follower.extending.chain import Chain
from follower.extending.hook import TipsetChange, TipsetHook
from follower.extending.hook_runner import HookRunner
from tests.extending.example_package import write_package
from tests.support.bridge.node import until
from tests.support.made_chain import MadeChain
from tests.support.processes import run_follower


class Hook(TipsetHook):
    """Notes what it is told. `troubles`: what its next calls do instead."""

    begins_at = "oldest"

    def __init__(self, *troubles: str) -> None:
        self.told: list[tuple[int, bool]] = []
        self.troubles = list(troubles)

    async def applied(self, chain: Chain, change: TipsetChange) -> None:
        await self._note(change)

    async def reverted(self, chain: Chain, change: TipsetChange) -> None:
        await self._note(change)

    async def _note(self, change: TipsetChange) -> None:
        trouble = self.troubles.pop(0) if self.troubles else ""
        if trouble == "raise":
            raise RuntimeError("not now")
        if trouble == "hang":
            await asyncio.sleep(3600)
        self.told.append((change.tipset.height, change.reverted))


class Published(MadeChain):
    """A made chain whose head changes are published in its store."""

    seq = 0

    async def begin(self) -> list[Tipset]:
        """Five tipsets, published as one head change."""
        tipsets = [await self.add(None, 0)]
        for height in range(1, 5):
            tipsets.append(await self.add(tipsets[-1], height))
        batch = Batch()
        save_network(batch, NetworkRecord("made", tipsets[0].blocks[0].cid, "t", 31415926, 30, self.upgrades))
        await self.store.write(batch)
        self.term = await self.store.new_term("test")
        await self.publish((), tipsets)
        return tipsets

    async def publish(self, reverts: Sequence[Tipset], applies: Sequence[Tipset]) -> None:
        self.seq += 1
        refs = [tuple(TipsetRef(one.height, one.key) for one in some) for some in (reverts, applies)]
        await self.store.append_head(HeadEntry(self.seq, self.term, refs[0], refs[1], refs[1][-1]))


@contextlib.asynccontextmanager
async def running(chain: Published, name: str, hook: Hook) -> AsyncIterator[None]:
    stop = asyncio.Event()
    runner = HookRunner(name, hook, chain.store, limit_seconds=0.2, lease_seconds=0.2)
    task = asyncio.create_task(runner.run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


FIRST = [(height, False) for height in range(5)]


async def test_a_call_that_fails_or_hangs_is_made_again_in_order() -> None:
    chain = Published()
    tipsets = await chain.begin()
    hook = Hook("", "raise", "hang", "")
    async with running(chain, "troubled", hook):
        await until(lambda: len(hook.told) == 5)
        other = await chain.add(tipsets[2], 4, salt=1)
        await chain.publish([tipsets[4], tipsets[3]], [other])
        await until(lambda: len(hook.told) == 8)
    assert hook.told == [*FIRST, (4, True), (3, True), (4, False)]
    assert metric("follower_hook_failures_total", hook="troubled", reason="error") == 1
    assert metric("follower_hook_failures_total", hook="troubled", reason="time") == 1
    assert metric("follower_hook_calls_total", hook="troubled", change="applied") == 6
    assert metric("follower_hook_calls_total", hook="troubled", change="reverted") == 2
    assert metric("follower_hook_lag_heads", hook="troubled") == 0


async def test_a_hook_goes_on_where_it_stopped() -> None:
    chain = Published()
    tipsets = await chain.begin()
    first, second = Hook(), Hook()
    async with running(chain, "again", first):
        await until(lambda: first.told == FIRST)
    newest = await chain.add(tipsets[-1], 5)
    await chain.publish((), [newest])
    async with running(chain, "again", second):
        await until(lambda: bool(second.told))
    assert second.told == [(5, False)]


async def test_of_two_processes_one_runs_the_hook_and_the_other_takes_over() -> None:
    chain = Published()
    tipsets = await chain.begin()
    first, second = Hook(), Hook()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(running(chain, "twice", first))
        await until(lambda: first.told == FIRST)
        async with running(chain, "twice", second):
            one = await chain.add(tipsets[-1], 5)
            await chain.publish((), [one])
            await until(lambda: len(first.told) == 6)
            # longer than two lease times: the one that runs it renews
            await asyncio.sleep(0.8)
            assert second.told == []
            await stack.aclose()
            await chain.publish((), [await chain.add(one, 6)])
            await until(lambda: bool(second.told))
            assert second.told == [(6, False)]


BLOCKING = """
import time
from follower import TipsetHook

class Blocking(TipsetHook):
    begins_at = "oldest"

    async def applied(self, chain, change):
        time.sleep(3600)

    async def reverted(self, chain, change):
        pass
"""


async def test_a_hook_that_never_awaits_ends_its_process(tmp_path: Path) -> None:
    """It cannot be cancelled. The stacks show where it is."""
    chain = Published()
    store = await open_store(f"lmdb://{tmp_path}/store")
    chain.store = store  # type: ignore[assignment]
    await chain.begin()
    await store.close()
    environment = write_package(
        tmp_path / "x", "blocking", TIPSET_HOOKS, "blocking = blocking:Blocking", BLOCKING
    )  # fmt: skip
    done = await asyncio.to_thread(
        run_follower, "hooks", "--one", "--store", f"lmdb://{tmp_path}/store", "--hook-seconds", "0.1",
        environment=environment, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "blocking.py" in done.stderr
