"""The embedded store: LMDB, several processes on one machine, one bridge that writes and N followers that read.

Rows and lasting objects are in the directory's own environment, each generation of objects in one of its own below it
(`generation-1`, …). Every read begins a transaction of its own (about a microsecond), so it sees all that was committed
before it. A commit is on disk when the call returns, so neither kill -9 nor a power cut loses what was acknowledged.
`bulk=True` (imports) leaves the syncing to `append_head` and `flush`: kill -9 still loses nothing, a power cut may cost
the whole store.
"""

from __future__ import annotations

import asyncio
import shutil
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from blockstore.errors import Fenced, SchemaMismatch, StoreError, StoreUnavailable
from blockstore.generations import LASTING, LAYOUT_KEY, Layout, close_in, decode_layout, held_for
from blockstore.head_log import decode_entry, encode_entry, seq_key
from blockstore.lmdb.environment import (
    DATA_FILE,
    DEFAULT_MAP_SIZE,
    MAX_KEY,
    MIGRATING,
    OBJECTS,
    SCHEMA_KEY,
    acquire,
    check_schema,
    release,
    table_key,
)
from blockstore.lmdb.place import LmdbPlace
from blockstore.store import HEAD_LOG, LEASE, META, TABLES, Batch, HeadEntry, Held, Table

T = TypeVar("T")

_TERM_KEY: Final = b"\0term"
_NAMES: Final = [OBJECTS, *(name.encode() for name in TABLES)]
_GENERATION: Final = "generation-"
#: seconds between two looks whether there are other generations; a reader keeps the files of a dropped one so long
_LAYOUT_SECONDS: Final = 5.0


def generation_path(path: Path, number: int) -> Path:
    """The directory of a generation of the store at `path`."""
    return path / f"{_GENERATION}{number}"


