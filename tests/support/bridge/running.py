"""Running a bridge in a test, and judging what it has left in the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from blockstore.cid import Cid
from blockstore.store import HeadEntry, Store, TipsetRef
from chain.block import decode_header
from chain.index.chain_index import HELD_ALL, decode_row
from chain.tipset import Tipset, TipsetKey
from devnode.replay import ReplayNode
from leader_bridge.bridge import Bridge
from leader_bridge.follow.head_rules import ReorgPermit
from leader_bridge.settings import BridgeSettings
from leader_bridge.store.mirror import walked_links
from rpc.client.node_info import parse_node_info
from rpc.executor import Executor

#: everything as fast as it goes: nothing here waits for its own sake
QUICK = {
    "backfill_epochs": 0,
    "first_backoff_seconds": 0.002,
    "longest_backoff_seconds": 0.02,
    "bad_object_cooldown_seconds": 0.05,
    "lagging_node_grace_seconds": 0.0,
    "late_block_retry_delays": (0.005, 0.01),
    "poll_interval_seconds": 0.005,
    "missing_object_timeout_seconds": 5.0,
    "node_timeout_seconds": 10.0,
    "probe_interval_seconds": 0.05,
    "refused_head_cooldown_seconds": 0.02,
}


def quick(**options: Any) -> BridgeSettings:
    return BridgeSettings(**{**QUICK, **options})


@contextlib.asynccontextmanager
async def following(
    store: Store,
    urls: Sequence[str],
    settings: BridgeSettings | None = None,
    permit: ReorgPermit | None = None,
    executor: Executor | None = None,
) -> AsyncIterator[Bridge]:
    """A bridge that runs meanwhile, and is stopped; what it raises is raised here."""
    bridge = Bridge(store, parse_node_info(",".join(urls)), settings or quick(), permit=permit, executor=executor)
    task = asyncio.create_task(bridge.run())
    try:
        yield bridge
    finally:
        bridge.stop()
        await task


async def until_at_node(store: Store, node: ReplayNode, running: asyncio.Task[None]) -> None:
    """Wait until a bridge has published the replayed node's head; what it raises meanwhile is raised here."""
    while (entry := await store.head()) is None or entry.head.key != node.heads.head.key:
        if running.done():
            running.result()
        await asyncio.sleep(0.002)


async def entries_of(store: Store) -> list[HeadEntry]:
    found: list[HeadEntry] = []
    while part := await store.head_entries(found[-1].seq if found else 0):
        found.extend(part)
    return found


async def header_tipset(store: Store, key: bytes) -> Tipset:
    """A tipset read from the store alone."""
    cids = TipsetKey(key).cids
    raws = await store.get_many([cid.multihash for cid in cids])
    assert None not in raws, f"a header of {TipsetKey(key)} is missing"
    return Tipset.of([decode_header(cid, raw) for cid, raw in zip(cids, raws, strict=True) if raw is not None])


async def replay_log(store: Store) -> list[TipsetRef]:
    """Apply the head log as a client would: each entry must go on from the one before. The chain at the end.

    A reorganisation may go below the first head; what is reverted there must be the parent each time.
    """
    chain: list[TipsetRef] = []
    at: bytes | None = None
    for number, entry in enumerate(await entries_of(store), 1):
        assert entry.seq == number
        assert entry.reverts or entry.applies
        for ref in entry.reverts:
            assert ref.key == at, f"entry {number} reverts what is not the head"
            at = (await header_tipset(store, ref.key)).parents
            if chain:
                chain.pop()
        for ref in entry.applies:
            tipset = await header_tipset(store, ref.key)
            assert tipset.height == ref.height
            assert at is None or tipset.parents == at, f"entry {number} leaves a hole"
            at = ref.key
            chain.append(ref)
        assert entry.head.key == at
    return chain


class Walker:
    """Checks that published tipsets are whole. What was found present is not looked at again."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    async def tree(self, store: Store, root: Cid) -> None:
        level = [root]
        while level:
            level = [cid for cid in dict.fromkeys(level) if cid.multihash not in self.seen]
            raws = await store.get_many([cid.multihash for cid in level])
            below: list[Cid] = []
            for cid, raw in zip(level, raws, strict=True):
                assert raw is not None, f"{cid} under {root} is missing"
                self.seen.add(cid.multihash)
                below.extend(walked_links(cid, raw))
            level = below

    async def published(self, store: Store, *, held: int = HELD_ALL) -> int:
        """Every tipset that the log names is there with all that its row promises; how many there are."""
        from blockstore.store import TIPSETS

        refs = {ref.key: ref for entry in await entries_of(store) for ref in (*entry.applies, entry.head)}
        for ref in refs.values():
            tipset = await header_tipset(store, ref.key)
            value = await store.row(TIPSETS, TipsetKey(ref.key).cid, b"")
            assert value is not None
            assert decode_row(value).held & held == held
            for block in tipset.blocks:
                await self.tree(store, block.messages)
            await self.tree(store, tipset.parent_message_receipts)
            await self.tree(store, tipset.parent_state_root)
        return len(refs)
