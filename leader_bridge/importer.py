"""Reading a CAR into a store: every object first, then one pass that closes, indexes and publishes.

Objects arrive in any order, so they are stored loose. The pass goes along the chain from genesis to the CAR's
head: it closes what each header names (children before parents), writes the tipset's rows with flags for
what the file carried of it, and appends the head last. Until then the store has no head of this chain, so
nothing of an unfinished import is served. Killed at any point, the same import goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from blockstore.car import CarReader, Section
from blockstore.cid import DAG_CBOR, Cid
from blockstore.errors import BadCar, Missing, WrongNetwork
from blockstore.store import META, Batch, HeadEntry, Store, TipsetRef
from chain.block import BlockHeader, decode_header
from chain.dagcbor import decode
from chain.errors import BadObject, BadRequest, NotHeld
from chain.index import HELD_EVENTS, HELD_MESSAGES, HELD_RECEIPTS, HELD_STATE, ChainIndex, TipsetRow
from chain.known_networks import BY_GENESIS
from chain.network import NetworkRecord, load_network, read_network_file, save_network
from chain.objects import Objects
from chain.tipset import Tipset, TipsetKey
from leader_bridge.indexer import index_tipset
from leader_bridge.keeper import Keeper, Wanted
from leader_bridge.mirror import Mirror
from leader_bridge.sources import Fetched

log = logging.getLogger(__name__)

#: the row that says an import has begun and how far it is
PROGRESS: Final = b"import"
_GROUP: Final = 256
_SAVE_EVERY: Final = 64 << 20
#: tipsets between an older head of the store and the new one that are told one by one in the head log
_TOLD: Final = 10_000


@dataclass(slots=True)
class Imported:
    """What an import did: objects and bytes read, tipsets indexed, and how many of them hold what."""

    head: Tipset | None = None
    network: NetworkRecord | None = None
    objects: int = 0
    bytes: int = 0
    tipsets: int = 0
    resumed_at: int = 0
    held: dict[str, int] = field(default_factory=dict)


#: Told now and then: what is done ("read", "index"), how much of how much (None: not known), in file bytes or
#: tipsets; objects so far.
Progress = Callable[[str, int, int | None, int], None]


class _Nowhere:
    """No node to ask: what the file did not carry is missing."""

    async def fetch(self, cids: Sequence[Cid]) -> Fetched:
        return Fetched({}, list(cids))


async def import_car(
    store: Store,
    source: Path | BinaryIO,
    *,
    network_file: Path | None = None,
    progress: Progress | None = None,
    index: bool = True,
) -> Imported:
    """Read a CAR file (or an open stream) whole. `index` False: objects only, no rows and no head.

    Errors: BadCar (with the byte offset; what was stored stays valid, and so does a later resume), WrongNetwork,
    BadRequest (a network that is not known and no `network_file`), NotHeld (the head's chain is not in the file),
    StoreFull.
    """
    done = Imported()
    tell = progress or (lambda *_: None)
    with CarReader(source) as reader:
        head_key = await _objects(store, reader, source, done, tell)
    if index:
        await _chain(store, head_key, network_file, done, tell)
    batch = Batch()
    batch.delete(META, b"", PROGRESS)
    await store.write(batch)
    return done


# --- objects -----------------------------------------------------------------------------------------


async def _objects(
    store: Store, reader: CarReader, source: Path | BinaryIO, done: Imported, tell: Progress
) -> TipsetKey:
    """Store every object loose; the key of the CAR's head."""
    identity = _identity(source, reader)
    saved = await _saved(store, identity)
    head_key: TipsetKey | None = None
    batches = reader.batches()
    first = await _next(batches)
    if first and len(reader.roots) == 1 and (metadata := _metadata(first[0], reader.roots[0])) is not None:
        head_key, f3 = metadata
        if f3 is not None:
            reader.skimmed.add(f3)
    if head_key is None:
        if not reader.roots:
            raise BadCar("the CAR names no root", 0)
        head_key = TipsetKey.of(reader.roots)
    if saved > reader.offset:
        done.resumed_at = saved
        log.info("going on at byte %d of the stream", saved)
        await asyncio.to_thread(reader.skip_to, saved)
        first = await _next(batches)
    since = reader.offset
    batch = first
    try:
        while batch:
            # the next batch is read and hashed while this one is written
            reading = asyncio.create_task(_next(batches))
            offset = reader.offset if not batch else batch[-1].offset
            try:
                await store.put_many(_pairs(batch), closed=False)
                done.objects += len(batch)
                done.bytes += sum(len(section.data) for section in batch)
                if offset - since >= _SAVE_EVERY:
                    await _save(store, identity, offset)
                    since = offset
                tell("read", reader.position, reader.size, done.objects)
            finally:
                upcoming = await reading
            batch = upcoming
    except BadCar:
        if batch:
            await _save(store, identity, batch[-1].offset)
        raise
    await _save(store, identity, reader.offset)
    return head_key


def _pairs(batch: list[Section]) -> list[tuple[bytes, bytes]]:
    return [(s.cid.multihash, s.data) for s in batch if s.data and not s.cid.is_identity]


async def _next(batches: Iterator[list[Section]]) -> list[Section]:
    return await asyncio.to_thread(next, batches, [])


def _metadata(section: Section, root: Cid) -> tuple[TipsetKey, Cid | None] | None:
    """(head, F3 part) of a version 2 snapshot's first object; None where it is something else.

    Source: FRC-0108; a map of Version, HeadTipsetKey and F3Data.
    """
    if section.cid != root or section.cid.codec != DAG_CBOR:
        return None
    try:
        fields = decode(section.data)
    except BadObject:
        return None
    if not isinstance(fields, dict) or "HeadTipsetKey" not in fields:
        return None
    if fields.get("Version") != 2:
        raise BadCar(f"snapshot version {fields.get('Version')!r} is not read here", section.offset)
    f3 = fields.get("F3Data")
    return TipsetKey.of(fields["HeadTipsetKey"]), None if f3 is None else Cid(f3)


def _identity(source: Path | BinaryIO, reader: CarReader) -> dict[str, Any]:
    """What tells this file from another, so that only the same one is resumed."""
    roots = [str(root) for root in reader.roots]
    if isinstance(source, Path):
        stat = source.stat()
        return {"roots": roots, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    return {"roots": roots}


async def _saved(store: Store, identity: dict[str, Any]) -> int:
    value = await store.row(META, b"", PROGRESS)
    row = orjson.loads(value) if value else {}
    if row.get("file") == identity:
        return int(row["offset"])
    await _save(store, identity, 0)
    return 0


async def _save(store: Store, identity: dict[str, Any], offset: int) -> None:
    batch = Batch()
    batch.put(META, b"", PROGRESS, orjson.dumps({"file": identity, "offset": offset}))
    await store.write(batch)


# --- the chain ---------------------------------------------------------------------------------------


async def _chain(store: Store, head_key: TipsetKey, network_file: Path | None, done: Imported, tell: Progress) -> None:
    keys, bottom = await _walk_down(store, head_key, tell)
    network = await _network(store, bottom, network_file)
    done.network = network
    await _index(store, keys, done, tell)
    objects = Objects(store, cache_bytes=1 << 20)
    done.head = await ChainIndex(store, objects, network).tipset(head_key)
    await _publish(store, ChainIndex(store, objects, network), done.head)


async def _walk_down(store: Store, head_key: TipsetKey, tell: Progress) -> tuple[list[TipsetKey], BlockHeader]:
    """The keys from the head down to the oldest header held, and that header."""
    keys: list[TipsetKey] = []
    key = head_key
    lowest: BlockHeader | None = None
    while True:
        cids = key.cids
        raws = await store.get_many([cid.multihash for cid in cids])
        if None in raws or (lowest is not None and lowest.height == 0):
            break
        try:
            lowest = decode_header(cids[0], raws[0] or b"")
        except BadObject:
            if not keys:
                raise
            break
        keys.append(key)
        if len(keys) % 4096 == 0:
            tell("walk", len(keys), None, len(keys))
            await asyncio.sleep(0)
        key = TipsetKey.of(lowest.parents)
    if lowest is None:
        raise NotHeld(f"the file's head {head_key}: its blocks are not in it")
    return keys, lowest


async def _network(store: Store, bottom: BlockHeader, network_file: Path | None) -> NetworkRecord:
    """The network of the file's chain, compared with the store's. Errors: WrongNetwork, BadRequest."""
    held = await load_network(store)
    genesis = bottom.cid if bottom.height == 0 else None
    if network_file is not None:
        known = genesis or (None if held is None else held.genesis)
        record = await asyncio.to_thread(read_network_file, network_file, known)
        if genesis is not None and record.genesis != genesis:
            raise WrongNetwork(f"the file's genesis is {genesis}, {network_file} names {record.genesis}")
    elif held is not None:
        record = held
    elif genesis is not None and genesis in BY_GENESIS:
        record = BY_GENESIS[genesis]
    else:
        what = f"genesis {genesis}" if genesis else f"a chain that begins at epoch {bottom.height}"
        raise BadRequest(f"{what} is of no network known here: give its network.json with --network")
    if held is not None and (held.genesis, held.name) != (record.genesis, record.name):
        raise WrongNetwork(
            f"the file is of network {record.name!r} (genesis {record.genesis}), "
            f"the store of {held.name!r} (genesis {held.genesis})"
        )
    if genesis is not None and record.genesis != genesis:
        raise WrongNetwork(f"the file's genesis is {genesis}, the store's is {record.genesis}")
    batch = Batch()
    save_network(batch, record)
    await store.write(batch)
    return record


_NAMES: Final = {
    "messages": HELD_MESSAGES,
    "state": HELD_STATE,
    "receipts": HELD_RECEIPTS,
    "events": HELD_EVENTS,
}


async def _index(store: Store, keys: list[TipsetKey], done: Imported, tell: Progress) -> None:
    """Close what each header names and write its rows, oldest first; `keys` is newest first, and used up."""
    keeper = Keeper(store, Mirror(store, _Nowhere()))
    total = len(keys)
    parent: TipsetRow | None = None
    while keys:
        part = [keys.pop() for _ in range(min(_GROUP, len(keys)))]
        tipsets = await keeper.tipsets(part)
        if parent is None:
            parent = await keeper.row(tipsets[0].parents)
        flags = await keeper.held(tipsets, Wanted(), patient=False)
        await keeper.put_headers(tipsets)
        batch = Batch()
        for tipset, held in zip(tipsets, flags, strict=True):
            before = await keeper.row(tipset.key)
            held |= before.held if before is not None else 0
            messages = await keeper.block_messages(tipset) if held & HELD_MESSAGES else None
            parent = index_tipset(batch, tipset, parent, messages, held)
            for name, flag in _NAMES.items():
                done.held[name] = done.held.get(name, 0) + bool(held & flag)
        await store.write(batch)
        done.tipsets += len(tipsets)
        tell("index", done.tipsets, total, done.objects)


async def _publish(store: Store, index: ChainIndex, head: Tipset) -> None:
    """Append the new head, unless the store's own is this chain already and higher."""
    last = await store.head()
    applies: list[TipsetRef] = [TipsetRef(head.height, bytes(head.key))]
    reverts: list[TipsetRef] = []
    if last is not None:
        old = await index.tipset(TipsetKey(last.head.key))
        if old.height >= head.height and await index.is_ancestor(head.key, head.height, old):
            return
        reverts, applies = await _path(index, old, head)
    term = await store.new_term("import")
    await store.append_head(
        HeadEntry(
            seq=last.seq + 1 if last else 1,
            term=term,
            reverts=tuple(reverts),
            applies=tuple(applies),
            head=TipsetRef(head.height, bytes(head.key)),
            f3=last.f3 if last else None,
        )
    )


async def _path(index: ChainIndex, old: Tipset, new: Tipset) -> tuple[list[TipsetRef], list[TipsetRef]]:
    """(reverts newest first, applies oldest first) from one head to another."""
    reverts: list[TipsetRef] = []
    applies: list[TipsetRef] = []
    left, right = old, new
    try:
        while left.key != right.key:
            if len(reverts) + len(applies) > _TOLD:
                raise BadRequest(f"the file's head is more than {_TOLD} tipsets from the store's: use a new store")
            if left.height > right.height:
                reverts.append(TipsetRef(left.height, bytes(left.key)))
                left = await index.parent(left)
            else:
                applies.append(TipsetRef(right.height, bytes(right.key)))
                right = await index.parent(right)
    except (NotHeld, Missing):
        raise BadRequest("the file's chain does not meet the store's: use a new store") from None
    return reverts, applies[::-1]
