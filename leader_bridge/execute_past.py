"""What a store's past lacks, made by execution with no node at all: receipts, events, traces, newest first."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from blockstore.archive.tier import ArchivedObjects, Archives
from blockstore.store import Store
from chain.errors import NotHeld
from chain.index.coverage import covered
from chain.index.recorded_answers import TRACES_INDEX
from leader_bridge.backfill import Backfill
from leader_bridge.nodes.archive_fetcher import ArchiveFetcher
from leader_bridge.nodes.no_nodes import NoNodes
from leader_bridge.store.executed_receipts import ExecutedReceipts
from leader_bridge.store.execution import TipsetExecution
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.tipset_writer import TipsetWriter
from leader_bridge.store.traces import Traces
from rpc.executor import Executor

#: seconds until an executor that did not answer is asked for traces again
_RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class PastReport:
    """`lacking`: tipsets of the chain whose receipts or events are still not held. `traced`: epochs with traces."""

    lacking: int
    traced: int


async def execute_past(
    store: Store,
    executor: Executor,
    *,
    percent: int = 100,
    trace_lookback: int | None = None,
    archives: Archives | None = None,
) -> PastReport:
    """Make what can be made. `percent` of the time is spent on receipts and events. `trace_lookback`: epochs below the
    head whose traces are recorded; None: no traces. `archives`: read below the store.

    It can be cancelled or killed at any moment; the next call goes on. The store's term is the caller's.
    Errors: NotHeld (no head), ExecutionDiffers, RpcError (the executor does not answer), StoreError.
    """
    entry = await store.head()
    if entry is None:
        raise NotHeld("any head: import a snapshot first")
    reads = None if archives is None else ArchivedObjects(store, archives)
    fetcher = NoNodes() if archives is None else ArchiveFetcher(archives, NoNodes())
    writer = TipsetWriter(store, Mirror(store, fetcher), reads=reads)
    execution = TipsetExecution(store, executor, reads)
    backfill = Backfill(
        store,
        writer,
        state=False,
        executed=ExecutedReceipts(store, writer, execution, percent=percent),
        asks_nodes=False,
        head=lambda: entry,
        head_change_lock=asyncio.Lock(),
    )
    await backfill.one_pass()
    if trace_lookback is not None:
        make = execution.traces
        traces = Traces(store, writer, trace_lookback, lambda: entry, make=make, retry_seconds=_RETRY_SECONDS)
        traces.begin(None)
        running = asyncio.create_task(traces.run())
        try:
            await traces.idle.wait()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    lowest = 0 if trace_lookback is None else max(0, entry.head.height - trace_lookback)
    ranges = await covered(store, TRACES_INDEX)
    traced = sum(high - max(low, lowest) + 1 for low, high in ranges if high >= lowest)
    return PastReport(await backfill.count_lacking(), traced)
