"""The published chain as its headers tell it, down to where they end: what rows are held against."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from blockstore.cid import Cid, verify
from blockstore.errors import BadCid, HashMismatch
from blockstore.store import TIPSETS, Store
from chain.block import decode_header
from chain.errors import BadObject
from chain.index.chain_index import TipsetRow, decode_row
from chain.index.coverage import Ranges, contains
from chain.tipset import Tipset, TipsetKey
from leader_bridge.imports.progress import Reporter
from leader_bridge.imports.spill_file import KeySpillFile
from leader_bridge.upkeep.careful import read_many
from leader_bridge.upkeep.damage import CheckReport, Damage, Kind
from leader_bridge.upkeep.pace import Pace
from leader_bridge.upkeep.repair import Mender

#: tipsets between two rests
_STEP = 256


def decoded(value: bytes | None) -> TipsetRow | None:
    """A row of TIPSETS; None where there is none, or one that cannot be read."""
    if value is None:
        return None
    try:
        return decode_row(value)
    except BadObject:
        return None


class Headers:
    """Reads tipsets and verifies their headers; absent ones are fetched where there is a mender."""

    def __init__(self, store: Store, report: CheckReport, mender: Mender | None) -> None:
        self._store = store
        self._report = report
        self._mender = mender

    async def tipsets(self, keys: Sequence[TipsetKey], *, expected: bool = True) -> list[Tipset | None]:
        """Tipsets by key; None for one of which a header is not held, or which are no blocks.

        `expected`: a header that is absent is a damage. Errors: StoreError.
        """
        cids = [cid for key in keys for cid in key.cids]
        raws = dict(zip(cids, await read_many(self._store, [cid.multihash for cid in cids]), strict=True))
        for cid, raw in raws.items():
            try:
                if raw is not None:
                    verify(cid.multihash, raw)
            except (HashMismatch, BadCid):
                # the check of the objects names it
                raws[cid] = None
        absent = [cid for cid, raw in raws.items() if raw is None]
        if absent and expected and self._mender is not None:
            found = await self._mender.fetch(absent)
            await self._mender.put_closed((cid.multihash, raw) for cid, raw in found.items())
            raws.update(found)
        if expected:
            for cid in absent:
                how = "fetched" if raws[cid] is not None else ""
                self._report.add(Damage(Kind.MISSING, str(cid), "it is a block of the chain that is indexed", how))
        return [_tipset(key, raws) for key in keys]


def _tipset(key: TipsetKey, raws: Mapping[Cid, bytes | None]) -> Tipset | None:
    try:
        blocks = [decode_header(cid, raw) for cid in key.cids if (raw := raws[cid]) is not None]
        found = Tipset.of(blocks) if len(blocks) == len(key.cids) else None
    except BadObject:
        return None
    return found if found is not None and found.key == key else None


async def walk_down(
    store: Store,
    headers: Headers,
    head: TipsetKey,
    indexed: Ranges,
    spool: KeySpillFile,
    *,
    pace: Pace,
    progress: Reporter,
) -> Tipset | None:
    """Write the keys of the chain below `head`, newest first, into `spool`; the lowest tipset that is held.

    Where a header is lost, the tipset's row leads on. `indexed`: the epochs that have rows. Errors: StoreError.
    """
    lowest: Tipset | None = None
    key, height = head, -1
    progress.phase("headers", None, "tipsets")
    while True:
        is_expected = height < 0 or contains(indexed, height - 1)
        (tipset,) = await headers.tipsets([key], expected=is_expected)
        if tipset is not None:
            lowest, key, height = tipset, tipset.parents, tipset.height
            spool.append(tipset.key)
        else:
            row = decoded(await store.row(TIPSETS, key.cid, b""))
            if row is None or row.key != key or (height >= 0 and row.height >= height):
                return lowest
            spool.append(key)
            key, height = row.parent, row.height
        if height == 0:
            return lowest
        if not spool.count % _STEP:
            progress.at(spool.count, f"epoch {height}")
            await pace.step()


def groups(spool: KeySpillFile, size: int) -> Iterator[list[TipsetKey]]:
    """The keys of a walk, oldest first, in groups."""
    keys = spool.backwards()
    while group := list(itertools.islice(keys, size)):
        yield group
