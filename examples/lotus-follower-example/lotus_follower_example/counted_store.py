"""Adds the store scheme `counted://`: an LMDB store that counts the objects that are read from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blockstore.lmdb.store import LmdbStore


class CountedStore(LmdbStore):
    """An LMDB store whose `stats` have one figure more. A store of your own has all methods of `Store`."""

    objects_read = 0

    async def get(self, multihash: bytes) -> bytes | None:
        """One object; it counts."""
        self.objects_read += 1
        return await super().get(multihash)

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        """Several objects; each counts."""
        self.objects_read += len(multihashes)
        return await super().get_many(multihashes)

    async def stats(self) -> dict[str, int]:
        """Those of LMDB, and how many objects this process has read."""
        return {**await super().stats(), "objects_read": self.objects_read}


async def open_counted(url: str, *, readonly: bool = False) -> CountedStore:
    """Open `counted:///absolute/folder`. Errors: StoreUnavailable."""
    store = await CountedStore.open(Path(url.partition("://")[2]), readonly=readonly)
    assert isinstance(store, CountedStore)
    return store
