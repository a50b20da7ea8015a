"""Brings to a copy what its source has got since: new tipsets, whole, with those of forks, and recorded answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from blockstore.scan import row_pages
from blockstore.store import COVERAGE, HEIGHTS, RECORDED, TIPSETS, Batch, Store
from chain.index.chain_index import (
    HEIGHT_BUCKET,
    HELD_ALL,
    HELD_MESSAGES,
    HELD_RECEIPTS,
    HELD_STATE,
    TipsetRow,
)
from chain.index.coverage import covered
from chain.tipset import Tipset, TipsetKey
from leader_bridge.store.coverage import save_coverage, without
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.tipset_writer import MirrorScope, TipsetWriter
from leader_bridge.upkeep.chain_walk import decoded
from leader_bridge.upkeep.pace import Pace
from leader_bridge.upkeep.repair import StoreFetcher

#: epochs below a head in which forks may have come since
_FORKS_BELOW: Final = 900
_PAGE: Final = 1000
_GROUP: Final = 32


class CatchUp:
    """Mirrors new tipsets of one store into another, as a bridge does from a node."""

    def __init__(self, source: Store, target: Store) -> None:
        self._source = source
        self._target = target
        self._writer = TipsetWriter(target, Mirror(target, StoreFetcher(source)), late_block_retry_delays=())

    async def bring(self, head: TipsetKey, below: TipsetKey, height: int) -> int:
        """Bring the chain of `head` down to where the copy has it, and forks that the source has seen meanwhile.

        `below`: the head up to which the copy is whole, of epoch `height`. How many tipsets were brought. Errors:
        NotAvailableYet, StoreError, BadObject.
        """
        chain = await self._chain(head, height)
        keys = {tipset.key for tipset in chain}
        forks = [tipset for tipset in await self._forks(height) if tipset.key not in keys]
        # of two children of one tipset, the one on the chain names the state after it
        for tipset in (*forks, *chain):
            await self._write([tipset])
        if below not in keys:
            await self._copy_recorded([below])
        await self._copy_recorded([tipset.key for tipset in chain])
        return len(chain) + len(forks) - (1 if below in keys else 0)

    async def _chain(self, head: TipsetKey, height: int) -> list[Tipset]:
        """The tipsets from `head` down to the first one below epoch `height` that is not a fork, oldest first."""
        found: list[Tipset] = []
        key = head
        while True:
            (tipset,) = await self._writer.tipsets([key])
            if tipset.height < height and await self._is_whole(tipset):
                break
            found.append(tipset)
            key = tipset.parents
            if tipset.height == 0:
                break
        return found[::-1]

    async def _is_whole(self, tipset: Tipset) -> bool:
        """Whether the copy holds of a tipset all that the source holds."""
        ours = decoded(await self._target.row(TIPSETS, tipset.key.cid, b""))
        theirs = decoded(await self._source.row(TIPSETS, tipset.key.cid, b""))
        return ours is not None and theirs is not None and not theirs.held & HELD_ALL & ~ours.held

    async def _forks(self, height: int) -> list[Tipset]:
        """Tipsets that the source lists near its head and the copy has no row of, oldest first."""
        low = max(0, height - _FORKS_BELOW)
        keys: list[TipsetKey] = []
        bucket = low // HEIGHT_BUCKET
        start = low.to_bytes(8, "big")
        while True:
            partition = bucket.to_bytes(8, "big")
            found = await self._source.scan(HEIGHTS, partition, start=start, limit=_PAGE)
            keys += [TipsetKey(key) for _, key in found]
            if len(found) == _PAGE:
                start = found[-1][0] + b"\0"
                continue
            bucket, start = bucket + 1, b""
            if not await self._source.scan(HEIGHTS, bucket.to_bytes(8, "big"), limit=1):
                break
        rows = await self._target.rows(TIPSETS, [(key.cid, b"") for key in keys])
        return await self._writer.tipsets([key for key, row in zip(keys, rows, strict=True) if row is None])

    async def _write(self, tipsets: Sequence[Tipset]) -> None:
        for tipset in tipsets:
            theirs = decoded(await self._source.row(TIPSETS, tipset.key.cid, b""))
            held = 0 if theirs is None else theirs.held
            if not held & HELD_MESSAGES:
                await self._writer.write_partial(tipset)
                continue
            scope = MirrorScope(state=bool(held & HELD_STATE), receipts=bool(held & HELD_RECEIPTS))
            await self._writer.write([tipset], scope, retries_missing=False, reports_missing=False)

    async def _copy_recorded(self, keys: Sequence[TipsetKey]) -> None:
        batch = Batch()
        for key in keys:
            for name, value in await self._source.scan(RECORDED, key.cid, limit=_PAGE):
                batch.put(RECORDED, key.cid, name, value)
        if batch:
            await self._target.write(batch)

    async def take_back_claims(self, pace: Pace) -> None:
        """Take from the copy's rows what the source has dropped meanwhile: flags and covered epochs.

        Errors: StoreError.
        """
        await self._take_back_coverage()
        async for page in row_pages(self._target, TIPSETS):
            ours = {partition: row for partition, _, value in page.rows if (row := decoded(value)) is not None}
            values = await self._source.rows(TIPSETS, [(partition, b"") for partition in ours])
            batch = Batch()
            for (partition, row), value in zip(ours.items(), values, strict=True):
                theirs = decoded(value)
                if theirs is not None and row.held & HELD_ALL & ~theirs.held:
                    held = row.held & (theirs.held | ~HELD_ALL)
                    batch.put(TIPSETS, partition, b"", _with_flags(row, held).encode())
            if batch:
                await self._target.write(batch)
            await pace.step()

    async def _take_back_coverage(self) -> None:
        batch = Batch()
        for index, _ in await self._target.scan(COVERAGE, b"", limit=_PAGE):
            ours = await covered(self._target, index)
            lost = without(ours, await covered(self._source, index))
            if lost:
                save_coverage(batch, index, without(ours, lost))
        if batch:
            await self._target.write(batch)


def _with_flags(row: TipsetRow, held: int) -> TipsetRow:
    return TipsetRow(row.key, row.height, row.parent, row.parent_height, held, row.skips)
