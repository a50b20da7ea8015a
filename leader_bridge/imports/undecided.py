"""Leaves out of a store what its policy would drop at once: older states and messages of an imported file.

Which objects are too old is known only when the head's epoch is known, and an object may belong to old and new states
alike. So objects are divided as they come:

* Headers always go into the store.
* Exports go from the head downwards. As long as no header below the policy's epochs has come, the rest goes into the
  store, too.
* From then on (and before the head's header has come), the rest is *undecided*: it goes into an LMDB environment
  beside the store. The last pass of the import walks from the headers within the policy, and takes what it reaches
  into the store. What it does not reach is deleted with the environment.

So the file is read once, and a usual snapshot, which ends within the policy, is not copied at all.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blockstore.bulk_load import load_objects
from blockstore.car.batches import Chunk
from blockstore.car.closed_order import Pairs
from blockstore.cid import Cid
from blockstore.lmdb.store import LmdbStore
from blockstore.scan import object_pages
from blockstore.store import META, Batch, Held, Store
from chain.errors import BadObject
from chain.ipld.dag_cbor import decode
from leader_bridge.retention.policy import Policy

_FINGERPRINT: Final = b"import_fingerprint"
_HEADER_FIELDS: Final = 16
#: how an array of 16 items begins
_HEADER_BEGINS: Final = b"\x90"
_CBOR: Final = b"\x01\x71"
#: objects taken over in one transaction
_TAKEN: Final = 20_000


@dataclass(frozen=True, slots=True)
class _Header:
    """What is needed of a block header: its epoch, and the roots that it names."""

    height: int
    state: Cid
    receipts: Cid
    messages: Cid


def read_header(data: bytes) -> _Header | None:
    """The header that an object is; None for another object."""
    if data[:1] != _HEADER_BEGINS:
        return None
    try:
        fields = decode(data)
        if len(fields) == _HEADER_FIELDS and type(fields[7]) is int and isinstance(fields[5], list):
            return _Header(fields[7], *(Cid(link) for link in fields[8:11]))
    except (BadObject, TypeError, ValueError, IndexError):
        pass
    return None


class Epochs:
    """The lowest epochs that a policy keeps below the head epoch `head`. The genesis is always kept: circulating supply
    is computed from its state."""

    def __init__(self, policy: Policy, head: int) -> None:
        self._state = policy.lowest_state(head)
        self._messages = policy.lowest_messages(head)
        self._indices = policy.lowest_indices(head)

    @property
    def lowest_whole(self) -> int:
        """The lowest epoch from which everything is kept."""
        return max(self._state, self._messages)

    def keeps_state(self, height: int) -> bool:
        """Whether the state of an epoch is kept."""
        return height >= self._state or not height

    def keeps_messages(self, height: int) -> bool:
        """Whether the messages and receipts of an epoch are kept."""
        return height >= self._messages or not height

    def keeps_indices(self, height: int) -> bool:
        """Whether the index rows of an epoch are kept."""
        return height >= self._indices or not height


class Undecided:
    """The undecided objects of one import, in `folder` (None: a temporary one, which a killed import loses)."""

    def __init__(self, store: Store, policy: Policy, folder: Path | None) -> None:
        self._store = store
        self._policy = policy
        self._made = None if folder is not None else tempfile.TemporaryDirectory(prefix="import-")
        self._folder = folder if folder is not None else Path(self._made.name if self._made else "")
        self._file: LmdbStore | None = None
        #: multihashes of the blocks at the file's head
        self.head: frozenset[bytes] = frozenset()
        #: the highest epoch known, -1 where neither the store nor the file has told one
        self.head_height = -1
        #: whether the file's own head has come
        self.is_head_seen = False
        #: whether a header below the policy has come
        self.is_below = False
        #: whether anything is undecided
        self.is_used = False
        self._taken: tuple[Pairs, Pairs] = ([], [])

    @property
    def epochs(self) -> Epochs:
        """What the policy keeps. Known when the head is."""
        return Epochs(self._policy, self.head_height)

    async def resume(self, fingerprint: str, *, is_used: bool) -> bool:
        """Go on with what an earlier run of the same import has put aside. False: it is not there any more."""
        if is_used:
            if not (self._folder / "data.mdb").exists():
                return False
            file = await self._opened()
            if await file.row(META, b"", _FINGERPRINT) != fingerprint.encode():
                await self.remove()
                return False
            self.is_used = True
        else:
            await self.remove()
        return True

    async def _opened(self) -> LmdbStore:
        if self._file is None:
            self._file = await LmdbStore.open(self._folder, bulk=True)
        return self._file

    async def close(self) -> None:
        """Close the environment. It stays for another run."""
        if self._file is not None:
            await self._file.close()
            self._file = None
        if self._made is not None:
            self._made.cleanup()

    async def remove(self) -> None:
        """Delete what is still undecided: the policy drops it."""
        if self._file is not None:
            await self._file.close()
            self._file = None
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self.is_used = False

    # --- reading the file --------------------------------------------------------------------------

    async def divide(self, chunk: Chunk, fingerprint: str) -> tuple[list[Pairs], Pairs]:
        """What of a chunk goes into the store now: closed levels, and loose objects. The rest is put aside.

        Errors: StoreError.
        """
        loose = [*chunk.others, *(pair for level in chunk.levels for pair in level)]
        headers = [(pair, header) for pair in loose if (header := read_header(pair[1])) is not None]
        for (multihash, _), header in headers:
            if multihash in self.head:
                self.is_head_seen = True
                self.head_height = max(self.head_height, header.height)
        if self.is_head_seen:
            lowest = self.epochs.lowest_whole
            self.is_below = self.is_below or any(header.height < lowest for _, header in headers)
            if not self.is_below:
                return [chunk.leaves, *chunk.levels], chunk.others
        file = await self._opened()
        if not self.is_used:
            batch = Batch()
            batch.put(META, b"", _FINGERPRINT, fingerprint.encode())
            await file.write(batch)
            self.is_used = True
        # a header stands among the undecided too: blocks that were reverted are found there
        await load_objects(file, [chunk.leaves], loose)
        return [], [pair for pair, _ in headers]

    # --- the last pass: what `Closer` asks of a store -----------------------------------------------

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        """The objects; one that is undecided is taken into the store, for a walk has reached it."""
        found = await self._store.get_many(multihashes)
        absent = [multihash for multihash, data in zip(multihashes, found, strict=True) if data is None]
        if not absent or not self.is_used:
            return found
        aside = dict(zip(absent, await (await self._opened()).get_many(absent), strict=True))
        self._taken[1].extend((multihash, data) for multihash, data in aside.items() if data is not None)
        return [
            aside.get(multihash) if data is None else data for multihash, data in zip(multihashes, found, strict=True)
        ]

    async def held_many(self, multihashes: Sequence[bytes]) -> list[Held]:
        """How each object is held here or aside. An undecided leaf is taken into the store: a walk has reached it."""
        held = await self._store.held_many(multihashes)
        absent = [multihash for multihash, one in zip(multihashes, held, strict=True) if one == Held.ABSENT]
        if not absent or not self.is_used:
            return held
        file = await self._opened()
        aside = dict(zip(absent, await file.held_many(absent), strict=True))
        leaves = [multihash for multihash, one in aside.items() if one == Held.CLOSED]
        data = await file.get_many(leaves)
        self._taken[0].extend((leaf, raw) for leaf, raw in zip(leaves, data, strict=True) if raw is not None)
        if len(self._taken[0]) + len(self._taken[1]) >= _TAKEN:
            await self.flush()
        return [
            aside.get(multihash, one) if one == Held.ABSENT else one
            for multihash, one in zip(multihashes, held, strict=True)
        ]

    async def close_many(self, multihashes: Sequence[bytes]) -> None:
        """Mark objects as closed, after all that was taken is stored."""
        await self.flush()
        await self._store.close_many(multihashes)

    async def flush(self) -> None:
        """Store what was taken."""
        (leaves, others), self._taken = self._taken, ([], [])
        if leaves or others:
            await load_objects(self._store, [sorted(leaves)], sorted(others))

    async def kept_roots(self) -> list[Cid]:
        """Roots that undecided headers within the policy name, reverted blocks' too."""
        roots: dict[Cid, None] = {}
        if not self.is_used:
            return []
        epochs = self.epochs
        async for page in object_pages(await self._opened()):
            for header in (read_header(one.data) for one in page.objects if one.data is not None):
                if header is None:
                    continue
                if epochs.keeps_messages(header.height):
                    roots.update(dict.fromkeys((header.messages, header.receipts)))
                if epochs.keeps_state(header.height):
                    roots[header.state] = None
        return list(roots)
