"""A whole follower in the process of the test: a store, opened and served on a free port."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from blockstore.archive.tier import Archives
from blockstore.open import open_store
from blockstore.store import Store
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Fetch, Objects
from chain.network import load_network
from follower.archives import objects_below
from follower.head import StoreHeads
from follower.readiness import Freshness, build_checks
from rpc.methods import register_all
from rpc.server.limits import ServerSettings
from rpc.server.server import Server, serve
from rpc.services import Services


async def services_over(store: Store, fetch: Fetch | None = None, archives: Archives | None = None) -> Services:
    """What a worker builds over a store that holds a head, and over the archives below it."""
    network = await load_network(store)
    assert network is not None
    objects = Objects(objects_below(store, archives, asks_nodes=fetch is not None), fetch=fetch)
    index = ChainIndex(store, objects, network)
    heads = StoreHeads(store, index, poll_seconds=0.002)
    return Services(
        store=store,
        index=index,
        objects=objects,
        network=network,
        head_source=heads,
        checks=build_checks(heads, None, Freshness(lag_epochs=5, head_age_epochs=0, block_delay_seconds=30)),
    )


@contextlib.asynccontextmanager
async def served(
    store: Store | Path,
    fetch: Fetch | None = None,
    archives: Archives | None = None,
    settings: ServerSettings | None = None,
) -> AsyncIterator[Server]:
    """Serve a store (or the LMDB store in a folder) as a follower does."""
    register_all()
    opened = await open_store(f"lmdb://{store}") if isinstance(store, Path) else None
    services = await services_over(opened or store, fetch, archives)  # type: ignore[arg-type]
    server = await serve(services, "127.0.0.1", 0, settings=settings)
    try:
        yield server
    finally:
        await server.stop(0)
        if opened is not None:
            await opened.close()
