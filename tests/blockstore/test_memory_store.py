"""The store in memory against the contract."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from blockstore.errors import StoreError
from blockstore.memory import MemoryStore
from blockstore.open import open_store
from blockstore.store import Store
from tests.blockstore.store_contract import StoreContract


@contextlib.asynccontextmanager
async def _made() -> AsyncIterator[Store]:
    yield MemoryStore("test")


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        async with _made() as store:
            yield store

    @pytest.fixture
    def store_factory(self) -> Callable[[], object]:
        return _made


async def test_unknown_urls_are_refused() -> None:
    for url in ("redis://x", "lmdb://", "nothing"):
        with pytest.raises(StoreError, match="not a store URL"):
            await open_store(url)
