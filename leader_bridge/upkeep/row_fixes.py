"""Compares rows with what they should be, and writes the right ones where a repair was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from blockstore.cid import Cid
from blockstore.store import (
    COVERAGE,
    ETH_TXS,
    EVENT_POSTINGS,
    EVENTS,
    HEIGHTS,
    MESSAGES,
    POST,
    RECORDED,
    TIPSETS,
    Batch,
    Store,
    Table,
)
from chain.tipset import Tipset
from leader_bridge.upkeep.damage import CheckReport, Damage, Kind
from leader_bridge.upkeep.repair import Mender

KINDS: Final = {
    TIPSETS.name: Kind.TIPSET,
    HEIGHTS.name: Kind.HEIGHT,
    POST.name: Kind.POST,
    MESSAGES.name: Kind.MESSAGE,
    ETH_TXS.name: Kind.ETH_TX,
    EVENTS.name: Kind.EVENT,
    EVENT_POSTINGS.name: Kind.EVENT,
    COVERAGE.name: Kind.EVENT,
    RECORDED.name: Kind.RECORDED,
}
#: tipsets whose damaged rows are remembered
_MOST_DOUBTFUL: Final = 100_000
Put = tuple[Table, bytes, bytes, bytes]


def row_name(table: Table, partition: bytes, key: bytes) -> str:
    """A row as a report names it."""
    epoch = int.from_bytes(key[:8], "big")
    match table.name:
        case TIPSETS.name | POST.name:
            return f"tipset {Cid(partition)}"
        case HEIGHTS.name:
            return f"epoch {epoch}, tipset {Cid(key[8:])}"
        case MESSAGES.name:
            return f"{Cid(partition)} in epoch {epoch}, tipset {Cid(key[8:])}"
        case ETH_TXS.name:
            return "0x" + partition.hex()
        case EVENTS.name:
            return f"epoch {epoch}, tipset 0x{key[8:40].hex()}, chunk {int.from_bytes(key[40:], 'big')}"
        case EVENT_POSTINGS.name:
            return f"epoch {epoch}, tipset 0x{key[8:].hex()}, list {partition[4:].hex()}"
        case COVERAGE.name:
            return f"epoch {epoch}, tipset 0x{key[8:].hex()}, mark"
        case _:
            return f"{partition.hex()} {key!r}"


class RowFixes:
    """Notes damaged rows and gathers what mends them. `flush` writes that: call it after each group of rows."""

    def __init__(self, store: Store, report: CheckReport, mender: Mender | None) -> None:
        self._store = store
        self._report = report
        self._mender = mender
        self._batch = Batch()

    @property
    def is_repairing(self) -> bool:
        """Whether rows are mended."""
        return self._mender is not None

    def wrong(self, kind: Kind, key: str, what: str, *, puts: Sequence[Put] = (), how: str = "") -> None:
        """Note a damage. `puts` mend it; `how` says how it was mended, where not by writing rows again."""
        mended = how or ("written again" if puts else "")
        self._report.add(Damage(kind, key, what, mended if self.is_repairing else ""))
        if self.is_repairing:
            self._batch.puts += puts

    def wrong_tipset(self, tipset: Tipset, what: str, puts: Sequence[Put]) -> None:
        """Note a damaged row of TIPSETS."""
        self.wrong(Kind.TIPSET, f"{tipset.key} of epoch {tipset.height}", what, puts=puts)
        if not self.is_repairing and len(self._report.doubtful) < _MOST_DOUBTFUL:
            self._report.doubtful.add(tipset.key.cid)

    def superfluous(self, table: Table, partition: bytes, key: bytes, what: str) -> None:
        """Note a row that should not be there; a repair removes it."""
        name = row_name(table, partition, key)
        self._report.add(Damage(KINDS[table.name], name, what, "removed" if self.is_repairing else ""))
        if self.is_repairing:
            self._batch.delete(table, partition, key)

    async def compare(self, puts: Sequence[Put]) -> None:
        """Compare rows with what is stored. Errors: StoreError."""
        by_table: dict[str, list[Put]] = {}
        for put in puts:
            by_table.setdefault(put[0].name, []).append(put)
        for some in by_table.values():
            stored = await self._store.rows(some[0][0], [(partition, key) for _, partition, key, _ in some])
            self._report.rows += len(some)
            for put, value in zip(some, stored, strict=True):
                if value != put[3]:
                    table, partition, key, _ = put
                    what = "it is not there" if value is None else "it says something else than the chain"
                    self.wrong(KINDS[table.name], row_name(table, partition, key), what, puts=[put])

    async def flush(self) -> None:
        """Write what mends the damages noted so far. Errors: StoreError."""
        batch, self._batch = self._batch, Batch()
        if self._mender is not None:
            await self._mender.write(batch)
