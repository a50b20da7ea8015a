"""A follower's services with the virtual machine, over a recorded chain on disk. Code is compiled once a process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from blockstore.cid import Cid
from blockstore.open import open_store
from blockstore.store import Store
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.network import load_network
from follower.head import StoreHeads
from follower.worker import before_new_head
from leader_bridge.imports.importer import import_car
from rpc.executor import Place, Reward, Run, Step
from rpc.lookup.self_check import CheckedExecutor
from rpc.services import Services
from tests.support.recorded import recorded

_ENGINE_CACHE_BYTES = 128 << 20


def require_machine() -> Any:
    """The extension's module. Skips the test where it is not installed; fails it in CI."""
    try:
        import lotus_follower_execution as vm
    except ImportError:
        reason = "the virtual machine is not installed (make execution)"
        if os.environ.get("REQUIRE_SERVERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return vm


@cache
def engine() -> Any:
    """The engine of this process. Errors: as `require_machine`."""
    return require_machine().Engine(2, _ENGINE_CACHE_BYTES)


def import_recorded(folder: str, at: Path) -> str:
    """The URL of a store in `at` with a recorded chain, imported where it is not there."""
    url = f"lmdb://{at / folder}"
    if not (at / folder).exists():

        async def run() -> None:
            store = await open_store(url)
            car, network = recorded(f"{folder}/chain.car.zst"), recorded(f"{folder}/network.json")
            await import_car(store, car, network_file=network)
            await store.close()

        # in a loop of its own, as another process would
        asyncio.run(run())
    return url


@asynccontextmanager
async def executing(url: str, *, readonly: bool = True, **limits: int) -> AsyncIterator[Services]:
    """Services over a store, with an executor in this process; `limits` as LocalExecutor takes them."""
    found = engine()
    from follower.executor.local import LocalExecutor

    store = await open_store(url, readonly=readonly)
    network = await load_network(store)
    assert network is not None
    objects = Objects(store)
    index = ChainIndex(store, objects, network)
    heads = StoreHeads(store, index)
    executor = LocalExecutor(objects, index, network, engine=found, **limits)
    services = Services(
        store=store,
        index=index,
        objects=objects,
        network=network,
        head_source=heads,
    )
    services.executor = CheckedExecutor(executor, services)
    heads.newest.before_new_head = before_new_head(services)
    try:
        yield services
    finally:
        executor.close()
        await store.close()


class StoreExecutor:
    """The virtual machine over a store that may still be empty. `fault` is raised instead of a result, where given."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._inner: Any = None
        self.fault: Exception | None = None
        self.root: Cid | None = None
        self.runs = 0

    async def inner(self) -> Any:
        from follower.executor.local import LocalExecutor

        if self._inner is None:
            network = await load_network(self._store)
            assert network is not None
            objects = Objects(self._store)
            self._inner = LocalExecutor(objects, ChainIndex(self._store, objects, network), network, engine=engine())
        return self._inner

    async def run(
        self, place: Place, steps: Sequence[Step | Reward], *, keep_state: bool = False, objects: bool = False
    ) -> Run:
        self.runs += 1
        if self.fault is not None:
            raise self.fault
        found: Run = await (await self.inner()).run(place, steps, keep_state=keep_state, objects=objects)
        return found if self.root is None else replace(found, root=self.root)

    async def get(self, cid: bytes) -> bytes:
        found: bytes = await (await self.inner()).get(cid)
        return found

    async def get_many(self, cids: Sequence[bytes]) -> list[bytes]:
        found: list[bytes] = await (await self.inner()).get_many(cids)
        return found
