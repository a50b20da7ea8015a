"""Removes the rows of epochs that are no longer kept: flags, rows of messages and Ethereum transactions, event rows.

Whatever lies below has been said to be "not held" a while before, so nobody reads it any more. Each step may be done
twice. Partitions that are a bucket of epochs go whole; a message's own partition loses the rows of its aged tipsets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Final

from blockstore.cid import Cid
from blockstore.errors import Missing
from blockstore.generations import GenerationalStore
from blockstore.store import (
    COVERAGE,
    ETH_TXS,
    EVENT_POSTINGS,
    EVENTS,
    MESSAGES,
    RECORDED,
    TIPSETS,
    Batch,
    Store,
)
from chain.index.chain_index import listed_tipsets
from chain.index.coverage import MESSAGES_INDEX
from chain.index.eth_rows import ETH_TXS_INDEX, index_eth_txs
from chain.index.event_rows import (
    EVENTS_BUCKET,
    EVENTS_INDEX,
    POSTINGS_BUCKET,
    decode_group,
    groups_in,
    mark_partition,
    posting_partition,
    terms_of,
)
from chain.ipld.objects import Objects
from chain.network import load_network
from chain.tipset import Tipset, TipsetKey
from leader_bridge import metrics
from leader_bridge.retention.copy_rate import CopyRate
from leader_bridge.store.indexer import included_messages, message_key, signed_messages
from leader_bridge.store.recorder import QUESTIONS
from leader_bridge.store.tipset_writer import TipsetWriter

#: indices whose ranges are cut when their epochs age
AGING_INDICES: Final = (MESSAGES_INDEX, ETH_TXS_INDEX, EVENTS_INDEX)
_PAGE: Final = 256
_REMEMBERED: Final = 500_000


class AgedRows:
    """Removes rows of epochs `low` to `high` - 1, of all tipsets seen at them, at the pace of the pass."""

    def __init__(self, store: Store, writer: TipsetWriter, rate: CopyRate) -> None:
        assert isinstance(store, GenerationalStore)
        self._store = store
        self._writer = writer
        self._rate = rate
        self._objects = Objects(store, cache_bytes=4 << 20)

    async def clear_flags(self, low: int, high: int, flags: int, kind: str) -> None:
        """Take flags off the tipsets' rows: what they said is held is not any more."""
        async for keys in self._tipsets(low, high):
            async with self._writer.rows_lock:
                batch = Batch()
                for key in keys:
                    row = await self._writer.row(key)
                    if row is not None and row.held & flags:
                        batch.put(TIPSETS, key.cid, b"", replace(row, held=row.held & ~flags).encode())
                for key in keys:
                    for question in QUESTIONS:
                        batch.delete(RECORDED, key.cid, question)
                await self._store.write(batch)
            metrics.ROWS_REMOVED.labels(kind).inc(len(keys))

    async def remove_messages(self, low: int, high: int) -> None:
        """Remove the rows by which messages and Ethereum transactions are found; their objects are still held."""
        network = await load_network(self._store)
        async for keys in self._tipsets(low, high):
            batch = Batch()
            for key in keys:
                await self._remove_messages(batch, key, network.eth_chain_id if network else None)
            await self._store.write(batch)
            metrics.ROWS_REMOVED.labels("messages").inc(len(keys))

    async def _remove_messages(self, batch: Batch, key: TipsetKey, chain_id: int | None) -> None:
        try:
            (tipset,) = await self._writer.tipsets([key])
            listed = await self._writer.block_messages(tipset)
        except Missing:
            return  # it never had rows: they are made from the messages
        at = message_key(tipset.height, key.cid)
        for cid in included_messages(listed):
            batch.delete(MESSAGES, bytes(cid), at)
        if chain_id is None:
            return
        gone = [cid for cid in dict.fromkeys(signed_messages([listed])) if not await self._is_elsewhere(cid, tipset)]
        rows = Batch()
        try:
            await index_eth_txs(rows, self._objects, gone, chain_id)
        except Missing:
            return
        for table, partition, row_key, _ in rows.puts:
            assert table is ETH_TXS
            batch.delete(table, partition, row_key)

    async def _is_elsewhere(self, cid: Cid, tipset: Tipset) -> bool:
        """Whether a message is included by a younger tipset too: after a reorg it may be."""
        behind = message_key(tipset.height + 1, b"")
        return bool(await self._store.scan(MESSAGES, bytes(cid), start=behind, limit=1))

    async def remove_events(self, low: int, high: int) -> None:
        """Remove the event rows of whole days; `low` and `high` are their first epochs."""
        assert isinstance(self._store, GenerationalStore)
        for day in range(low, high, POSTINGS_BUCKET):
            #: terms whose posting lists of the day are gone
            dropped: set[bytes] = set()
            for at in range(day, day + POSTINGS_BUCKET, EVENTS_BUCKET):
                partition = (at // EVENTS_BUCKET).to_bytes(8, "big")
                start = b""
                while rows := await self._store.scan(EVENTS, partition, start=start, limit=64):
                    await self._rate.take(len(rows))
                    terms = _terms_in([chunk for _, chunk in rows]) - dropped
                    partitions = [posting_partition(term, day) for term in terms]
                    await self._store.drop_partitions(EVENT_POSTINGS, partitions)
                    dropped |= terms
                    start = rows[-1][0] + b"\0"
                if start:
                    await self._store.drop_partitions(EVENTS, [partition])
                if len(dropped) > _REMEMBERED:
                    dropped.clear()
            await self._store.drop_partitions(COVERAGE, [mark_partition(day)])
            metrics.ROWS_REMOVED.labels("events").inc(POSTINGS_BUCKET)

    async def _tipsets(self, low: int, high: int) -> AsyncIterator[Sequence[TipsetKey]]:
        """The keys of the tipsets at epochs `low` to `high` - 1, some at a time. The genesis stays as it is."""
        async for listed in listed_tipsets(self._store, max(low, 1), high - 1, _PAGE):
            await self._rate.take(len(listed))
            yield [key for _, key in listed]


def _terms_in(chunks: Sequence[bytes]) -> set[bytes]:
    """The terms whose posting lists name what is in these chunks of events."""
    groups = (decode_group(chunk, place) for chunk in chunks for place in range(groups_in(chunk)))
    return {term for group in groups for term in terms_of(group)}
