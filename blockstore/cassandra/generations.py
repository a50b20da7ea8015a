"""Which tables of objects a Cassandra store reads and writes, as the layout's row says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from blockstore.cassandra import schema
from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.place import CassandraPlace
from blockstore.cassandra.session import SchemaMissing, Session
from blockstore.errors import StoreError, StoreUnavailable
from blockstore.generations import LASTING, Layout, decode_layout

#: seconds until a reader asks again whether there are other generations, though it finds everything; a leader waits
#: longer between a layout and the drop of what is in it no more
_FRESH_SECONDS: Final = 5.0


class Generations:
    """The places of a store's objects. `read_row` reads the layout's row."""

    def __init__(
        self, session: Session, address: CassandraAddress, read_row: Callable[[], Awaitable[bytes | None]]
    ) -> None:
        self._session = session
        self._address = address
        self._read_row = read_row
        self.lasting = CassandraPlace(session, f"{address.keyspace}.{schema.LASTING_OBJECTS}")
        self.layout = Layout()
        self._row: bytes | None = None
        self._read_at = float("-inf")
        self._following = asyncio.Lock()
        self._places: dict[int, CassandraPlace] = {1: self._new(1)}
        self.looks = 0

    def _new(self, number: int) -> CassandraPlace:
        return CassandraPlace(self._session, schema.generation_table(self._address.keyspace, number))

    @property
    def current(self) -> CassandraPlace:
        """The generation that is written to."""
        return self._places[self.layout.current]

    @property
    def previous(self) -> CassandraPlace | None:
        """The one that is to be dropped next."""
        return None if self.layout.previous is None else self._places[self.layout.previous]

    def place(self, number: int) -> CassandraPlace:
        """A place by its number."""
        return self.lasting if number == LASTING else self._places[number]

    async def follow(self) -> bool:
        """Read the layout's row; whether there are other generations than before."""
        self._read_at = monotonic()
        row = await self._read_row()
        if row == self._row:
            return False
        layout = decode_layout(row)
        self._places = {number: self._places.get(number) or self._new(number) for number in layout.numbers}
        self.layout, self._row = layout, row
        return True

    async def find(self, multihash: bytes, elsewhere: Callable[[bytes], Awaitable[bytes | None]]) -> bytes | None:
        """An object in any generation, or the lasting place; or else what `elsewhere` knows of it."""
        if monotonic() - self._read_at > _FRESH_SECONDS:
            await self.follow()
        while True:
            # other look-ups may follow the layout while this one is under way
            row, began = self._row, monotonic()
            try:
                found = await self._find(multihash)
            except (SchemaMissing, StoreUnavailable):
                # a generation was dropped: a driver that cannot prepare a statement any more says that no host answers
                await self._follow_since(began)
                if row == self._row:
                    raise
                continue
            if found is None:
                # a head may lead to what a newer generation has: the layout is read after the question
                found, _ = await asyncio.gather(elsewhere(multihash), self._follow_since(began))
            if found is not None or row == self._row:
                return found

    async def _follow_since(self, moment: float) -> None:
        """Return once the layout has been read after a moment; look-ups that wait share one read."""
        async with self._following:
            if self._read_at <= moment:
                await self.follow()

    async def _find(self, multihash: bytes) -> bytes | None:
        """The current generation is asked first, then all others at once."""
        self.looks += 1
        found = await self.current.get(multihash)
        if found is not None:
            return found
        previous = self.previous
        if previous is None:
            self.looks += 1
            return await self.lasting.get(multihash)
        self.looks += 2
        older, lasting = await asyncio.gather(previous.get(multihash), self.lasting.get(multihash))
        return older if older is not None else lasting

    async def make(self, number: int) -> None:
        """Make the table of a generation. Errors: StoreUnavailable, Forbidden."""
        await asyncio.to_thread(schema.make_generation, self._address, number)
        self._places.setdefault(number, self._new(number))

    async def drop(self, number: int) -> None:
        """Drop the table of a generation. Errors: StoreUnavailable, Forbidden, StoreError (it is in use)."""
        if number in self.layout.numbers:
            raise StoreError(f"generation {number} of {self._address.url} is in use")
        await asyncio.to_thread(schema.drop_generation, self._address, number)

    async def numbers(self) -> list[int]:
        """The generations that have tables."""
        cql = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?"
        names = [str(row[0]) for row in await self._session.execute(cql, [self._address.keyspace])]
        return sorted(number for name in names if (number := schema.generation_of(name)) is not None)
