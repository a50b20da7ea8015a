"""Stores of recorded chains, and their tables in Parquet and in PostgreSQL, made once a run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from blockstore.memory import MemoryStore
from leader_bridge.imports.importer import import_car
from tests.support.recorded import recorded
from tests.support.tables.places import Place, new_place

StoreOf = Callable[[str], Awaitable[MemoryStore]]
TablesOf = Callable[[str, str], Awaitable[Place]]


@pytest.fixture(scope="session")
def store_of() -> StoreOf:
    """The store of a recorded chain; tests only read it."""
    made: dict[str, MemoryStore] = {}

    async def find(folder: str) -> MemoryStore:
        if folder not in made:
            store = MemoryStore()
            car, network = recorded(f"{folder}/chain.car.zst"), recorded(f"{folder}/network.json")
            await import_car(store, car, network_file=network)
            made[folder] = store
        return made[folder]

    return find


@pytest.fixture(scope="session")
def tables_of(store_of: StoreOf, tmp_path_factory: pytest.TempPathFactory) -> TablesOf:
    """All tables of a recorded chain in a place of a kind; tests only read them."""
    made: dict[tuple[str, str], Place] = {}

    async def find(folder: str, kind: str) -> Place:
        if (folder, kind) not in made:
            place = new_place(kind, lambda: tmp_path_factory.mktemp(folder))
            await place.extract(await store_of(folder))
            made[folder, kind] = place
        return made[folder, kind]

    return find
