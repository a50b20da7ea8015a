"""Rows that nothing on the chain asks for: each table from its first row to its last.

`chain_check` finds rows that are lost or wrong. Here are found those that should not be there: rows that name tipsets,
messages or pieces that are not known.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import orjson

from blockstore.cid import Cid
from blockstore.errors import BadCid
from blockstore.scan import row_pages
from blockstore.store import ETH_TXS, HEIGHTS, MESSAGES, RECORDED, TIPSETS, Batch, Store, Table
from chain.index.chain_index import height_row
from chain.index.eth_rows import index_eth_txs
from chain.index.recorded_answers import F3_CERTIFICATE, TRACES, piece_key
from chain.ipld.objects import Objects
from chain.network import NetworkRecord
from leader_bridge.imports.progress import Reporter
from leader_bridge.upkeep.careful import read_many
from leader_bridge.upkeep.chain_walk import decoded
from leader_bridge.upkeep.damage import CheckReport
from leader_bridge.upkeep.pace import Pace
from leader_bridge.upkeep.row_fixes import RowFixes

Rows = Sequence[tuple[bytes, bytes, bytes]]


class TableCheck:
    """Checks whole tables, a page of rows at a time."""

    def __init__(
        self, store: Store, reads: Store, report: CheckReport, fixes: RowFixes, network: NetworkRecord | None
    ) -> None:
        self._store = store
        self._reads = reads
        self._report = report
        self._fixes = fixes
        self._network = network

    async def run(self, pace: Pace, progress: Reporter) -> None:
        """Check all tables. Errors: StoreError."""
        checks: list[tuple[Table, Callable[[Rows], Awaitable[None]]]] = [
            (TIPSETS, self._tipsets),
            (MESSAGES, self._messages),
            (ETH_TXS, self._eth_txs),
            (RECORDED, self._recorded),
        ]
        for table, check in checks:
            progress.phase(f"rows of {table.name}", None, "rows")
            done = 0
            async for page in row_pages(self._store, table):
                await check(page.rows)
                await self._fixes.flush()
                self._report.rows += len(page.rows)
                done += len(page.rows)
                progress.at(done)
                await pace.step()

    async def _tipsets(self, rows: Rows) -> None:
        found = []
        for partition, key, value in rows:
            row = decoded(value)
            if partition in self._report.doubtful:
                continue
            if row is None:
                self._fixes.superfluous(TIPSETS, partition, key, "it cannot be read")
            elif row.key.cid != partition:
                self._fixes.superfluous(TIPSETS, partition, key, f"it is the row of {row.key}")
            else:
                at, prefix = height_row(row.height)
                found.append((HEIGHTS, at, prefix + partition, bytes(row.key)))
        await self._fixes.compare(found)

    async def _messages(self, rows: Rows) -> None:
        tipsets = list(dict.fromkeys(key[8:] for _, key, _ in rows))
        values = await self._store.rows(TIPSETS, [(cid, b"") for cid in tipsets])
        known = {cid: row.height for cid, value in zip(tipsets, values, strict=True) if (row := decoded(value))}
        for partition, key, _ in rows:
            if key[8:] not in self._report.doubtful and known.get(key[8:]) != int.from_bytes(key[:8], "big"):
                self._fixes.superfluous(MESSAGES, partition, key, "there is no such tipset at this epoch")

    async def _eth_txs(self, rows: Rows) -> None:
        if self._network is None:
            return
        cids: list[Cid] = []
        for _, _, value in rows:
            try:
                cids.append(Cid(value))
                cids[-1].multihash  # noqa: B018  (is it a CID?)
            except BadCid:
                cids[-1] = Cid()
        held = await read_many(self._reads, [cid.multihash for cid in cids if cid])
        # messages that have aged are not held, and their rows may be
        messages = [cid for cid, raw in zip([cid for cid in cids if cid], held, strict=True) if raw is not None]
        batch = Batch()
        await index_eth_txs(batch, Objects(self._reads, cache_bytes=1 << 20), messages, self._network.eth_chain_id)
        right = {(partition, value) for _, partition, _, value in batch.puts}
        there = set(messages)
        for (partition, key, value), cid in zip(rows, cids, strict=True):
            if (not cid or cid in there) and (partition, value) not in right:
                self._fixes.superfluous(ETH_TXS, partition, key, "it names another message than the one of this hash")

    async def _recorded(self, rows: Rows) -> None:
        tipsets = list(dict.fromkeys(partition for partition, _, _ in rows))
        values = await self._store.rows(TIPSETS, [(cid, b"") for cid in tipsets])
        known = {cid for cid, value in zip(tipsets, values, strict=True) if value is not None}
        for partition, key, value in rows:
            if partition not in known and partition not in self._report.doubtful:
                self._fixes.superfluous(RECORDED, partition, key, "its tipset is not known")
            elif key == F3_CERTIFICATE and not _is_json(value):
                self._fixes.superfluous(RECORDED, partition, key, "it is not JSON")
            elif key == TRACES:
                pieces = [(partition, piece_key(TRACES, n)) for n in range(1, int.from_bytes(value[:2], "big"))]
                if None in await self._store.rows(RECORDED, pieces):
                    self._fixes.superfluous(RECORDED, partition, key, "some of its pieces are not there")


def _is_json(value: bytes) -> bool:
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    return True
