"""The objects in one Cassandra table: a generation, or the lasting place. Large ones stand in parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from blockstore.cassandra.session import Session, burst
from blockstore.cassandra.values import MAX_CELL, cut, is_cut, joined, pack, parts_of, unpack
from blockstore.store import Held

#: Cassandra has no empty partition key, and none over 64 KiB; no multihash is so long
MAX_KEY: Final = 0xFFF0


def may_be_held(multihash: bytes) -> bool:
    """Whether a multihash can be a key."""
    return 0 < len(multihash) <= MAX_KEY


async def whole_value(session: Session, cql: str, value: bytes) -> bytes:
    """A value that may be cut, in one piece: its parts are read by key with `cql`. Errors: Missing."""
    if not is_cut(value):
        return value
    found = await burst(lambda part: session.execute(cql, [part]), parts_of(value))
    return joined(value, [rows[0][0] if rows else None for rows in found])


async def put_value(session: Session, put_cql: str, part_cql: str, key: bytes, value: bytes) -> None:
    """Write a packed value under `key`; one that is too large in parts, which are durable before it."""
    if len(value) > MAX_CELL:
        value = await put_parts(session, part_cql, key, value)
    await session.execute(put_cql, [key, value])


async def put_parts(session: Session, part_cql: str, base: bytes, value: bytes) -> bytes:
    """Write the parts of a large value; what to write in its place when they are durable."""
    header, parts = cut(base, value)
    await burst(lambda part: session.execute(part_cql, list(part)), parts)
    return header


class CassandraPlace:
    """A `Place` in the table `name` of columns m (multihash), d (value), c (closed)."""

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self.name = name
        self.get_cql = f"SELECT d FROM {name} WHERE m = ?"
        self.put_cql = f"INSERT INTO {name} (m, d) VALUES (?, ?)"
        self._held_cql = f"SELECT m, c FROM {name} WHERE m = ?"
        self._put_closed_cql = f"INSERT INTO {name} (m, d, c) VALUES (?, ?, true)"
        self._close_cql = f"UPDATE {name} SET c = true WHERE m = ?"

    async def get(self, multihash: bytes) -> bytes | None:
        """The object. Errors: Missing (a part of it), StoreUnavailable."""
        rows = await self._session.execute(self.get_cql, [bytes(multihash)])
        return unpack(await whole_value(self._session, self.get_cql, rows[0][0])) if rows else None

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        return await burst(self._get_one, multihashes)

    async def _get_one(self, multihash: bytes) -> bytes | None:
        return await self.get(multihash) if may_be_held(multihash) else None

    async def held_many(self, multihashes: Sequence[bytes]) -> list[Held]:
        return await burst(self._held_one, multihashes)

    async def _held_one(self, multihash: bytes) -> Held:
        if not may_be_held(multihash):
            return Held.ABSENT
        rows = await self._session.execute(self._held_cql, [bytes(multihash)])
        return (Held.CLOSED if rows[0][1] else Held.LOOSE) if rows else Held.ABSENT

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        if not closed:
            await self._put_all(self.put_cql, objects)
            return
        pairs = list(objects)
        if len(pairs) == 1:
            await self.put_closed(pairs)
            return
        # one may link to another: none is marked as closed before all are durable
        await self._put_all(self.put_cql, pairs)
        await self.mark_closed([pair[0] for pair in pairs])

    async def put_closed(self, objects: Iterable[tuple[bytes, bytes]]) -> None:
        """Store closed objects in any order, one statement each. What they link to is durable already."""
        await self._put_all(self._put_closed_cql, objects)

    async def mark_closed(self, multihashes: Iterable[bytes]) -> None:
        await self._session.write_many(self._close_cql, ([bytes(one)] for one in dict.fromkeys(multihashes)))

    async def _put_all(self, cql: str, objects: Iterable[tuple[bytes, bytes]]) -> None:
        large: list[tuple[bytes, bytes]] = []

        def rows() -> Iterator[list[Any]]:
            for multihash, data in objects:
                value = pack(data)
                if len(value) > MAX_CELL:
                    large.append((bytes(multihash), value))
                else:
                    yield [bytes(multihash), value]

        await self._session.write_many(cql, rows())
        await burst(lambda pair: put_value(self._session, cql, self.put_cql, *pair), large)
