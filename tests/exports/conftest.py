"""Stores that snapshots are made from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from benches.import_car import make_car
from blockstore.memory import MemoryStore
from leader_bridge.imports.importer import import_car
from tests.support.bridge.imported import network_file, recorded_stores


@pytest.fixture(scope="session")
def recorded_store() -> Callable[[str], Awaitable[MemoryStore]]:
    """The store of a recorded chain, imported once; tests only read it."""
    return recorded_stores()


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Awaitable[MemoryStore]]:
    """The store of a made-up chain of a few epochs, with many state objects each; tests only read it.

    The object that its genesis names as its parent does not exist.
    """
    made: list[MemoryStore] = []
    folder = tmp_path_factory.mktemp("made")

    async def store_of() -> MemoryStore:
        if not made:
            make_car(folder / "made.car", 3_000_000, state_objects=300)
            store = MemoryStore()
            await import_car(store, folder / "made.car", network_file=network_file(folder))
            made.append(store)
        return made[0]

    return store_of
