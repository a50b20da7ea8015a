"""Rows against the chain: what the indexer would write for each tipset is compared with what is stored.

The rows of a tipset are made anew, by the same code that the bridge uses, from headers, messages, receipts and events.
A row that differs, or is not there, is a damage, and what was made is what mends it. Beside the published chain the
tipsets of forks are looked at, which HEIGHTS names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from blockstore.cid import Cid
from blockstore.errors import StoreError, StoreUnavailable
from blockstore.store import COVERAGE, EVENTS, HEIGHTS, POST, TIPSETS, Batch, Held, Store
from chain.errors import BadObject
from chain.index.chain_index import (
    HELD_EVENTS,
    HELD_MESSAGES,
    HELD_RECEIPTS,
    HELD_STATE,
    INDEXED_EVENTS,
    TipsetRow,
    height_row,
    listed_tipsets,
    post_row,
    row_of,
)
from chain.index.coverage import MESSAGES_INDEX, Ranges, contains, covered
from chain.index.eth_rows import ETH_TXS_INDEX, index_eth_txs
from chain.index.event_index import index_events
from chain.index.event_rows import EVENTS_INDEX, at_key, chunk_row, decode_mark, mark_partition
from chain.ipld.amt import Amt
from chain.ipld.objects import Objects
from chain.network import NetworkRecord
from chain.tipset import Tipset, TipsetKey
from chain.tipset_messages import load_message_cids
from leader_bridge.store.coverage import TIPSETS_INDEX
from leader_bridge.store.indexer import BlockMessages, index_tipset, signed_messages
from leader_bridge.upkeep.careful import read_many
from leader_bridge.upkeep.chain_walk import Headers, decoded
from leader_bridge.upkeep.damage import CheckReport, Kind
from leader_bridge.upkeep.object_check import LinkCheck
from leader_bridge.upkeep.repair import Mender
from leader_bridge.upkeep.row_fixes import Put, RowFixes

_WORDS: Final = {HELD_MESSAGES: "messages", HELD_STATE: "state", HELD_RECEIPTS: "receipts", HELD_EVENTS: "events"}
_PAGE: Final = 1000


async def load_coverage(store: Store, index: bytes) -> Ranges:
    """What COVERAGE says of an index; nothing where it cannot be read."""
    try:
        return await covered(store, index)
    except (ValueError, TypeError):
        return []


@dataclass(slots=True)
class Lacking:
    """Epochs that COVERAGE claims and that lack what it claims, by index."""

    epochs: dict[bytes, Ranges] = field(default_factory=dict)

    def add(self, index: bytes, low: int, high: int) -> None:
        """Note epochs, both ends included."""
        self.epochs.setdefault(index, []).append((low, high))


class ChainCheck:
    """Checks the rows of tipsets, group by group, oldest first. `coverage`: what COVERAGE said when the check began."""

    def __init__(
        self,
        store: Store,
        links: LinkCheck,
        report: CheckReport,
        fixes: RowFixes,
        headers: Headers,
        mender: Mender | None,
        network: NetworkRecord | None,
        coverage: dict[bytes, Ranges],
    ) -> None:
        self._store = store
        self._report = report
        self._fixes = fixes
        self._headers = headers
        self._mender = mender
        self._network = network
        self._coverage = coverage
        self._links = links
        self._reader = Objects(store, cache_bytes=16 << 20)
        self._parent: tuple[Tipset, TipsetRow] | None = None
        self._scanned = -1
        self.lacking = Lacking()

    async def check(self, keys: Sequence[TipsetKey]) -> None:
        """Check the next tipsets of the published chain, each the parent of the next. Errors: StoreError."""
        # a pass that removes aged rows says so a while before
        for index in self._coverage:
            self._coverage[index] = await load_coverage(self._store, index)
        tipsets = await self._headers.tipsets(keys)
        values = await self._store.rows(TIPSETS, [(key.cid, b"") for key in keys])
        held = await self._held([tipset for tipset in tipsets if tipset is not None])
        for tipset, value in zip(tipsets, values, strict=True):
            self._report.tipsets += 1
            if tipset is None:
                # its headers are named as lost already
                self._parent = None
                continue
            parent = self._parent
            if parent is not None and parent[0].key != tipset.parents:
                parent = None
            parent_row = parent[1] if parent else decoded(await self._store.row(TIPSETS, tipset.parents.cid, b""))
            low = tipset.height if parent_row is None else min(parent_row.height + 1, tipset.height)
            row = await self._check_row(tipset, value, parent_row, held[tipset.key])
            await self._check_post(tipset)
            if row is not None:
                await self._check_messages(tipset, row, low)
                if parent is not None:
                    await self._check_events(parent[0], tipset, row)
                self._parent = (tipset, row)
            else:
                self._parent = None
        last = next((tipset for tipset in reversed(tipsets) if tipset is not None), None)
        if last is not None:
            await self._check_forks(self._scanned + 1, last.height, set(keys))
            self._scanned = last.height
        await self._fixes.flush()

    # --- rows of one tipset ------------------------------------------------------------------------

    async def _check_row(
        self, tipset: Tipset, value: bytes | None, parent: TipsetRow | None, held: int
    ) -> TipsetRow | None:
        """The rows of TIPSETS and HEIGHTS; the row as it should be. None: it has none, and needs none."""
        stored = decoded(value)
        partition, prefix = height_row(tipset.height)
        height = (HEIGHTS, partition, prefix + tipset.key.cid, bytes(tipset.key))
        if stored is None:
            if value is None and not contains(self._coverage[TIPSETS_INDEX], tipset.height):
                return None
            right = row_of(tipset, parent, held | await self._indexed(tipset, parent))
            what = "it cannot be read" if value is not None else "it is not there"
            self._fixes.wrong_tipset(tipset, what, [_put(right), height])
            return right
        wrong = await self._wrong_row(tipset, stored, parent)
        right = row_of(tipset, parent, stored.held) if wrong else stored
        false = stored.held & ~held & (HELD_MESSAGES | HELD_STATE | HELD_RECEIPTS | HELD_EVENTS)
        if wrong:
            self._fixes.wrong_tipset(tipset, wrong, [_put(right)])
        if false:
            right = await self._check_flags(tipset, right, false)
        await self._fixes.compare([height])
        return right

    async def _indexed(self, tipset: Tipset, parent: TipsetRow | None) -> int:
        """INDEXED_EVENTS where the events of the parent have rows, else 0."""
        if parent is None:
            return 0
        key = at_key(parent.height, parent.key.block_hash)
        mark = await self._store.row(COVERAGE, mark_partition(parent.height), key)
        return 0 if mark is None else INDEXED_EVENTS

    async def _wrong_row(self, tipset: Tipset, stored: TipsetRow, parent: TipsetRow | None) -> str:
        """What is wrong in a row; "" where nothing is. One written before its parent's may point less far."""
        if stored.key != tipset.key:
            return f"it is the row of {stored.key}"
        if stored.height != tipset.height:
            return f"it says epoch {stored.height}, the header {tipset.height}"
        if stored.parent != tipset.parents:
            return f"it says that its parent is {stored.parent}, the header {tipset.parents}"
        if parent is None:
            return ""
        if stored.parent_height not in (-1, parent.height):
            return f"it says that its parent is of epoch {stored.parent_height}, which is {parent.height}"
        right = row_of(tipset, parent, 0).skips
        for level, (at, key) in enumerate(stored.skips):
            if level < len(right):
                is_right = (at, key) == right[level]
            else:
                target = decoded(await self._store.row(TIPSETS, key.cid, b""))
                is_right = target is not None and (target.height, target.key) == (at, key)
            if not is_right:
                return f"its skip pointer {level} leads to {key} of epoch {at}, which is no such ancestor"
        return ""

    async def _check_post(self, tipset: Tipset) -> None:
        if tipset.height and contains(self._coverage[TIPSETS_INDEX], tipset.height):
            await self._fixes.compare([(POST, tipset.parents.cid, b"", post_row(tipset))])

    # --- flags -------------------------------------------------------------------------------------

    async def _held(self, tipsets: Sequence[Tipset]) -> dict[TipsetKey, int]:
        """The HELD_ flags of which the roots are closed."""
        roots = list(dict.fromkeys(root for tipset in tipsets for part in _roots(tipset).values() for root in part))
        answers = await self._links.held([root.multihash for root in roots])
        closed = {root for root, held in zip(roots, answers, strict=True) if held == Held.CLOSED}
        return {
            tipset.key: sum(flag for flag, part in _roots(tipset).items() if closed.issuperset(part))
            for tipset in tipsets
        }

    async def _check_flags(self, tipset: Tipset, row: TipsetRow, doubtful: int) -> TipsetRow:
        """Look below the roots that are not closed. The row, without the flags that say what is not held."""
        false = 0
        for flag, roots in _roots(tipset).items():
            if doubtful & flag and not await self._are_held(flag, roots):
                false |= flag
        if false:
            # a pass may have taken the flags back, and dropped what they said is held
            now = decoded(await self._store.row(TIPSETS, tipset.key.cid, b""))
            false &= row.held if now is None else now.held
        if false and self._mender is not None:
            named = _roots(tipset)
            wanted = list(dict.fromkeys(root for flag in _WORDS if false & flag for root in named[flag]))
            failed = await self._mender.close(wanted)
            for flag in _WORDS:
                if false & flag and failed.isdisjoint(named[flag]):
                    false &= ~flag
                    self._wrong_flag(tipset, flag, [], "fetched")
        right = TipsetRow(row.key, row.height, row.parent, row.parent_height, row.held & ~false, row.skips)
        for flag in _WORDS:
            if false & flag:
                self._wrong_flag(tipset, flag, [_put(right)], "the row does not say so any more")
        return right

    def _wrong_flag(self, tipset: Tipset, flag: int, puts: Sequence[Put], how: str) -> None:
        name = f"{tipset.key} of epoch {tipset.height}, {_WORDS[flag]}"
        what = "the row says that they are held, and they are not whole"
        self._fixes.wrong(Kind.HELD, name, what, puts=puts, how=how)

    async def _are_held(self, flag: int, roots: Sequence[Cid]) -> bool:
        found = await read_many(self._store, [root.multihash for root in roots])
        if any(data is None for data in found):
            return False
        if flag == HELD_RECEIPTS:
            # the receipts may be held without all of their events
            try:
                async for _ in Amt.load(self._reader, roots[0], version=0):
                    pass
            except StoreUnavailable:
                raise
            except (StoreError, BadObject):
                return False
            return True
        before = self._report.open
        await self._links.below((root, data or b"") for root, data in zip(roots, found, strict=True))
        return self._report.open == before

    # --- messages and events -----------------------------------------------------------------------

    async def _check_messages(self, tipset: Tipset, row: TipsetRow, low: int) -> None:
        indices = [index for index in (MESSAGES_INDEX, ETH_TXS_INDEX) if contains(self._coverage[index], tipset.height)]
        if not indices:
            return
        try:
            listed: list[BlockMessages] | None = None
            if row.held & HELD_MESSAGES:
                listed = [await load_message_cids(self._reader, block.messages) for block in tipset.blocks]
            eth = Batch()
            if listed is not None and self._network is not None and ETH_TXS_INDEX in indices:
                await index_eth_txs(eth, self._reader, signed_messages([listed]), self._network.eth_chain_id)
        except StoreUnavailable:
            raise
        except (StoreError, BadObject):
            listed = None
        if listed is None:
            for index in indices:
                self.lacking.add(index, low, tipset.height)
            return
        batch = Batch()
        index_tipset(batch, tipset, None, listed if MESSAGES_INDEX in indices else None, 0)
        messages = [put for put in batch.puts if put[0] not in (TIPSETS, HEIGHTS)]
        await self._fixes.compare([*messages, *eth.puts])

    async def _check_events(self, tipset: Tipset, child: Tipset, row: TipsetRow) -> None:
        """The event rows of `tipset`; `row`: that of its child."""
        if not contains(self._coverage[EVENTS_INDEX], tipset.height) or self._network is None:
            return
        batch = Batch()
        try:
            is_made = await index_events(batch, self._reader, tipset, child, self._network)
        except StoreUnavailable:
            raise
        except StoreError:
            # an object that cannot be read: the check of the objects names it
            is_made = False
        if is_made:
            await self._fixes.compare(batch.puts)
            return
        # the state that names their emitters is not held: only their number can be compared
        key = at_key(tipset.height, tipset.key.block_hash)
        mark = await self._store.row(COVERAGE, mark_partition(tipset.height), key)
        if mark is None or not row.held & INDEXED_EVENTS:
            self.lacking.add(EVENTS_INDEX, tipset.height, child.height - 1)
            return
        _, chunks = decode_mark(mark)
        rows = [chunk_row(tipset.height, tipset.key.block_hash, number) for number in range(chunks)]
        if any(value is None for value in await self._store.rows(EVENTS, rows)):
            name = f"epoch {tipset.height}, tipset 0x{tipset.key.block_hash.hex()}"
            self._fixes.wrong(Kind.EVENT, name, f"its mark says {chunks} chunks, and some are not there")

    # --- forks -------------------------------------------------------------------------------------

    async def _check_forks(self, low: int, high: int, chain: set[TipsetKey]) -> None:
        """The other tipsets that HEIGHTS names at some epochs."""
        async for listed in listed_tipsets(self._store, low, high, _PAGE):
            others = [(at, key) for at, key in listed if key not in chain]
            if others:
                partition, _ = height_row(int.from_bytes(others[0][0][:8], "big"))
                await self._check_fork_rows(partition, others)

    async def _check_fork_rows(self, partition: bytes, found: list[tuple[bytes, TipsetKey]]) -> None:
        tipsets = await self._headers.tipsets([key for _, key in found])
        values = await self._store.rows(TIPSETS, [(key.cid, b"") for _, key in found])
        held = await self._held([tipset for tipset in tipsets if tipset is not None])
        for (at, key), tipset, value in zip(found, tipsets, values, strict=True):
            self._report.tipsets += 1
            if tipset is None:
                if value is None:
                    self._fixes.superfluous(HEIGHTS, partition, at, f"it names {key}, which is not known")
            elif at != tipset.height.to_bytes(8, "big") + key.cid:
                self._fixes.superfluous(HEIGHTS, partition, at, f"it names {key} of epoch {tipset.height}")
            else:
                parent = decoded(await self._store.row(TIPSETS, tipset.parents.cid, b""))
                row = await self._check_row(tipset, value, parent, held[key])
                if row is not None and row.held & HELD_MESSAGES:
                    await self._check_messages(tipset, row, tipset.height)


def _roots(tipset: Tipset) -> dict[int, list[Cid]]:
    """What each flag says is held."""
    receipts = [tipset.parent_message_receipts]
    return {
        HELD_MESSAGES: [block.messages for block in tipset.blocks],
        HELD_STATE: [tipset.parent_state_root],
        HELD_RECEIPTS: receipts,
        HELD_EVENTS: receipts,
    }


def _put(row: TipsetRow) -> Put:
    return (TIPSETS, row.key.cid, b"", row.encode())
