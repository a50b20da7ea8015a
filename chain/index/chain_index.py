"""Finding tipsets: by key, and by epoch among the ancestors of a given tipset.

Each tipset has one row, keyed by its key's CID, so forks never disturb each other: whatever a request asks,
it asks of the ancestry of the tipset it has pinned. A row keeps, beside its parent, *skip pointers*: for
every level L (widths 16, 256, …) the highest ancestor at or below `((height - 1) // width) * width`. A parent
above that bound has the same pointer, else the parent is it: so a row is made from its parent's row alone,
and any ancestor is a few dozen cached steps away, however deep (the whole of mainnet: under 80).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cachetools import LRUCache

from blockstore.cid import Cid
from blockstore.errors import Missing
from blockstore.store import HEIGHTS, POST, TIPSETS, Batch, Store
from chain.block import decode_header
from chain.errors import BadObject, NotHeld
from chain.index.kept import Kept, KeptReader
from chain.ipld.dag_cbor import decode, encode
from chain.ipld.objects import ObjectReader
from chain.network import NetworkRecord
from chain.tipset import Tipset, TipsetKey

#: What of a tipset is stored: its messages; the state *before* it (its header's parent state root); the
#: receipts, and the events, of its *parent* (its header's parent message receipts).
HELD_MESSAGES: Final = 1
HELD_STATE: Final = 2
HELD_RECEIPTS: Final = 4
HELD_EVENTS: Final = 8
HELD_ALL: Final = HELD_MESSAGES | HELD_STATE | HELD_RECEIPTS | HELD_EVENTS
#: beside them: the rows of its parent's events are written
INDEXED_EVENTS: Final = 16

_WIDTHS: Final = (1 << 4, 1 << 8, 1 << 12, 1 << 16, 1 << 20)
#: epochs a partition of HEIGHTS: a day
HEIGHT_BUCKET: Final = 2880
#: rows of a page of a scan
_PAGE: Final = 1000
#: epochs of which `rows_down` reads the rows at once
_ROWS_AHEAD: Final = 512


@dataclass(frozen=True, slots=True)
class TipsetRow:
    """One row of TIPSETS. `skips[i]` is (height, key) of the ancestor that level i points to.

    `parent_height` is -1 where the parent was not known when the row was written.
    """

    key: TipsetKey
    height: int
    parent: TipsetKey
    parent_height: int
    held: int
    skips: tuple[tuple[int, TipsetKey], ...]

    def encode(self) -> bytes:
        """The stored form."""
        skips = [[height, bytes(key)] for height, key in self.skips]
        return encode([bytes(self.key), self.height, bytes(self.parent), self.parent_height, self.held, skips])


def decode_row(value: bytes) -> TipsetRow:
    """Errors: BadObject."""
    try:
        key, height, parent, parent_height, held, skips = decode(value)
        pointers = tuple((at, TipsetKey(skip)) for at, skip in skips)
    except (TypeError, ValueError) as error:
        raise BadObject(f"not a tipset row: {error}") from None
    return TipsetRow(TipsetKey(key), height, TipsetKey(parent), parent_height, held, pointers)


def row_of(tipset: Tipset, parent: TipsetRow | None, held: int) -> TipsetRow:
    """The row of a tipset, made from its parent's (None at the bottom of what is held)."""
    skips: list[tuple[int, TipsetKey]] = []
    if parent is not None:
        for level, width in enumerate(_WIDTHS):
            bound = (tipset.height - 1) // width * width
            if parent.height <= bound:
                skips.append((parent.height, parent.key))
            elif level < len(parent.skips):
                skips.append(parent.skips[level])
            else:
                break
    return TipsetRow(
        key=tipset.key,
        height=tipset.height,
        parent=tipset.parents,
        parent_height=-1 if parent is None else parent.height,
        held=held,
        skips=tuple(skips),
    )


