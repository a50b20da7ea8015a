"""`follower store check`: objects, then rows, then what COVERAGE claims. With a mender, what can be mended is.

Nothing is written without one, and the check may run beside a bridge and followers. What it compares with is the chain
below the head at which it began.
"""

from __future__ import annotations

from typing import Final

from blockstore.store import HEIGHTS, Batch, Store
from chain.index.chain_index import HEIGHT_BUCKET
from chain.index.coverage import MESSAGES_INDEX, Ranges, covered, ranges_text
from chain.index.eth_rows import ETH_TXS_INDEX
from chain.index.event_rows import EVENTS_INDEX
from chain.network import load_network
from chain.tipset import Tipset, TipsetKey
from leader_bridge.imports.progress import Reporter, Silent
from leader_bridge.imports.spill_file import KeySpillFile
from leader_bridge.store.coverage import TIPSETS_INDEX, merge_ranges, save_coverage, without
from leader_bridge.upkeep.chain_check import ChainCheck
from leader_bridge.upkeep.chain_walk import Headers, groups, walk_down
from leader_bridge.upkeep.damage import CheckReport, Kind
from leader_bridge.upkeep.head_check import check_head_log
from leader_bridge.upkeep.object_check import LinkCheck, check_objects
from leader_bridge.upkeep.pace import Pace
from leader_bridge.upkeep.repair import Mender
from leader_bridge.upkeep.row_fixes import RowFixes
from leader_bridge.upkeep.table_check import TableCheck

_INDICES: Final = (TIPSETS_INDEX, MESSAGES_INDEX, ETH_TXS_INDEX, EVENTS_INDEX)
_GROUP: Final = 64


async def check_store(
    store: Store,
    report: CheckReport,
    *,
    mender: Mender | None = None,
    pace: Pace | None = None,
    progress: Reporter | None = None,
    objects: bool = True,
    rows: bool = True,
    after: bytes = b"",
    term: int = 0,
    reads: Store | None = None,
) -> None:
    """Check a store; `report` says what was found.

    `reads`: what objects are looked up in, where archives are below the store.

    `objects`, `rows`: which of both to check. `after`: the position at which an earlier check of the objects ended.
    `term`: under which a repair publishes, where the store has a lease. Errors: StoreError.
    """
    pace = pace or Pace()
    progress = progress or Silent()
    if objects:
        links = LinkCheck(store, report, mender, reads)
        await check_objects(store, report, links, mender=mender, pace=pace, progress=progress, after=after)
    if rows:
        await _check_rows(store, reads or store, report, mender, pace, progress, term)


async def _check_rows(
    store: Store,
    reads: Store,
    report: CheckReport,
    mender: Mender | None,
    pace: Pace,
    progress: Reporter,
    term: int,
) -> None:
    network = await load_network(store)
    fixes = RowFixes(store, report, mender)
    coverage = {index: await _coverage(store, index, fixes) for index in _INDICES}
    headers = Headers(reads, report, mender)
    progress.phase("head log", None, "entries")
    head = await check_head_log(store, report, headers, mender, term)
    if head is not None:
        with KeySpillFile() as spool:
            lowest = await walk_down(store, headers, head, coverage[TIPSETS_INDEX], spool, pace=pace, progress=progress)
            links = LinkCheck(store, report, mender, None if reads is store else reads)
            chain = ChainCheck(reads, links, report, fixes, headers, mender, network, coverage)
            progress.phase("rows of tipsets", spool.count, "tipsets")
            done = 0
            for keys in groups(spool, _GROUP):
                await chain.check(keys)
                done += len(keys)
                progress.at(done)
                await pace.step()
        if lowest is not None:
            await _check_coverage(store, fixes, coverage, chain.lacking.epochs, lowest, head)
    await TableCheck(store, reads, report, fixes, network).run(pace, progress)
    await fixes.flush()


async def _coverage(store: Store, index: bytes, fixes: RowFixes) -> Ranges:
    """What COVERAGE says of an index; nothing where it cannot be read."""
    try:
        return await covered(store, index)
    except (ValueError, TypeError):
        fixes.wrong(Kind.COVERAGE, index.decode(), "it cannot be read")
        return []


async def _check_coverage(
    store: Store,
    fixes: RowFixes,
    coverage: dict[bytes, Ranges],
    lacking: dict[bytes, Ranges],
    lowest: Tipset,
    head: TipsetKey,
) -> None:
    """What COVERAGE claims below the chain that is held, above it, and of epochs that lack it."""
    highest = await _highest_epoch(store, coverage)
    for index, ranges in coverage.items():
        false = [*lacking.get(index, []), (highest + 1, max((last for _, last in ranges), default=0))]
        if lowest.height > 1:
            # the genesis may be held far below all else
            false.append((1, lowest.height - 1))
        false = [(low, high) for low, high in false if low <= high]
        right = without(ranges, false)
        if right != merge_ranges(ranges):
            claimed = without(ranges, right)
            batch = Batch()
            save_coverage(batch, index, without(await covered(store, index), false))
            what = f"it claims {ranges_text(claimed)}, which the store does not hold"
            fixes.wrong(Kind.COVERAGE, index.decode(), what, puts=batch.puts)
    await fixes.flush()


async def _highest_epoch(store: Store, coverage: dict[bytes, Ranges]) -> int:
    """The highest epoch of a known tipset, at most the highest that is covered."""
    top = max((last for ranges in coverage.values() for _, last in ranges), default=0)
    for bucket in range(top // HEIGHT_BUCKET, -1, -1):
        found = await store.scan(HEIGHTS, bucket.to_bytes(8, "big"), reverse=True, limit=1)
        if found:
            return int.from_bytes(found[0][0][:8], "big")
    return -1
