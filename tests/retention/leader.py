"""A leader in a process of its own, to be killed: it stores and publishes what it is given, and keeps the store's size.

python -m tests.retention.leader STORE POLICY GRACE_SECONDS

Standard input: pickled `Given`. Standard output, a line each: "head SEQ HEIGHT" at the start and after each head, and
"step WORD" when the pass that keeps the size goes on to another step.
"""

from __future__ import annotations

import asyncio
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from blockstore.cid import Cid
from blockstore.open import SharedStoreOptions, open_store
from blockstore.store import Batch, TipsetRef
from chain.network import NetworkRecord, load_network, save_network
from chain.tipset import TipsetKey
from leader_bridge.follow.head_path import HeadPath
from leader_bridge.follow.publisher import Publisher
from leader_bridge.nodes.sources import Fetched
from leader_bridge.retention.keeper import Keeper
from leader_bridge.retention.policy import Policy
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.recorder import Recorder
from leader_bridge.store.tipset_writer import MirrorScope, TipsetWriter


@dataclass(slots=True)
class Given:
    """A head change, with the objects that are new with it. `seq` counts from 1."""

    seq: int
    reverts: list[tuple[int, bytes]]
    applies: list[bytes]
    objects: dict[bytes, bytes]
    network: NetworkRecord | None = None


class GivenObjects:
    """The node: what came with the head change in hand."""

    def __init__(self) -> None:
        self.objects: dict[bytes, bytes] = {}

    async def fetch(self, cids: Sequence[Cid]) -> Fetched:
        """As `leader_bridge.nodes.sources.Sources`."""
        found = {cid: self.objects[cid.multihash] for cid in cids if cid.multihash in self.objects}
        return Fetched(found, [cid for cid in cids if cid not in found])


class _TellingKeeper(Keeper):
    """A keeper that says what it does."""

    def _tell(self, step: str) -> None:
        print(f"step {step}", flush=True)
        super()._tell(step)


async def run(url: str, epochs: str, grace: str) -> None:
    """Work until standard input ends."""
    store = await open_store(url, shared=SharedStoreOptions(delta_ms=200, epsilon_ms=20, may_create_tables=True))
    node = GivenObjects()
    writer = TipsetWriter(store, Mirror(store, node), late_block_retry_delays=())
    lock = asyncio.Lock()
    publisher = Publisher(store, writer, Recorder(store), MirrorScope(), keep_log_entries=2000, on_head=lambda: None)
    keeper = _TellingKeeper(
        store,
        writer,
        Policy(int(epochs), int(epochs), int(epochs)),
        head=lambda: publisher.head,
        head_change_lock=lock,
        rate=1e6,
        grace_seconds=float(grace),
        look_seconds=0.01,
    )
    publisher.term = await store.new_term("test")
    await publisher.load_head()
    keeping = asyncio.create_task(keeper.run())
    _say_head(publisher)
    while given := await asyncio.to_thread(_read):
        node.objects = given.objects
        if await load_network(store) is None and given.network is not None:
            batch = Batch()
            save_network(batch, given.network)
            await store.write(batch)
            (genesis,) = await writer.tipsets([TipsetKey.of([given.network.genesis])])
            await writer.write([genesis], MirrorScope())
        async with lock:
            applies = await writer.tipsets([TipsetKey(key) for key in given.applies])
            reverts = tuple(TipsetRef(height, key) for height, key in given.reverts)
            await publisher.publish(HeadPath(reverts, tuple(applies), None), asyncio.create_task(asyncio.sleep(0)))
        _say_head(publisher)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await store.close()


def _say_head(publisher: Publisher) -> None:
    head = publisher.head
    print(f"head {head.seq if head else 0} {head.head.height if head else -1}", flush=True)


def _read() -> Given | None:
    size = sys.stdin.buffer.read(8)
    if len(size) < 8:
        return None
    given = pickle.loads(sys.stdin.buffer.read(int.from_bytes(size, "big")))
    assert isinstance(given, Given)
    return given


if __name__ == "__main__":
    # the class that is pickled is the module's, not __main__'s
    from tests.retention.leader import run as run_leader

    asyncio.run(run_leader(*sys.argv[1:]))
