"""The last passes of an import: they close and index tipsets, and publish the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from blockstore.cid import Cid
from blockstore.errors import Missing
from blockstore.generations import keep_lasting
from blockstore.store import TIPSETS, Batch, HeadEntry, Store, TipsetRef
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
)
from chain.index.coverage import MESSAGES_INDEX, Ranges, covered
from chain.index.eth_rows import ETH_TXS_INDEX, index_eth_txs
from chain.index.event_rows import EVENTS_INDEX
from chain.ipld.dag_cbor import decode
from chain.ipld.objects import Objects
from chain.network import NetworkRecord
from chain.tipset import Tipset, TipsetKey
from chain.tipset_messages import load_message_cids
from leader_bridge.imports.closing import Closer
from leader_bridge.imports.recent_objects import Recent
from leader_bridge.imports.undecided import Undecided
from leader_bridge.store.coverage import TIPSETS_INDEX, merge_ranges, save_coverage
from leader_bridge.store.indexer import (
    BlockMessages,
    can_index_events,
    index_parents_events,
    index_tipset,
    signed_messages,
)
from leader_bridge.store.post_rows import add_post_rows

#: the most tipsets in one head log entry, where an import moves a head that was there
_ENTRY: Final = 900


async def load_tipset(store: Store, key: TipsetKey) -> Tipset:
    """A stored tipset, its blocks in the order of their tickets. Errors: Missing, BadObject."""
    return (await _load_tipsets(store, [key]))[0]


async def _load_tipsets(store: Store, keys: Sequence[TipsetKey]) -> list[Tipset]:
    cids = [cid for key in keys for cid in key.cids]
    raws = iter(await store.get_many([cid.multihash for cid in cids]))
    out: list[Tipset] = []
    for key in keys:
        blocks = []
        for cid in key.cids:
            raw = next(raws)
            if raw is None:
                raise Missing(cid, "block")
            blocks.append(decode_header(cid, raw))
        out.append(Tipset.of(blocks))
    return out


class Indexer:
    """Closes what tipsets name and writes their rows, oldest first: a row is made from the row of its parent.

    `undecided`: objects of which those within the policy are taken into the store. `will_publish`: whether the head
    above the tipsets is published afterwards.
    """

    def __init__(
        self,
        store: Store,
        network: NetworkRecord,
        *,
        actor_code: bool = False,
        recent: Recent | None = None,
        undecided: Undecided | None = None,
        will_publish: bool = True,
    ) -> None:
        self._store = store
        self._undecided = undecided
        self._epochs = None if undecided is None else undecided.epochs
        self._will_publish = will_publish
        self._network = network
        self._closer = Closer(undecided or store, actor_code=actor_code, recent=recent)
        self._reader = Objects(store, cache_bytes=16 << 20)
        self._last: TipsetRow | None = None
        self._last_tipset: Tipset | None = None
        self._ranges: dict[bytes, Ranges] = {}
        #: objects closed so far
        self.closed = 0

    async def index(self, batch: Batch, keys: Sequence[TipsetKey]) -> None:
        """Add the rows of these tipsets (each the parent of the next) to `batch`; objects are closed at once.

        Errors: Missing (a block), BadObject.
        """
        tipsets = await _load_tipsets(self._store, keys)
        flags = await self._close(tipsets)
        await keep_lasting(self._store, [cid.multihash for tipset in tipsets for cid in tipset.key.cids])
        listed: list[list[BlockMessages]] = []
        before = await self._store.rows(TIPSETS, [(tipset.key.cid, b"") for tipset in tipsets])
        await add_post_rows(self._store, batch, tipsets, are_published=self._will_publish)
        for tipset, held, old in zip(tipsets, flags, before, strict=True):
            parent = await self._parent(tipset)
            if old is not None:
                held |= decode_row(old).held
            is_indexed = self._epochs is None or self._epochs.keeps_indices(tipset.height)
            if (
                self._last_tipset is not None
                and self._last_tipset.key == tipset.parents
                and can_index_events(held)
                and is_indexed
            ):
                pairs = [(self._last_tipset, tipset)]
                done, epochs = await index_parents_events(batch, self._reader, pairs, self._network)
                held |= INDEXED_EVENTS if done else 0
                for low, high in epochs:
                    await self._cover(EVENTS_INDEX, low, high)
            self._last_tipset = tipset
            messages = await self._messages(tipset) if held & HELD_MESSAGES and is_indexed else None
            self._last = index_tipset(batch, tipset, parent, messages, held)
            low = tipset.height if parent is None else parent.height + 1
            await self._cover(TIPSETS_INDEX, low, tipset.height)
            if messages is not None:
                listed.append(messages)
                await self._cover(MESSAGES_INDEX, low, tipset.height)
                await self._cover(ETH_TXS_INDEX, low, tipset.height)
        await index_eth_txs(batch, self._reader, signed_messages(listed), self._network.eth_chain_id)
        for index, ranges in self._ranges.items():
            save_coverage(batch, index, ranges)

    async def _parent(self, tipset: Tipset) -> TipsetRow | None:
        if self._last is not None and self._last.key == tipset.parents:
            return self._last
        if tipset.height == 0:
            return None
        value = await self._store.row(TIPSETS, tipset.parents.cid, b"")
        return None if value is None else decode_row(value)

    async def _cover(self, index: bytes, low: int, high: int) -> None:
        if index not in self._ranges:
            self._ranges[index] = await covered(self._store, index)
        ranges = self._ranges[index]
        if ranges and ranges[-1][1] + 1 == low:
            ranges[-1] = (ranges[-1][0], high)
        else:
            self._ranges[index] = merge_ranges([*ranges, (low, high)])

    async def _messages(self, tipset: Tipset) -> list[BlockMessages]:
        return [await load_message_cids(self._reader, block.messages) for block in tipset.blocks]

    async def _close(self, tipsets: Sequence[Tipset]) -> list[int]:
        """Close what tipsets name, as far as the policy keeps it; the HELD_ flags of each."""
        roots: list[Cid] = []
        dropped: set[Cid] = set()
        for tipset in tipsets:
            parts = [*(block.messages for block in tipset.blocks), tipset.parent_message_receipts]
            keeps = self._epochs is None or self._epochs.keeps_messages(tipset.height)
            (roots.extend if keeps else dropped.update)(parts)
            if self._epochs is None or self._epochs.keeps_state(tipset.height):
                roots.append(tipset.parent_state_root)
            else:
                dropped.add(tipset.parent_state_root)
        failed = await self._close_roots(roots) | dropped.difference(roots)
        flags: list[int] = []
        for tipset in tipsets:
            held = 0
            if not any(block.messages in failed for block in tipset.blocks):
                held |= HELD_MESSAGES
            if tipset.parent_state_root not in failed:
                held |= HELD_STATE
            if tipset.parent_message_receipts not in failed:
                held |= HELD_RECEIPTS | HELD_EVENTS
            elif await self._receipts_alone(tipset.parent_message_receipts):
                held |= HELD_RECEIPTS
            flags.append(held)
        return flags

    async def _close_roots(self, roots: Sequence[Cid]) -> set[Cid]:
        """Close trees, with what of them is undecided. The roots that stay open."""
        done = await self._closer.close(roots)
        self.closed += done.closed
        if self._undecided is not None:
            await self._undecided.flush()
        return done.failed

    async def close_reverted(self) -> None:
        """Take into the store what undecided blocks within the policy name that are under no head."""
        if self._undecided is not None:
            roots = await self._undecided.kept_roots()
            for start in range(0, len(roots), _ENTRY):
                await self._close_roots(roots[start : start + _ENTRY])

    async def _receipts_alone(self, root: Cid) -> bool:
        """Whether the receipts are there though not all of their events are."""
        try:
            nodes = [decode(await self._reader.get(root))[-1]]
            while nodes and nodes[0][1]:
                raws = await self._reader.get_many([Cid(link) for node in nodes for link in node[1]])
                nodes = [decode(raw) for raw in raws]
        except Missing:
            return False
        except (IndexError, TypeError) as error:
            raise BadObject(f"{root} is not an AMT of receipts: {error}") from None
        return True


async def is_heavier(store: Store, key: TipsetKey) -> bool:
    """Whether a stored tipset should be the head: the store has none, or a lighter one. Errors: Missing."""
    last = await store.head()
    if last is None:
        return True
    ours, theirs = await _load_tipsets(store, [TipsetKey(last.head.key), key])
    return theirs.parent_weight > ours.parent_weight or theirs.key == ours.key


async def publish_head(store: Store, key: TipsetKey, term: int = 0) -> bool:
    """Make `key` the head under `term` (0: a new term), unless the head is as heavy. Whether the head moved.

    If there was a head, the entries lead from it: reverts down to the common ancestor, then applies.
    Errors: Missing (no common ancestor is held), Fenced.
    """
    target = await load_tipset(store, key)
    last = await store.head()
    reverts: list[TipsetRef] = []
    applies: list[TipsetRef] = [TipsetRef(target.height, target.key)]
    if last is not None:
        if last.head.key == target.key:
            return False
        at = await load_tipset(store, TipsetKey(last.head.key))
        if at.parent_weight >= target.parent_weight:
            return False
        applies = []
        up = target
        while at.key != up.key:
            if up.height >= at.height:
                applies.append(TipsetRef(up.height, up.key))
                down, up = up, await load_tipset(store, up.parents)
                if down.height > at.height:
                    continue
            reverts.append(TipsetRef(at.height, at.key))
            at = await load_tipset(store, at.parents)
        applies.reverse()
    term = term or await store.new_term("import")
    seq = last.seq if last is not None else 0
    for start in range(0, len(applies), _ENTRY):
        part = tuple(applies[start : start + _ENTRY])
        seq += 1
        await store.append_head(HeadEntry(seq, term, tuple(reverts) if not start else (), part, part[-1]))
    return True
