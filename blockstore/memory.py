"""The store in memory: the contract in its simplest form. For tests and simulated nodes."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field

from blockstore.errors import Fenced, Missing
from blockstore.store import Batch, HeadEntry, Held, Table


@dataclass(slots=True)
class _Partition:
    """Rows of one partition, with their keys kept in order."""

    rows: dict[bytes, bytes] = field(default_factory=dict)
    keys: list[bytes] = field(default_factory=list)

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.rows:
            insort(self.keys, key)
        self.rows[key] = value

    def delete(self, key: bytes) -> None:
        if self.rows.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]


class MemoryStore:
    """A Store whose whole content is lost with the process."""

    def __init__(self, name: str = "") -> None:
        self.url = f"memory://{name}"
        self._objects: MutableMapping[bytes, bytes] = {}
        self._closed: set[bytes] = set()
        self._rows: dict[tuple[str, bytes], _Partition] = {}
        self._heads: list[HeadEntry] = []
        self._term = 0
        self._bytes = 0

    async def close(self) -> None:
        """There is nothing to close."""

    async def get(self, multihash: bytes) -> bytes | None:
        return self._objects.get(multihash)

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        return [self._objects.get(multihash) for multihash in multihashes]

    async def held_many(self, multihashes: Sequence[bytes]) -> list[Held]:
        return [
            Held.CLOSED if mh in self._closed else Held.LOOSE if mh in self._objects else Held.ABSENT
            for mh in multihashes
        ]

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        for multihash, data in objects:
            if multihash not in self._objects:
                self._objects[multihash] = bytes(data)
                self._bytes += len(data)
            if closed:
                self._closed.add(multihash)

    async def close_many(self, multihashes: Sequence[bytes]) -> None:
        for multihash in multihashes:
            if multihash not in self._objects:
                raise Missing(multihash)
        self._closed.update(multihashes)

    async def row(self, table: Table, partition: bytes, key: bytes) -> bytes | None:
        found = self._rows.get((table.name, partition))
        return None if found is None else found.rows.get(key)

    async def rows(self, table: Table, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        return [await self.row(table, partition, key) for partition, key in keys]

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
        found = self._rows.get((table.name, partition))
        if found is None:
            return []
        first = bisect_left(found.keys, start)
        behind = len(found.keys) if end is None else bisect_left(found.keys, end)
        keys = found.keys[max(first, behind - limit) : behind][::-1] if reverse else found.keys[first:behind][:limit]
        return [(key, found.rows[key]) for key in keys]

    async def write(self, batch: Batch) -> None:
        for table, partition, key in batch.deletes:
            found = self._rows.get((table.name, partition))
            if found is not None:
                found.delete(key)
        for table, partition, key, value in batch.puts:
            self._rows.setdefault((table.name, partition), _Partition()).put(key, value)

    async def swap(
        self, table: Table, partition: bytes, key: bytes, expected: bytes | None, value: bytes | None
    ) -> bool:
        found = self._rows.setdefault((table.name, partition), _Partition())
        if found.rows.get(key) != expected:
            return False
        if value is None:
            found.delete(key)
        else:
            found.put(key, value)
        return True

    async def new_term(self, owner: str, after: int | None = None) -> int:
        if after is not None and after != self._term:
            raise Fenced(f"term {self._term} has begun meanwhile, after term {after}")
        self._term += 1
        return self._term

    async def append_head(self, entry: HeadEntry) -> None:
        last = self._heads[-1].seq if self._heads else 0
        if entry.term != self._term or entry.seq != last + 1:
            raise Fenced(f"entry {entry.seq} of term {entry.term}: the log is at {last}, term {self._term}")
        self._heads.append(entry)

    async def head(self) -> HeadEntry | None:
        return self._heads[-1] if self._heads else None

    def newest_seq(self) -> int:
        """The sequence number of the newest visible entry; 0 in a store that was never published to."""
        return self._heads[-1].seq if self._heads else 0

    async def head_entries(self, after: int, limit: int = 1000) -> list[HeadEntry]:
        at = bisect_left(self._heads, after + 1, key=lambda entry: entry.seq)
        return self._heads[at : at + limit]

    async def trim_head_log(self, keep: int) -> None:
        del self._heads[: max(0, len(self._heads) - max(1, keep))]

    async def stats(self) -> dict[str, int]:
        return {"objects": len(self._objects), "bytes": self._bytes}
