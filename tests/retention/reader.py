"""A follower's way of reading, in a process of its own, beside a leader that drops: random objects of random states.

python -m tests.retention.reader STORE SEED

It reads until standard input ends, and prints {"objects": whole paths' objects, "refused": paths that ended because the
store had said that the state is held no more}. Exit code 1, with the reason: an object is missing or wrong.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys

from blockstore.cid import verify
from blockstore.open import SharedStoreOptions, open_store
from blockstore.store import Store
from chain.index.chain_index import HELD_STATE, ChainIndex
from chain.index.kept import load_kept
from chain.ipld.objects import Objects
from chain.tipset import TipsetKey
from leader_bridge.store.mirror import walked_links


async def read_path(store: Store, rng: random.Random) -> tuple[int, bool]:
    """(objects of a path from a state's root to a leaf, whether the state was dropped meanwhile)."""
    head = await store.head()
    assert head is not None
    kept = await load_kept(store)
    # a new index, for a follower that has just started has nothing in its caches
    index = ChainIndex(store, Objects(store))
    newest = await index.tipset(TipsetKey(head.head.key))
    height = rng.randint(min(max(1, kept.state), newest.height), newest.height)
    tipset = await index.at_height(newest, height)
    dropped = (await load_kept(store)).has_dropped_state
    if dropped(tipset.height):
        return 0, True
    if not await index.held(tipset.key) & HELD_STATE:
        return 0, (await load_kept(store)).has_dropped_state(tipset.height)
    cid, objects = tipset.parent_state_root, 0
    while True:
        data = await store.get(cid.multihash)
        if data is None:
            if (await load_kept(store)).has_dropped_state(tipset.height):
                return objects, True
            sys.exit(f"{cid} of the state of epoch {tipset.height} is missing; {await load_kept(store)}, head {head}")
        verify(cid.multihash, data)
        objects += 1
        links = walked_links(cid, data)
        if not links:
            return objects, False
        cid = rng.choice(links)


async def run(url: str, seed: int) -> None:
    """Read until standard input ends."""
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    rng = random.Random(seed)
    store = await open_store(url, readonly=True, shared=SharedStoreOptions(delta_ms=200, epsilon_ms=20))
    objects = refused = 0
    while not ended.done():
        found, gone = await read_path(store, rng)
        objects += found
        refused += gone
        await asyncio.sleep(0)
    await store.close()
    print(json.dumps({"objects": objects, "refused": refused}))


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2])))
