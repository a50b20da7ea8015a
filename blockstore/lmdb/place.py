"""The objects of one LMDB environment: a generation, or the lasting place.

A value is a byte of flags and the object's bytes, compressed where that makes a larger object clearly smaller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final

import lz4.block

from blockstore.errors import Missing, StoreError
from blockstore.lmdb.environment import MAX_KEY, OBJECTS, Environment
from blockstore.store import Held

LOOSE: Final = b"\0"
CLOSED: Final = b"\1"
#: beside them: the bytes are compressed
_PACKED: Final = 2
#: values from this size on are compressed: below it LZ4 saves next to nothing
_LARGE: Final = 256
#: objects written in one transaction; more goes into several
CHUNK: Final = 20_000


def items_behind(cursor: Any, after: bytes) -> Iterator[tuple[bytes, bytes]]:
    """What a cursor has behind a key (b"": everything), in order."""
    there = cursor.set_range(after) if after else cursor.first()
    if there and after and cursor.key() == after:
        there = cursor.next()
    while there:
        yield cursor.key(), cursor.value()
        there = cursor.next()


def packed(value: bytes) -> bytes:
    """The stored form of LOOSE or CLOSED and an object's bytes."""
    if len(value) < _LARGE:
        return value
    small = lz4.block.compress(value[1:])
    return bytes((value[0] | _PACKED,)) + small if len(small) < len(value) * 9 // 10 else value


def unpacked(value: bytes) -> bytes:
    """The object's bytes in a stored value. Errors: StoreError (they are damaged)."""
    if value[0] < _PACKED:
        return value[1:]
    try:
        return bytes(lz4.block.decompress(value[1:]))
    except (lz4.block.LZ4BlockError, ValueError, MemoryError) as error:
        raise StoreError(f"an object is damaged where it is stored: {error}; see `follower store check`") from None


def _unpacked_or_none(value: bytes) -> bytes | None:
    try:
        return unpacked(value)
    except StoreError:
        return None


class LmdbPlace:
    """A `Place` in an environment. `number`: of the generation, or LASTING. `bulk` leaves the syncing to `flush`."""

    def __init__(self, number: int, environment: Environment, *, bulk: bool) -> None:
        self.number = number
        self.environment = environment
        self.objects = environment.databases[OBJECTS]
        self._bulk = bulk

    def get(self, multihash: bytes) -> bytes | None:
        """The object; its multihash is not empty and not too long."""
        with self.environment.begin() as txn:
            value = txn.get(multihash, None, self.objects)
        return None if value is None else unpacked(value)

    def find(self, wanted: dict[bytes, None], found: dict[bytes, bytes]) -> None:
        """Move what is here of `wanted` to `found`, with its bytes."""
        with self.environment.begin() as txn:
            get, objects = txn.get, self.objects
            here = {multihash: value for multihash in wanted if (value := get(multihash, None, objects)) is not None}
        for multihash, value in here.items():
            found[multihash] = unpacked(value)
            del wanted[multihash]

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        found: dict[bytes, bytes] = {}
        self.find({one: None for one in multihashes if 0 < len(one) <= MAX_KEY}, found)
        return [found.get(one) for one in multihashes]

    async def held_many(self, multihashes: Sequence[bytes]) -> list[Held]:
        found = []
        with self.environment.begin(buffers=True) as txn:
            get, objects = txn.get, self.objects
            for multihash in multihashes:
                value = get(multihash, None, objects) if 0 < len(multihash) <= MAX_KEY else None
                found.append(Held.ABSENT if value is None else Held.CLOSED if value[0] & 1 else Held.LOOSE)
        return found

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        flag = CLOSED if closed else LOOSE
        source: Iterator[tuple[bytes, bytes]] = iter(objects)
        while chunk := list(islice(source, CHUNK)):
            await self.environment.write(partial(self._put, chunk=chunk, flag=flag))
        await self._sync()

    def _put(self, txn: Any, chunk: list[tuple[bytes, bytes]], flag: bytes) -> None:
        chunk.sort()
        items = [(multihash, packed(flag + data)) for multihash, data in chunk]
        cursor = txn.cursor(self.objects)
        # a loose put never undoes a closed one; a closed one replaces whatever stands there
        cursor.putmulti(items, overwrite=flag is CLOSED)

    async def mark_closed(self, multihashes: Sequence[bytes]) -> None:
        for start in range(0, len(multihashes), CHUNK):
            await self.environment.write(partial(self._mark, multihashes=sorted(multihashes[start : start + CHUNK])))
        await self._sync()

    def _mark(self, txn: Any, multihashes: list[bytes]) -> None:
        for multihash in multihashes:
            value = txn.get(multihash, db=self.objects)
            if value is None:
                raise Missing(multihash)
            if not value[0] & 1:
                txn.put(multihash, bytes((value[0] | 1,)) + value[1:], db=self.objects)

    async def load(self, closed: Iterable[tuple[bytes, bytes]], loose: Iterable[tuple[bytes, bytes]]) -> None:
        """Store objects of both kinds in one transaction; what is held stays as it is.

        In LMDB's tree the keys of a batch are scattered over all leaves. One sorted pass over both kinds touches each
        page once, and one commit writes it once; as two calls in smaller transactions it would cost about twice that.
        """
        items = [(multihash, packed(CLOSED + data)) for multihash, data in closed]
        items += [(multihash, packed(LOOSE + data)) for multihash, data in loose]
        items.sort()
        # one that is loose is closed by the import's last pass, like any other object
        await self.environment.write(lambda txn: txn.cursor(self.objects).putmulti(items, overwrite=False))
        await self._sync()

    async def replace(self, objects: Sequence[tuple[bytes, bytes, bool]]) -> None:
        """Write (multihash, bytes, closed) over what stands there."""
        items = sorted((multihash, packed((CLOSED if closed else LOOSE) + data)) for multihash, data, closed in objects)
        await self.environment.write(lambda txn: txn.cursor(self.objects).putmulti(items))
        await self._sync()

    def page(self, after: bytes, size: int, most_bytes: int) -> list[tuple[bytes, bytes | None, bool]]:
        """(multihash, bytes, closed) of the next objects behind `after`, in order: `size` of them, or fewer when they
        come to `most_bytes`. The bytes are None where they are damaged so that they cannot be read."""
        found: list[tuple[bytes, bytes | None, bool]] = []
        read = 0
        with self.environment.begin() as txn, txn.cursor(self.objects) as cursor:
            for key, value in items_behind(cursor, after):
                found.append((key, _unpacked_or_none(value), bool(value[0] & 1)))
                read += len(value)
                if len(found) >= size or read >= most_bytes:
                    break
        return found

    def size(self) -> tuple[int, int]:
        """(objects, bytes of the environment's file)."""
        with self.environment.begin() as txn:
            objects = txn.stat(self.objects)["entries"]
        env = self.environment.env
        return objects, (env.info()["last_pgno"] + 1) * env.stat()["psize"]

    async def _sync(self) -> None:
        if not self._bulk:
            # does nothing unless an importer in this process opened the same store in bulk
            await self.environment.flush()
