"""Objects of a played node on disk, for chains that do not fit into memory. What is held goes with the folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Final

import lmdb

from blockstore.cid import Cid
from blockstore.store import Held
from chain.errors import BadRequest
from devnode.faults import Faults, FaultyStore

#: room of addresses for the file; the file has the size of what it holds
_MAP_SIZE: Final = 1 << 40
#: objects that wait in memory before they are written
_BATCH: Final = 20_000


class DiskObjects(MutableMapping[bytes, bytes]):
    """Objects by multihash in a file of a folder. One thread may write while others read. Nothing is synced.

    Errors: OSError and lmdb.Error, when the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._environment = lmdb.open(
            str(folder), map_size=_MAP_SIZE, sync=False, metasync=False, readahead=False, max_readers=32
        )
        self._recent: dict[bytes, bytes] = {}
        self._flushed: dict[bytes, bytes] = {}
        #: bytes of the objects that were new
        self.size = 0

    def __getitem__(self, multihash: bytes) -> bytes:
        found = self._recent.get(multihash)
        if found is None:
            found = self._flushed.get(multihash)
        if found is None:
            with self._environment.begin() as txn:
                found = txn.get(multihash)
        if found is None:
            raise KeyError(multihash)
        return bytes(found)

    def __setitem__(self, multihash: bytes, data: bytes) -> None:
        if multihash in self._recent:
            return
        self._recent[multihash] = data
        self.size += len(data)
        if len(self._recent) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what waits in memory."""
        # a reader finds each object in one of the three places at any moment
        self._flushed, self._recent = self._recent, {}
        with self._environment.begin(write=True) as txn:
            for multihash in sorted(self._flushed):
                data = self._flushed[multihash]
                if not txn.put(multihash, data, overwrite=False):
                    self.size -= len(data)
        self._flushed = {}

    def __delitem__(self, multihash: bytes) -> None:
        raise TypeError("objects of a played node are never removed")

    def __iter__(self) -> Iterator[bytes]:
        self.flush()
        with self._environment.begin() as txn:
            yield from txn.cursor().iternext(values=False)

    def __len__(self) -> int:
        self.flush()
        return int(self._environment.stat()["entries"])

    def close(self) -> None:
        """Close the file; what waits in memory is lost."""
        self._environment.close()


class DiskStore(FaultyStore):
    """A `FaultyStore` whose objects are on disk; each is closed when it is stored. Rows and heads stay in memory."""

    def __init__(self, name: str, faults: Faults, folder: Path) -> None:
        super().__init__(name, faults)
        self._objects = self._on_disk = DiskObjects(folder)

    @property
    def size(self) -> int:
        """Bytes of objects held."""
        return self._on_disk.size

    def put(self, cid: Cid, data: bytes) -> None:
        """Store an object; from any thread, but from one at a time."""
        self._on_disk[cid.multihash] = data

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        """Store objects. Errors: BadRequest, when they are loose."""
        if not closed:
            raise BadRequest("a played node on disk holds closed objects only")
        # a set of all keys would take as much memory as the objects
        await super().put_many(objects, closed=False)

    async def held_many(self, multihashes: Sequence[bytes]) -> list[Held]:
        """How each is held; what is lacked is absent."""
        found = await super().held_many(multihashes)
        return [Held.CLOSED if held is Held.LOOSE else held for held in found]

    async def close(self) -> None:
        """Close the file."""
        self._on_disk.close()
