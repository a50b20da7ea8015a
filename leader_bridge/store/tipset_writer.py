"""Storing tipsets whole: headers, messages, receipts, events, state, and then their index rows.

What the header of a tipset T names is stored with T: its messages, the state before it (which is the state
after its parent), and its parent's receipts with their events. What no node holds is said by the flags of
T's row, never taken for empty.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from blockstore.cid import Cid
from blockstore.errors import Missing
from blockstore.generations import ObjectPlace, lasting_objects, objects_of, put_lasting
from blockstore.store import TIPSETS, Batch, ObjectStore, Store
from chain.block import decode_header
from chain.errors import BadObject
from chain.index.chain_index import (
    HELD_EVENTS,
    HELD_MESSAGES,
    HELD_RECEIPTS,
    HELD_STATE,
    INDEXED_EVENTS,
    TipsetRow,
    decode_row,
    with_held,
)
from chain.index.coverage import MESSAGES_INDEX, covered
from chain.index.eth_rows import ETH_TXS_INDEX, index_eth_txs
from chain.index.event_rows import EVENTS_INDEX
from chain.ipld.amt import Amt
from chain.ipld.objects import Objects
from chain.network import NetworkRecord, load_network
from chain.tipset import Tipset, TipsetKey
from chain.tipset_messages import load_message_cids
from leader_bridge import metrics
from leader_bridge.store.coverage import TIPSETS_INDEX, merge_ranges, save_coverage
from leader_bridge.store.indexer import (
    BlockMessages,
    can_index_events,
    index_parents_events,
    index_tipset,
    signed_messages,
)
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.post_rows import add_post_rows

log = logging.getLogger(__name__)

#: tipsets stored by one walk
GROUP: Final = 32
_WORDS: Final = {HELD_STATE: "state", HELD_RECEIPTS: "receipts", HELD_EVENTS: "events"}


class NotAvailableYet(Exception):
    """Something that a tipset cannot do without (headers, messages) is held by no node just now."""


@dataclass(frozen=True, slots=True)
class MirrorScope:
    """What to store beside headers. Lazy state leaves `state` out."""

    messages: bool = True
    state: bool = True
    receipts: bool = True


class TipsetWriter:
    """Stores tipsets. `late_block_retry_delays` are the seconds to wait before asking again for what was missing.

    `reads`: where objects are read, if not in the store alone.
    `keeps_messages`: messages and receipts are kept for ever, in the place that is never dropped.
    """

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        *,
        late_block_retry_delays: Sequence[float] = (0.1, 0.3, 1.0),
        reads: ObjectStore | None = None,
        keeps_messages: bool = False,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._retry_delays = tuple(late_block_retry_delays)
        self._keeps_messages = keeps_messages
        self._objects = Objects(reads or store, cache_bytes=16 << 20)
        #: headers that were read and are not stored yet
        self._headers: LRUCache[Cid, bytes] = LRUCache(4096)
        self._reported: dict[int, bool] = {}
        self._network: NetworkRecord | None = None
        #: set when a row was written whose parent's is not there, and that no backfill writes again by itself
        self.unlinked_row = asyncio.Event()
        #: rows are read, changed and written by the bridge and the backfill
        self.rows_lock = asyncio.Lock()

    # --- reading -----------------------------------------------------------------------------------

    async def row(self, key: TipsetKey) -> TipsetRow | None:
        """The row of a tipset."""
        value = await self._store.row(TIPSETS, key.cid, b"")
        return None if value is None else decode_row(value)

    async def tipsets(self, keys: Sequence[TipsetKey]) -> list[Tipset]:
        """Tipsets by key, from the store or the nodes; their headers are verified, not stored.

        Errors: NotAvailableYet (a block is held nowhere), NoSource, BadObject (not a tipset, or not in its order).
        """
        cids = [cid for key in keys for cid in key.cids]
        raws = await self._header_bytes(cids)
        found: list[Tipset] = []
        for key in keys:
            try:
                tipset = Tipset.of([decode_header(cid, raws[cid]) for cid in key.cids])
            except KeyError as error:
                raise NotAvailableYet(f"no node holds block {error.args[0]}") from None
            if tipset.key != key:
                raise BadObject(f"{key} names its blocks in another order than their tickets'")
            found.append(tipset)
        return found

    async def _header_bytes(self, cids: Sequence[Cid]) -> dict[Cid, bytes]:
        found = {cid: self._headers[cid] for cid in cids if cid in self._headers}
        wanted = [cid for cid in cids if cid not in found]
        if wanted:
            read = await self._mirror.read(wanted)
            self._headers.update(read)
            found.update(read)
        return found

    async def block_messages(self, tipset: Tipset) -> list[BlockMessages]:
        """What each block of a stored tipset lists. Errors: Missing, BadObject."""
        return await asyncio.gather(*(load_message_cids(self._objects, block.messages) for block in tipset.blocks))

    async def _index_eth_txs(
        self, batch: Batch, tipsets: Sequence[Sequence[BlockMessages]], epochs: Sequence[tuple[int, int]]
    ) -> None:
        """Add the rows of Ethereum transactions. A store that does not say its network yet has none."""
        network = await self._load_network()
        if network is not None:
            await index_eth_txs(batch, self._objects, signed_messages(tipsets), network.eth_chain_id)
            await self.cover(batch, (ETH_TXS_INDEX,), epochs)

    async def _load_network(self) -> NetworkRecord | None:
        if self._network is None:
            self._network = await load_network(self._store)
        return self._network

    def forget_network(self) -> None:
        """The network's record was changed: read it again."""
        self._network = None

    async def index_events(self, keys: Sequence[TipsetKey], *, needs_state: bool = True) -> int:
        """Write the event rows of the parents of stored tipsets, where they can be and are not yet; how many.

        Not `needs_state`: the actors that emitted are held, whatever the tipsets' flags say of their state.
        Errors: NotAvailableYet, NoSource, StoreError, BadObject.
        """
        network = await self._load_network()
        async with self.rows_lock:
            found = [row for key in keys if (row := await self.row(key)) is not None]
            rows = [row for row in found if can_index_events(row.held, needs_state=needs_state)]
            if network is None or not rows:
                return 0
            children = await self.tipsets([row.key for row in rows])
            batch = Batch()
            indexed = await self._index_events(batch, children, network)
            for row in rows:
                if row.key in indexed:
                    batch.put(TIPSETS, row.key.cid, b"", with_held(row, INDEXED_EVENTS).encode())
            await self._store.write(batch)
        return len(indexed)

    async def _index_events(self, batch: Batch, children: Sequence[Tipset], network: NetworkRecord) -> set[TipsetKey]:
        """Add the event rows of the parents of `children`, of those that are stored; the children done."""
        stored = [child for child in children if child.height and await self.row(child.parents) is not None]
        parents = await self.tipsets([child.parents for child in stored])
        done, epochs = await index_parents_events(batch, self._objects, zip(parents, stored, strict=True), network)
        await self.cover(batch, (EVENTS_INDEX,), epochs)
        return {child.key for child in done}

    # --- storing -----------------------------------------------------------------------------------

    async def write(
        self,
        tipsets: Sequence[Tipset],
        scope: MirrorScope,
        *,
        retries_missing: bool = True,
        reports_missing: bool = True,
        check: asyncio.Task[None] | None = None,
    ) -> list[TipsetRow]:
        """Store tipsets (parents before children) and their rows, which are returned. They are ancestors of the
        published head, or of the one that is to be published.

        `retries_missing`: ask several times for what is missing, for a node may be late. `reports_missing`: log and
        count it. `check`: no row is written before it has ended well.
        Errors: those of `check`, NotAvailableYet (messages are held nowhere), NoSource, StoreError, BadObject.
        """
        rows: list[TipsetRow] = []
        for at in range(0, len(tipsets), GROUP):
            part = tipsets[at : at + GROUP]
            rows.extend(await self._write_group(part, scope, retries_missing, reports_missing, check))
        return rows

    async def mirror(self, tipsets: Sequence[Tipset], scope: MirrorScope, *, retries_missing: bool = True) -> list[int]:
        """Store what is wanted of each tipset, and say what is held now, as flags.

        Errors: NoSource, StoreError.
        """
        contents: list[Cid] = []
        states: list[Cid] = []
        for tipset in tipsets:
            if scope.messages:
                contents.extend(block.messages for block in tipset.blocks)
            if scope.receipts:
                contents.append(tipset.parent_message_receipts)
            if scope.state:
                states.append(tipset.parent_state_root)
        failed = {*contents, *states}
        for pause in (0.0, *(self._retry_delays if retries_missing else ())):
            if pause:
                metrics.RETRIES.inc()
                await asyncio.sleep(pause)
            failed = await self._close([root for root in contents if root in failed], failed & set(states))
            if not failed:
                break
        flags: list[int] = []
        for tipset in tipsets:
            held = 0
            if scope.messages and not any(block.messages in failed for block in tipset.blocks):
                held |= HELD_MESSAGES
            if scope.state and tipset.parent_state_root not in failed:
                held |= HELD_STATE
            if scope.receipts:
                receipts = tipset.parent_message_receipts
                if receipts not in failed:
                    held |= HELD_RECEIPTS | HELD_EVENTS
                elif await self._receipts_alone(receipts):
                    held |= HELD_RECEIPTS
            flags.append(held)
        return flags

    async def _close(self, contents: Sequence[Cid], states: Iterable[Cid]) -> set[Cid]:
        """Close trees of messages and receipts, and states; the roots that stay open."""
        if not self._keeps_messages:
            return (await self._mirror.close([*contents, *states])).failed
        lasting = await self._mirror.close(contents, self.contents())
        return lasting.failed | (await self._mirror.close(states)).failed

    def contents(self) -> ObjectPlace:
        """Where messages, receipts and events go."""
        return lasting_objects(self._store) if self._keeps_messages else objects_of(self._store)

    async def _receipts_alone(self, root: Cid) -> bool:
        """Whether the receipts are there though not all of their events are."""
        try:
            async for _ in Amt.load(self._objects, root, version=0):
                pass
        except Missing:
            return False
        return True

    async def _write_group(
        self,
        tipsets: Sequence[Tipset],
        scope: MirrorScope,
        retries_missing: bool,
        reports_missing: bool,
        check: asyncio.Task[None] | None,
    ) -> list[TipsetRow]:
        flags = await self.mirror(tipsets, scope, retries_missing=retries_missing)
        for tipset, held in zip(tipsets, flags, strict=True):
            if not held & HELD_MESSAGES:
                raise NotAvailableYet(f"no node holds the messages of epoch {tipset.height}")
            if reports_missing:
                self._report_missing(tipset, held, scope)
        await self.put_headers(tipsets)
        if check is not None:
            await check
        async with self.rows_lock:
            batch = Batch()
            await add_post_rows(self._store, batch, tipsets, are_published=True)
            rows: list[TipsetRow] = []
            epochs: list[tuple[int, int]] = []
            known: dict[TipsetKey, TipsetRow] = {}
            listed: list[Sequence[BlockMessages]] = []
            for tipset, held in zip(tipsets, flags, strict=True):
                before = await self.row(tipset.key)
                if before is not None:
                    held |= before.held
                parent = known.get(tipset.parents) or await self.row(tipset.parents)
                listed.append(await self.block_messages(tipset))
                row = index_tipset(batch, tipset, parent, listed[-1], held)
                known[tipset.key] = row
                rows.append(row)
                if parent is None and tipset.height and reports_missing:
                    self.unlinked_row.set()
                below = tipset.height if parent is None else parent.height + 1
                epochs.append((min(below, tipset.height), tipset.height))
            await self.cover(batch, (TIPSETS_INDEX, MESSAGES_INDEX), epochs)
            await self._index_eth_txs(batch, listed, epochs)
            await self._store.write(batch)
        # after the rows themselves: a parent may be one of the same group
        await self.index_events([row.key for row in rows])
        metrics.TIPSETS.inc(len(tipsets))
        return rows

    async def write_partial(self, tipset: Tipset) -> None:
        """Store a tipset alone, with whatever but state the nodes hold of it: the genesis, far below all else.

        Errors: NotAvailableYet (a header), NoSource, StoreError.
        """
        (held,) = await self.mirror([tipset], MirrorScope(state=False), retries_missing=False)
        await self.put_headers([tipset])
        messages = await self.block_messages(tipset) if held & HELD_MESSAGES else None
        async with self.rows_lock:
            before = await self.row(tipset.key)
            batch = Batch()
            parent = await self.row(tipset.parents)
            await add_post_rows(self._store, batch, [tipset], are_published=False)
            index_tipset(batch, tipset, parent, messages, held | (before.held if before else 0))
            indices = (TIPSETS_INDEX,) if messages is None else (TIPSETS_INDEX, MESSAGES_INDEX)
            epochs = [(tipset.height, tipset.height)]
            await self.cover(batch, indices, epochs)
            if messages is not None:
                await self._index_eth_txs(batch, [messages], epochs)
            await self._store.write(batch)

    async def cover(self, batch: Batch, indices: Sequence[bytes], epochs: Sequence[tuple[int, int]]) -> None:
        """Note with the rows that these indices now cover these epochs; with `rows_lock` held."""
        for index in indices:
            before = await covered(self._store, index)
            after = merge_ranges([*before, *epochs])
            if after != before:
                save_coverage(batch, index, after)

    async def put_headers(self, tipsets: Sequence[Tipset]) -> None:
        """Store the block headers: closed, for what they name is recorded tipset by tipset."""
        cids = [cid for tipset in tipsets for cid in tipset.key.cids]
        raws = await self._header_bytes(cids)
        absent = [cid for cid in cids if cid not in raws]
        if absent:
            raise NotAvailableYet(f"no node holds block {absent[0]}")
        await put_lasting(self._store, {cid.multihash: raws[cid] for cid in cids})

    async def add_flags(self, key: TipsetKey, held: int) -> None:
        """Add flags to a tipset's row."""
        async with self.rows_lock:
            batch = Batch()
            await self.flag(batch, {key: held})
            if batch:
                await self._store.write(batch)

    async def flag(self, batch: Batch, flags: Mapping[TipsetKey, int]) -> None:
        """Add with the batch what the rows of tipsets gain; with `rows_lock` held."""
        rows = await self._store.rows(TIPSETS, [(key.cid, b"") for key in flags])
        for (key, held), value in zip(flags.items(), rows, strict=True):
            row = None if value is None else decode_row(value)
            if row is not None and row.held | held != row.held:
                batch.put(TIPSETS, key.cid, b"", with_held(row, held).encode())

    def _report_missing(self, tipset: Tipset, held: int, scope: MirrorScope) -> None:
        """Say once that something is held by no node, and once that it is again."""
        for flag, word in _WORDS.items():
            if flag == HELD_STATE and not scope.state:
                continue
            lacking = not held & flag
            if lacking:
                metrics.NOT_HELD.labels(word).inc()
            if lacking and not self._reported.get(flag):
                log.warning(
                    "no node holds the %s named by epoch %d: what needs them is answered 'not held' until one does",
                    word,
                    tipset.height,
                )
            elif not lacking and self._reported.get(flag):
                log.info("the %s are held again, from epoch %d on", word, tipset.height)
            self._reported[flag] = lacking