class LmdbStore:
    """A Store in one directory, with generations. Made by `open`; see the module for what is durable when."""

    def __init__(self, path: Path, map_size: int, *, bulk: bool = False, readonly: bool = False) -> None:
        self.url = f"lmdb://{path}"
        self.looks = 0
        self._path = path
        self._map_size = map_size
        self._readonly = readonly
        self._bulk = bulk
        self._closed = True
        if (path / MIGRATING).exists() and not (path / DATA_FILE).exists():
            raise SchemaMismatch(f"a migration of {self.url} was stopped: run `follower store migrate` again")
        self._shared = acquire(path, _NAMES, map_size=map_size, readonly=readonly, sync=not bulk)
        #: a store that is read only, and older than a table, lacks it: it has no rows
        self._tables = {name.decode(): database for name, database in self._shared.databases.items()}
        self._lasting = LmdbPlace(LASTING, self._shared, bulk=bulk)
        #: by number, those of the layout; and these with the lasting place in the order in which readers look
        self._generations: dict[int, LmdbPlace] = {}
        self._places: tuple[LmdbPlace, ...] = ()
        self._layout_row: bytes | None = None
        self._layout = Layout()
        try:
            if readonly:
                with self._shared.begin() as txn:
                    check_schema(txn.get(table_key(b"", SCHEMA_KEY), db=self._tables[META.name]), path)
            self._follow_layout(first=True)
        except BaseException:
            self._release_all()
            raise
        self._closed = False
        self._timer = _follow_layout_by_time(self)
        #: the term that this object has begun; 0: none
        self._term = 0
        self._head: HeadEntry | None = None
        #: the newest transaction at the last look at the head log, and the newest entry then
        self._seen = -1, 0

    @classmethod
    async def open(
        cls, path: Path, *, readonly: bool = False, map_size: int = DEFAULT_MAP_SIZE, bulk: bool = False
    ) -> LmdbStore:
        """Errors: StoreUnavailable (not made yet, no access), SchemaMismatch."""
        return cls(path.absolute(), map_size, bulk=bulk, readonly=readonly)  # noqa: ASYNC240  (no I/O)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._timer.cancel()
        if not self._readonly:
            await self.flush()
        self._release_all()

    def _release_all(self) -> None:
        for place in self._generations.values():
            release(place.environment)
        release(self._shared)

    # --- generations -------------------------------------------------------------------------------

    @property
    def current_generation(self) -> int:
        return self._layout.current

    async def layout(self) -> Layout:
        self._follow_layout()
        return self._layout

    def _follow_layout(self, *, first: bool = False) -> bool:
        """Read the layout's row; whether there are other generations than before. Errors: StoreUnavailable."""
        with self._shared.begin() as txn:
            row = txn.get(table_key(b"", LAYOUT_KEY), db=self._tables[META.name])
        # compared as it is: each look-up that finds nothing asks
        if row == self._layout_row and not first and self._layout.current in self._generations:
            return False
        layout = decode_layout(row)
        wanted = layout.held if self._readonly else layout.numbers
        for number in wanted:
            if number in self._generations:
                continue
            is_there = (generation_path(self._path, number) / DATA_FILE).exists()
            if not is_there and number != layout.next:
                if row is not None:
                    raise StoreUnavailable(f"{self.url} lacks its generation {number}")
                if self._readonly:
                    continue  # the first one is made by whoever writes
            self._generations[number] = self._open_generation(number)
        held = [number for number in layout.held if number in self._generations]
        self._places = (*(self._generations[number] for number in held), self._lasting)
        for number in [number for number in self._generations if number not in wanted]:
            release(self._generations.pop(number).environment)
        changed = row != self._layout_row or layout.current in self._generations
        self._layout, self._layout_row = layout, row
        return changed

    def _open_generation(self, number: int) -> LmdbPlace:
        path = generation_path(self._path, number)
        environment = acquire(path, [OBJECTS], map_size=self._map_size, readonly=self._readonly, sync=not self._bulk)
        return LmdbPlace(number, environment, bulk=self._bulk)

    def _current(self) -> LmdbPlace:
        if self._closed:
            raise StoreUnavailable(f"{self.url} is closed")
        # who reads a store of the older schema finds no generation yet
        return self._generations.get(self._layout.current, self._lasting)

    def place(self, number: int) -> LmdbPlace:
        return self._lasting if number == LASTING else self._generations[number]

    async def make_generation(self, number: int) -> None:
        self._check_writable()
        if number not in self._generations:
            self._generations[number] = self._open_generation(number)

    async def drop_generation(self, number: int) -> None:
        self._check_writable()
        if number in self._layout.numbers:
            raise StoreError(f"generation {number} of {self.url} is in use")
        place = self._generations.pop(number, None)
        if place is not None:
            release(place.environment)
        # others that have it open keep what they see until they notice
        await asyncio.to_thread(shutil.rmtree, generation_path(self._path, number), True)

    async def generations(self) -> list[int]:
        names = [path.name.removeprefix(_GENERATION) for path in self._path.glob(f"{_GENERATION}*")]
        return sorted(int(name) for name in names if name.isdigit())

    async def drop_partitions(self, table: Table, partitions: Sequence[bytes]) -> None:
        prefixes = sorted(table_key(partition, b"") for partition in partitions)

        def drop(txn: Any) -> None:
            self._check_term(txn)
            with txn.cursor(self._tables[table.name]) as cursor:
                for prefix in prefixes:
                    there = cursor.set_range(prefix)
                    while there and cursor.key()[: len(prefix)] == prefix:
                        there = cursor.delete()

        await self._write(drop)

    # --- objects -----------------------------------------------------------------------------------

    async def get(self, multihash: bytes) -> bytes | None:
        if self._closed:
            raise StoreUnavailable(f"{self.url} is closed")
        if not 0 < len(multihash) <= MAX_KEY:
            return None
        while True:
            for place in self._places:
                self.looks += 1
                found = place.get(multihash)
                if found is not None:
                    return found
            if not self._follow_layout():
                return None

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        if self._closed:
            raise StoreUnavailable(f"{self.url} is closed")
        wanted = {one: None for one in multihashes if 0 < len(one) <= MAX_KEY}
        found: dict[bytes, bytes] = {}
        while wanted:
            for place in self._places:
                self.looks += len(wanted)
                place.find(wanted, found)
                if not wanted:
                    break
            if wanted and not self._follow_layout():
                break
        return [found.get(one) for one in multihashes]

    async def held_many(self, multihashes: Sequence[bytes]) -> list[Held]:
        current = self._current()
        return await held_for(current, self._lasting, self._held_elsewhere, multihashes)

    async def _held_elsewhere(self, multihashes: Sequence[bytes]) -> list[Held]:
        """Whether objects are in the previous generation: loose there, whatever they are."""
        previous = [place for place in self._places[1:] if place is not self._lasting]
        if not previous:
            return [Held.ABSENT] * len(multihashes)
        return await previous[0].held_many(multihashes)

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        self._check_writable()
        await self._current().put_many(objects, closed=closed)

    async def close_many(self, multihashes: Sequence[bytes]) -> None:
        self._check_writable()
        await close_in(self._current(), self.get_many, multihashes)

    async def load(self, closed: Iterable[tuple[bytes, bytes]], loose: Iterable[tuple[bytes, bytes]]) -> None:
        """Store objects of both kinds in one transaction; what is held stays as it is. For imports."""
        self._check_writable()
        await self._current().load(closed, loose)

    # --- rows --------------------------------------------------------------------------------------

    async def row(self, table: Table, partition: bytes, key: bytes) -> bytes | None:
        database = self._tables.get(table.name)
        if database is None:
            return None
        with self._begin() as txn:
            value: bytes | None = txn.get(table_key(partition, key), db=database)
        return value

    async def rows(self, table: Table, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        database = self._tables.get(table.name)
        if database is None:
            return [None] * len(keys)
        with self._begin() as txn:
            return [txn.get(table_key(partition, key), db=database) for partition, key in keys]

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
        prefix = table_key(partition, b"")
        first = (prefix + start)[:MAX_KEY]
        # behind every key of the partition: no key can be longer than the limit
        behind = prefix + (b"\xff" * (MAX_KEY - len(prefix)) if end is None else end)
        found: list[tuple[bytes, bytes]] = []
        database = self._tables.get(table.name)
        if database is None:
            return found
        with self._begin() as txn, txn.cursor(database) as cursor:
            if reverse:
                there = cursor.prev() if cursor.set_range(behind) else cursor.last()
                while there and len(found) < limit and (at := cursor.key()) >= first:
                    found.append((at[len(prefix) :], cursor.value()))
                    there = cursor.prev()
            else:
                there = cursor.set_range(first)
                while there and len(found) < limit and (at := cursor.key()) < behind:
                    found.append((at[len(prefix) :], cursor.value()))
                    there = cursor.next()
        return found

    async def write(self, batch: Batch) -> None:
        await self._write(lambda txn: self._apply(txn, batch))

    def _apply(self, txn: Any, batch: Batch) -> None:
        self._check_term(txn)
        for table, partition, key in batch.deletes:
            txn.delete(table_key(partition, key), db=self._tables[table.name])
        for table, partition, key, value in batch.puts:
            txn.put(table_key(partition, key), value, db=self._tables[table.name])

    def _check_term(self, txn: Any) -> None:
        if self._term and self._term != (term := self._current_term(txn)):
            raise Fenced(f"rows of term {self._term} are not written: the term is {term}")

    async def swap(
        self, table: Table, partition: bytes, key: bytes, expected: bytes | None, value: bytes | None
    ) -> bool:
        database, at = self._tables[table.name], table_key(partition, key)

        def compare(txn: Any) -> bool:
            if txn.get(at, db=database) != expected:
                return False
            if value is None:
                txn.delete(at, db=database)
            else:
                txn.put(at, value, db=database)
            return True

        return await self._write(compare)

    # --- head log ----------------------------------------------------------------------------------

    async def new_term(self, owner: str, after: int | None = None) -> int:
        def begin(txn: Any) -> int:
            term = self._current_term(txn) + 1
            if after is not None and after != term - 1:
                raise Fenced(f"term {term - 1} has begun meanwhile, after term {after}")
            txn.put(table_key(b"", _TERM_KEY), term.to_bytes(8, "big") + owner.encode(), db=self._tables[LEASE.name])
            return term

        self._term = await self._write(begin)
        return self._term

    def _current_term(self, txn: Any) -> int:
        value = txn.get(table_key(b"", _TERM_KEY), db=self._tables[LEASE.name])
        return int.from_bytes(value[:8], "big") if value else 0

    async def append_head(self, entry: HeadEntry) -> None:
        def append(txn: Any) -> None:
            term = self._current_term(txn)
            with txn.cursor(self._tables[HEAD_LOG.name]) as cursor:
                last = int.from_bytes(cursor.key()[-8:], "big") if cursor.last() else 0
            if entry.term != term or entry.seq != last + 1:
                raise Fenced(f"entry {entry.seq} of term {entry.term} cannot follow entry {last}: the term is {term}")
            key = table_key(b"", seq_key(entry.seq))
            txn.put(key, encode_entry(entry), db=self._tables[HEAD_LOG.name])

        if self._bulk:
            # what the head names is on disk before the head is
            await self.flush()
        await self._write(append)
        await self.flush()

    async def head(self) -> HeadEntry | None:
        with self._begin() as txn, txn.cursor(self._tables[HEAD_LOG.name]) as cursor:
            if not cursor.last():
                return None
            seq = int.from_bytes(cursor.key()[-8:], "big")
            head = self._head
            if head is not None and head.seq == seq:
                return head
            head = self._head = decode_entry(cursor.value())
        return head

    def newest_seq(self) -> int:
        """The sequence number of the newest visible entry, read at once; 0 in a store that was never published to."""
        # of each kept answer that follows the head this is the only read, so it takes no call that it can do without
        txn = self._begin()
        try:
            # nothing was written since the last look where the number of the newest transaction is the same
            number = txn.id()
            if number != self._seen[0]:
                with txn.cursor(self._tables[HEAD_LOG.name]) as cursor:
                    self._seen = number, int.from_bytes(cursor.key()[-8:], "big") if cursor.last() else 0
        finally:
            txn.abort()
        return self._seen[1]

    async def head_entries(self, after: int, limit: int = 1000) -> list[HeadEntry]:
        rows = await self.scan(HEAD_LOG, b"", start=seq_key(after + 1), limit=limit)
        return [decode_entry(value) for _, value in rows]

    async def trim_head_log(self, keep: int) -> None:
        def trim(txn: Any) -> None:
            database = self._tables[HEAD_LOG.name]
            with txn.cursor(database) as cursor:
                if not cursor.last():
                    return
                oldest = int.from_bytes(cursor.key()[-8:], "big") - max(1, keep)
                there = cursor.first()
                while there and int.from_bytes(cursor.key()[-8:], "big") <= oldest:
                    there = cursor.delete()

        await self._write(trim)

    # --- whole store -------------------------------------------------------------------------------

    async def stats(self) -> dict[str, int]:
        sizes = [place.size() for place in self._places]
        return {
            "objects": sum(objects for objects, _ in sizes),
            "bytes": sum(size for _, size in sizes),
            "generations": len(self._generations),
        }

    async def flush(self) -> None:
        """Everything written so far is on disk when this returns; only `bulk` stores need it."""
        for place in (*self._generations.values(), self._lasting):
            await place.environment.flush()

    # --- within ------------------------------------------------------------------------------------

    def _begin(self) -> Any:
        if self._closed:
            raise StoreUnavailable(f"{self.url} is closed")
        return self._shared.begin()

    def _check_writable(self) -> None:
        if self._closed or self._readonly:
            raise StoreUnavailable(f"{self.url} is {'closed' if self._closed else 'open read-only'}")

    async def _write(self, work: Callable[[Any], T]) -> T:
        self._check_writable()
        result = await self._shared.write(work)
        if not self._bulk:
            await self._shared.flush()  # does nothing unless an importer in this process opened the same store in bulk
        return result


def _follow_layout_by_time(store: LmdbStore) -> asyncio.TimerHandle:
    """Look every few seconds whether a generation was dropped, so that a process which reads little frees its files."""
    loop, known = asyncio.get_running_loop(), weakref.ref(store)

    def look() -> None:
        found = known()
        if found is None or found._closed:
            return
        with suppress(StoreUnavailable):
            # whoever reads next is told
            found._follow_layout()
        found._timer = loop.call_later(_LAYOUT_SECONDS, look)

    return loop.call_later(_LAYOUT_SECONDS, look)
