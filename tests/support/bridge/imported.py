"""Stores of recorded chains by an import, and judging what an import has left in a store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson

from blockstore.cid import Cid
from blockstore.generations import GenerationalStore
from blockstore.lmdb.store import LmdbStore
from blockstore.memory import MemoryStore
from blockstore.scan import object_pages
from blockstore.store import META, Held, ObjectStore, Store
from chain.index.chain_index import (
    HELD_EVENTS,
    HELD_MESSAGES,
    HELD_STATE,
    ChainIndex,
    TipsetRow,
)
from chain.index.coverage import MESSAGES_INDEX, covered
from chain.ipld.objects import Objects
from chain.network import load_network
from chain.tipset import TipsetKey
from leader_bridge.imports.closing import verify_closed
from leader_bridge.imports.import_state import MARK, PROGRESS
from leader_bridge.imports.importer import import_car
from leader_bridge.store.coverage import TIPSETS_INDEX
from tests.support.recorded import recorded

NETWORK: dict[str, Any] = {
    "network_name": "made",
    "address_prefix": "t",
    "eth_chain_id": 1,
    "block_delay_secs": 30,
    "upgrades": [{"height": -1, "network_version": 22}],
}


async def import_recorded(store: Store, chain: str, **options: Any) -> None:
    """Import a recorded chain, as `import_car` does with these options."""
    car, network = recorded(f"{chain}/chain.car.zst"), recorded(f"{chain}/network.json")
    await import_car(store, car, network_file=network, **options)


def lmdb_of_devnet(folder: Path) -> Path:
    """The recorded devnet chain in a new LMDB store in `folder`."""

    async def fill() -> None:
        store = await LmdbStore.open(folder, bulk=True)
        await import_recorded(store, "devnet", process=False)
        await store.close()

    asyncio.run(fill())
    return folder


def recorded_stores() -> Callable[[str], Awaitable[MemoryStore]]:
    """Gives the store of a recorded chain, imported once; tests only read it."""
    made: dict[str, MemoryStore] = {}

    async def store_of(chain: str) -> MemoryStore:
        if chain not in made:
            store = MemoryStore()
            await import_recorded(store, chain)
            made[chain] = store
        return made[chain]

    return store_of


def network_file(folder: Path, **changes: Any) -> Path:
    path = folder / "network.json"
    path.write_bytes(orjson.dumps({**NETWORK, **changes}))
    return path


async def rows_of_chain(store: Store, key: TipsetKey, reads: ObjectStore | None = None) -> list[TipsetRow]:
    index = ChainIndex(store, Objects(reads or store))
    rows: list[TipsetRow] = []
    while True:
        row = await index.row(key)
        assert row is not None
        rows.append(row)
        if row.parent_height < 0:
            return rows
        key = row.parent


async def check_whole(store: Store) -> list[TipsetRow]:
    """Every published head's chain, and what its rows say is held, walk without a missing object."""
    assert await store.row(META, b"", MARK) is None
    assert await store.row(META, b"", PROGRESS) is None
    entry = await store.head()
    assert entry is not None
    network = await load_network(store)
    assert network is not None
    rows = await rows_of_chain(store, TipsetKey(entry.head.key))
    assert rows[-1].height == 0
    assert rows[-1].key.cids == (network.genesis,)
    index = ChainIndex(store, Objects(store))
    roots: dict[Cid, None] = {}
    for row in rows:
        tipset = await index.tipset(row.key)
        assert tipset.height == row.height
        if row.held & HELD_MESSAGES:
            roots.update(dict.fromkeys(block.messages for block in tipset.blocks))
        if row.held & HELD_STATE:
            roots[tipset.parent_state_root] = None
        if row.held & HELD_EVENTS:
            roots[tipset.parent_message_receipts] = None
    assert set(await store.held_many([root.multihash for root in roots])) == {Held.CLOSED}
    some = list(roots)
    for root in some[:: max(1, len(some) // 60)]:
        assert await verify_closed(store, root) > 0
    for low, high in [(0, entry.head.height)]:
        assert await covered(store, TIPSETS_INDEX) == [(low, high)]
    return rows


async def count_objects(store: Store) -> int:
    """How many objects a store holds; one that lies in two places counts once."""
    if not isinstance(store, GenerationalStore):
        return (await store.stats())["objects"]
    return len({one.multihash async for page in object_pages(store) for one in page.objects})


async def contents(store: Store, folder: Path) -> dict[str, Any]:
    """All rows but the head log's and the leases', for comparing stores."""
    out: dict[str, Any] = {"objects": await count_objects(store)}
    for row in await rows_of_chain(store, TipsetKey((await store.head()).head.key)):  # type: ignore[union-attr]
        out[str(row.key)] = row
    for index in (TIPSETS_INDEX, MESSAGES_INDEX):
        out[index.decode()] = await covered(store, index)
    return out
