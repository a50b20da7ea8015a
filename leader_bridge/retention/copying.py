"""Copies what a generation is to begin with: the head's state, and the messages and receipts that are kept.

The walk is the mirror's: children before parents, closed objects end it. So a copy that was broken off is valid, and
goes on where it was. It reads from the store itself, at the pace of the pass, and verifies what it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from blockstore.cid import Cid, verify
from blockstore.errors import HashMismatch, Missing, StoreError
from blockstore.generations import LASTING, OnlyIn
from blockstore.store import Store
from chain.index.chain_index import HELD_EVENTS, HELD_MESSAGES, HELD_RECEIPTS, HELD_STATE
from chain.tipset import Tipset, TipsetKey
from leader_bridge import metrics
from leader_bridge.clock import monotonic
from leader_bridge.nodes.sources import Fetched
from leader_bridge.retention.copy_rate import CopyRate
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.tipset_writer import TipsetWriter

#: tipsets whose messages are copied by one walk
_GROUP: Final = 32
_BATCH: Final = 256


class _StoreItself:
    """The source of a copy: all places of the store."""

    def __init__(self, store: Store, rate: CopyRate) -> None:
        self._store = store
        self._rate = rate

    async def fetch(self, cids: Sequence[Cid]) -> Fetched:
        """The objects, verified."""
        await self._rate.take(len(cids))
        # what one object takes tells how busy the store is
        began = monotonic()
        first = await self._store.get(cids[0].multihash)
        self._rate.note(monotonic() - began)
        rest = await self._store.get_many([cid.multihash for cid in cids[1:]])
        fetched = Fetched()
        for cid, data in zip(cids, [first, *rest], strict=True):
            if data is None:
                fetched.missing.append(cid)
                continue
            try:
                verify(cid.multihash, data)
            except HashMismatch as error:
                raise StoreError(
                    f"{cid} is damaged, so no generation follows: {error}; see `follower store check`"
                ) from None
            fetched.found[cid] = data
        metrics.COPIED.inc(len(fetched.found))
        return fetched


class Copier:
    """Copies to generation `number` of `store`. `actor_code`: the code of built-in actors too."""

    def __init__(self, store: Store, writer: TipsetWriter, number: int, rate: CopyRate, *, actor_code: bool) -> None:
        self._writer = writer
        self._into = OnlyIn(store, number)
        self._lasting = OnlyIn(store, LASTING)
        self._mirror = Mirror(
            store, _StoreItself(store, rate), in_flight=2, batch=_BATCH, actor_code=actor_code, flush_objects=4096
        )

    async def state(self, root: Cid) -> int:
        """Copy a state; how many objects that took. Errors: Missing (it is not held whole), StoreError."""
        walked = await self._mirror.close([root], self._into)
        if walked.failed:
            raise Missing(walked.missing[0] if walked.missing else root)
        return walked.fetched

    async def genesis(self, tipset: Tipset, held: int) -> None:
        """Copy what is held of the genesis to where nothing is dropped: it is asked for whatever the head is."""
        roots = _contents(tipset, held)
        if held & HELD_STATE:
            roots.append(tipset.parent_state_root)
        await self._mirror.close(roots, self._lasting)

    async def messages(self, key: TipsetKey, lowest: int, until: TipsetKey | None, *, lasting: bool) -> None:
        """Copy what is held of the messages and receipts of a tipset and its ancestors, down to epoch `lowest`, or to
        `until`, which is not copied. Errors: StoreError, NotAvailableYet."""
        roots: list[Cid] = []
        tipsets = 0
        while key != until:
            row = await self._writer.row(key)
            if row is None or row.height < lowest:
                break
            if row.held & (HELD_MESSAGES | HELD_RECEIPTS):
                (tipset,) = await self._writer.tipsets([key])
                roots += _contents(tipset, row.held)
                tipsets += 1
            if tipsets >= _GROUP:
                await self._close(roots, lasting)
                roots, tipsets = [], 0
            if row.height == 0:
                break
            key = row.parent
        await self._close(roots, lasting)

    async def _close(self, roots: Sequence[Cid], lasting: bool) -> None:
        # receipts whose events are not held stay open, and are copied all the same
        await self._mirror.close(roots, self._lasting if lasting else self._into)


def _contents(tipset: Tipset, held: int) -> list[Cid]:
    roots = [block.messages for block in tipset.blocks] if held & HELD_MESSAGES else []
    if held & (HELD_RECEIPTS | HELD_EVENTS):
        roots.append(tipset.parent_message_receipts)
    return roots
