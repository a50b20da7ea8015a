"""A store over archives, as the last passes of an import see it: objects come from the archives, rows go to the store.

What those passes close is noted in memory, a bit for each entry of the archives' indices: an archive is read-only, and
its objects must not be closed in the store (see docs/adr/0124).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from blockstore.archive.archive import Archive
from blockstore.archive.tier import ArchivedObjects, Archives
from blockstore.errors import BadCar
from blockstore.store import Batch, HeadEntry, Held, Store, Table

#: entries of all indices together: a bit each, so half a GiB of memory
_MAX_ENTRIES: Final = 1 << 32
#: entries that are remembered, about 150 bytes each: a walk asks for an object until it is closed
_KNOWN: Final = 200_000


class ArchiveView:
    """A `Store`. `trusted`: what an index has counts as closed, so that nothing below it is read."""

    def __init__(self, store: Store, archives: Archives, members: Sequence[Archive], *, trusted: bool) -> None:
        self.url = store.url
        self._store = store
        self._objects = ArchivedObjects(store, archives)
        self._members = members
        self._trusted = trusted
        self._known: dict[bytes, int] = {}
        entries = sum(archive.layout.entries for archive in members)
        if entries > _MAX_ENTRIES:
            raise BadCar(f"the indices of {', '.join(archives.names)} have {entries:,} entries, which is too many", 0)
        self._closed = bytearray((0 if trusted else entries) // 8 + 1)

    async def close(self) -> None:
        """Nothing: the store and the archives are closed by those who opened them."""

    # --- objects -----------------------------------------------------------------------------------

    async def get(self, multihash: bytes) -> bytes | None:
        """As `Store.get`."""
        return await self._objects.get(multihash)

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        """As `Store.get_many`."""
        return await self._objects.get_many(multihashes)

    async def held_many(self, multihashes: Sequence[bytes]) -> list[Held]:
        """As `Store.held_many`. What an archive has is loose until `close_many` names it."""
        held = await self._store.held_many(multihashes)
        asked = [at for at, how in enumerate(held) if how != Held.CLOSED]
        entries = await self._entries([multihashes[at] for at in asked])
        for at, entry in zip(asked, entries, strict=True):
            if entry is not None:
                is_closed = self._trusted or self._closed[entry >> 3] & 1 << (entry & 7)
                held[at] = Held.CLOSED if is_closed else Held.LOOSE
        return held

    async def close_many(self, multihashes: Sequence[bytes]) -> None:
        """Note what is closed. Objects that the store has and no archive stay loose: some of what is below them may be
        in an archive alone."""
        if self._trusted:
            return
        for entry in await self._entries(multihashes):
            if entry is not None:
                self._closed[entry >> 3] |= 1 << (entry & 7)

    async def _entries(self, multihashes: Sequence[bytes]) -> list[int | None]:
        """The number of each object's entry in the indices, counted through all archives."""
        known = self._known
        out = [known.get(multihash) for multihash in multihashes]
        base = 0
        left = [at for at, entry in enumerate(out) if entry is None]
        for archive in self._members:
            if not left:
                break
            for at, places in zip(left, await archive.find([multihashes[at] for at in left]), strict=True):
                if places:
                    out[at] = known[multihashes[at]] = base + places[0].entry
            left = [at for at in left if out[at] is None]
            base += archive.layout.entries
        if len(known) > _KNOWN:
            known.clear()
        return out

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        """As `Store.put_many`, into the store."""
        await self._store.put_many(objects, closed=closed)

    # --- rows: the store's -------------------------------------------------------------------------

    async def row(self, table: Table, partition: bytes, key: bytes) -> bytes | None:
        """As `Store.row`."""
        return await self._store.row(table, partition, key)

    async def rows(self, table: Table, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        """As `Store.rows`."""
        return await self._store.rows(table, keys)

    async def scan(
        self,
        table: Table,
        partition: bytes,
        *,
        start: bytes = b"",
        end: bytes | None = None,
        reverse: bool = False,
        limit: int = 1000,
    ) -> list[tuple[bytes, bytes]]:
        """As `Store.scan`."""
        return await self._store.scan(table, partition, start=start, end=end, reverse=reverse, limit=limit)

    async def write(self, batch: Batch) -> None:
        """As `Store.write`."""
        await self._store.write(batch)

    async def swap(
        self, table: Table, partition: bytes, key: bytes, expected: bytes | None, value: bytes | None
    ) -> bool:
        """As `Store.swap`."""
        return await self._store.swap(table, partition, key, expected, value)

    async def new_term(self, owner: str, after: int | None = None) -> int:
        """As `Store.new_term`."""
        return await self._store.new_term(owner, after)

    async def append_head(self, entry: HeadEntry) -> None:
        """As `Store.append_head`."""
        await self._store.append_head(entry)

    async def head(self) -> HeadEntry | None:
        """As `Store.head`."""
        return await self._store.head()

    async def head_entries(self, after: int, limit: int = 1000) -> list[HeadEntry]:
        """As `Store.head_entries`."""
        return await self._store.head_entries(after, limit)

    async def trim_head_log(self, keep: int) -> None:
        """As `Store.trim_head_log`."""
        await self._store.trim_head_log(keep)

    async def stats(self) -> dict[str, int]:
        """As `Store.stats`."""
        return await self._store.stats()
