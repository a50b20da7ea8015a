"""Stores of recorded chains, and their tables in Parquet and in PostgreSQL, made once a run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from blockstore.memory import MemoryStore
from tests.support.bridge.imported import recorded_stores
from tests.support.tables.places import Place, new_place

StoreOf = Callable[[str], Awaitable[MemoryStore]]
TablesOf = Callable[[str, str], Awaitable[Place]]


@pytest.fixture(scope="session")
def store_of() -> StoreOf:
    """The store of a recorded chain; tests only read it."""
    return recorded_stores()


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