def height_row(height: int) -> tuple[bytes, bytes]:
    """(partition, key prefix) in HEIGHTS of the tipsets at an epoch; the key goes on with the key's CID."""
    return (height // HEIGHT_BUCKET).to_bytes(8, "big"), height.to_bytes(8, "big")


async def listed_tipsets(store: Store, low: int, high: int, page: int) -> AsyncIterator[list[tuple[bytes, TipsetKey]]]:
    """HEIGHTS rows of epochs `low` to `high`, rising: (row key, tipset). At a time: `page` at most, of one day."""
    for bucket in range(low // HEIGHT_BUCKET, high // HEIGHT_BUCKET + 1):
        start = max(low, bucket * HEIGHT_BUCKET).to_bytes(8, "big")
        end = min(high + 1, (bucket + 1) * HEIGHT_BUCKET).to_bytes(8, "big")
        while True:
            found = await store.scan(HEIGHTS, bucket.to_bytes(8, "big"), start=start, end=end, limit=page)
            if found:
                yield [(at, TipsetKey(key)) for at, key in found]
            if len(found) < page:
                break
            start = found[-1][0] + b"\0"


async def rows_down(store: Store, key: TipsetKey) -> AsyncIterator[TipsetRow]:
    """The rows of a tipset and its ancestors, newest first, until one has none; as they are in the store now.

    Reads them in batches: two round trips for `_ROWS_AHEAD` epochs.
    """
    ahead: dict[TipsetKey, TipsetRow] = {}
    while True:
        row = ahead.pop(key, None)
        if row is None:
            value = await store.row(TIPSETS, key.cid, b"")
            if value is None:
                return
            row = decode_row(value)
        yield row
        if row.height == 0:
            return
        key = row.parent
        if key not in ahead:
            ahead.clear()
            async for listed in listed_tipsets(store, max(0, row.height - _ROWS_AHEAD), row.height - 1, _PAGE):
                values = await store.rows(TIPSETS, [(one.cid, b"") for _, one in listed])
                ahead.update((one, decode_row(value)) for (_, one), value in zip(listed, values, strict=True) if value)


def post_row(child: Tipset) -> bytes:
    """The POST row of a tipset's parent."""
    return encode([child.parent_state_root, child.parent_message_receipts])


def index_rows(
    batch: Batch, tipset: Tipset, parent: TipsetRow | None, held: int, *, has_post: bool = True
) -> TipsetRow:
    """Write the TIPSETS, HEIGHTS and (of the parent) POST rows of a tipset; its own row is returned.

    Not `has_post`: the caller writes the POST row.
    """
    row = row_of(tipset, parent, held)
    cid = tipset.key.cid
    batch.put(TIPSETS, cid, b"", row.encode())
    partition, prefix = height_row(tipset.height)
    batch.put(HEIGHTS, partition, prefix + cid, bytes(tipset.key))
    if has_post:
        batch.put(POST, tipset.parents.cid, b"", post_row(tipset))
    return row


class ChainIndex:
    """Reads tipsets and their rows, cached; all of it immutable but a row's `held` flags."""

    def __init__(
        self,
        store: Store,
        objects: ObjectReader,
        network: NetworkRecord | None = None,
        *,
        cached_rows: int = 65536,
        cached_tipsets: int = 8192,
        longest_walk: int | None = None,
    ) -> None:
        """`longest_walk`: the most headers that a search by epoch reads one after the other, below all rows."""
        self._store = store
        self._longest_walk = longest_walk
        self._objects = objects
        self._network = network
        self._rows: LRUCache[bytes, TipsetRow] = LRUCache(cached_rows)
        self._tipsets: LRUCache[bytes, Tipset] = LRUCache(cached_tipsets)
        self._posts: LRUCache[bytes, tuple[Cid, Cid]] = LRUCache(cached_tipsets)
        #: tipset keys by their CIDs, the hashes of Ethereum's blocks
        self._keys: LRUCache[bytes, TipsetKey] = LRUCache(cached_tipsets)
        self._kept = KeptReader(store)

    async def kept(self) -> Kept:
        """From which epochs on the store holds what, as it was a few seconds ago."""
        return await self._kept.get()

    @property
    def known_kept(self) -> Kept:
        """As `kept`, as far as it was read already."""
        return self._kept.known

    async def tipset(self, key: TipsetKey) -> Tipset:
        """The tipset with this key. Errors: Missing (a block is not held), BadObject (no tipset of these)."""
        found = self._tipsets.get(key)
        if found is not None:
            return found
        cids = key.cids
        raws = await self._objects.get_many(cids)
        tipset = Tipset.of([decode_header(cid, raw) for cid, raw in zip(cids, raws, strict=True)])
        if tipset.key != key:
            # Lotus takes the blocks in any order and answers the tipset in order
            return tipset
        self._tipsets[key] = tipset
        return tipset

    async def row(self, key: TipsetKey, *, fresh: bool = False) -> TipsetRow | None:
        """The row of a tipset, or None. `fresh` passes the cache: for the `held` flags, which may grow."""
        found = None if fresh else self._rows.get(key)
        if found is None:
            value = await self._store.row(TIPSETS, key.cid, b"")
            if value is None:
                return None
            found = self._rows[key] = decode_row(value)
        return found

    async def key_of(self, cid: Cid) -> TipsetKey | None:
        """The tipset key with this CID, on whatever fork; None where it has no row."""
        found = self._keys.get(cid)
        if found is None:
            value = await self._store.row(TIPSETS, cid, b"")
            if value is None:
                return None
            row = decode_row(value)
            found = self._keys[cid] = row.key
            self._rows.setdefault(row.key, row)
        return found

    async def read_rows(self, low: int, high: int, *, with_posts: bool = False) -> None:
        """Have the rows of all tipsets at epochs `low` to `high` cached: two round trips a day of epochs.

        `with_posts`: the roots after them too, in one more.
        """
        async for listed in listed_tipsets(self._store, low, high, _PAGE):
            keys = [key for _, key in listed if key not in self._rows]
            values = await self._store.rows(TIPSETS, [(key.cid, b"") for key in keys])
            for key, value in zip(keys, values, strict=True):
                if value is not None:
                    self._rows[key] = decode_row(value)
                    self._keys[key.cid] = key
            if with_posts:
                await self._read_posts([key for _, key in listed if key not in self._posts])

    async def _read_posts(self, keys: Sequence[TipsetKey]) -> None:
        values = await self._store.rows(POST, [(key.cid, b"") for key in keys])
        for key, value in zip(keys, values, strict=True):
            if value is not None:
                state, receipts = decode(value)
                self._posts[key] = (Cid(state), Cid(receipts))

    async def held(self, key: TipsetKey) -> int:
        """The HELD_ flags of a tipset; 0 where it has no row."""
        row = await self.row(key)
        if row is not None and row.held & HELD_ALL != HELD_ALL:
            row = await self.row(key, fresh=True)
        return 0 if row is None else row.held & HELD_ALL

    async def post(self, key: TipsetKey) -> tuple[Cid, Cid] | None:
        """(state root, receipts root) *after* a tipset, or None while no child of it was seen."""
        found = self._posts.get(key)
        if found is None:
            value = await self._store.row(POST, key.cid, b"")
            if value is None:
                return None
            state, receipts = decode(value)
            found = self._posts[key] = (Cid(state), Cid(receipts))
        return found

    async def post_by_child(self, head: Tipset, tipset: Tipset) -> tuple[Cid, Cid] | None:
        """The same, by the child on the chain of `head`; None where it has none there. Errors: NotHeld."""
        if tipset.height >= head.height:
            return None
        child = await self.at_height(head, tipset.height + 1, previous=False)
        if child.parents != tipset.key:
            return None
        return child.parent_state_root, child.parent_message_receipts

    async def at_height(self, anchor: Tipset, height: int, *, previous: bool = True) -> Tipset:
        """The ancestor of `anchor` (or itself) at an epoch.

        In a null round: the nearest one before it, or after it where `previous` is False. `height` is 0 or
        more and not above the anchor's. Errors: NotHeld, when the chain is not held so far down.
        """
        if height >= anchor.height:
            return anchor
        key, at = anchor.key, anchor.height
        walked = 0
        while True:
            row = await self.row(key)
            step = None if row is None else _step(row, height, previous)
            if row is None or (step is None and row.parent_height < 0):
                # no row, or the bottom of what is indexed: the header itself still tells the parent
                if walked == self._longest_walk:
                    raise NotHeld(f"the chain at epoch {at} and below")
                walked += 1
                tipset = await self._load(key, at)
                if tipset.height == 0:
                    return tipset
                parent = await self._load(tipset.parents, tipset.height - 1)
                step = (parent.height, parent.key)
                if step[0] < height and not previous:
                    return tipset
            elif step is None:
                return await self._load(key, at)
            if step[0] <= height and (previous or step[0] == height):
                return await self._load(step[1], step[0])
            at, key = step

    async def parent(self, tipset: Tipset) -> Tipset:
        """The parent tipset. Errors: NotHeld."""
        return await self._load(tipset.parents, tipset.height - 1)

    async def genesis(self) -> Tipset:
        """The genesis. Errors: NotHeld, when its block or the network's record is not there."""
        if self._network is None:
            raise NotHeld("the network's record")
        return await self._load(TipsetKey.of([self._network.genesis]), 0)

    async def _load(self, key: TipsetKey, height: int) -> Tipset:
        try:
            return await self.tipset(key)
        except Missing:
            raise NotHeld(f"the chain at epoch {height} and below") from None


def _step(row: TipsetRow, height: int, previous: bool) -> tuple[int, TipsetKey] | None:
    """The farthest known ancestor that does not pass the one looked for; None for the row itself.

    Looking for the last tipset at or before `height`, a pointer whose bound is at or above `height` is
    safe even where the tipset it names lies below (then there is nothing between). Looking for the first
    at or after it, the tipset itself must not lie below.
    """
    for level in range(len(row.skips) - 1, -1, -1):
        at, key = row.skips[level]
        width = _WIDTHS[level]
        if at >= height or (previous and (row.height - 1) // width * width >= height):
            return at, key
    if row.parent_height >= 0 and (previous or row.parent_height >= height):
        return row.parent_height, row.parent
    return None


def with_held(row: TipsetRow, held: int) -> TipsetRow:
    """The same row with more flags."""
    return replace(row, held=row.held | held)
