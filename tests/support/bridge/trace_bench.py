"""A made-up chain, a node that traces it, and the recorder of its traces at work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from blockstore.store import HeadEntry, TipsetRef
from chain.index.chain_index import TipsetRow
from chain.index.recorded_answers import TRACES, kept_answers
from chain.tipset import Tipset, TipsetKey
from leader_bridge.store.traces import Traces
from tests.support.made_chain import MadeChain


def hash_text(tipset: Tipset) -> str:
    return "0x" + tipset.key.block_hash.hex()


def made_trace(tipset: Tipset, at: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "type": "call",
        "subtraces": 0,
        "traceAddress": [],
        "action": {"callType": "call", "from": "0x" + "11" * 20, "to": "0x" + "22" * 20},
        "result": {"gasUsed": "0x1", "output": "0x"},
        "blockHash": hash_text(tipset),
        "blockNumber": tipset.height,
        "transactionHash": "0x" + f"{at:02x}" * 32,
        "transactionPosition": at,
        **more,
    }


class Node:
    """Traces the tipsets it is given, by epoch; says `error` instead where there is one."""

    name = "made up"

    def __init__(self, tipsets: list[Tipset]) -> None:
        self.tipsets = {tipset.height: tipset for tipset in tipsets}
        self.empty: set[int] = set()
        self.error: Exception | None = None
        self.wait = 0.0
        self.asked: list[int] = []
        self.changed = asyncio.Event()

    async def call(self, method: str, *params: Any) -> Any:
        # a follower's node takes the parameters as one list
        first = params[0][0] if isinstance(params[0], list) else params[0]
        if method == "Filecoin.EthTraceFilter":
            low, high = int(first["fromBlock"], 16), int(first["toBlock"], 16)
            return [made_trace(tipset) for height, tipset in self.tipsets.items() if low <= height <= high]
        height = int(first, 16)
        tipset = self.tipsets[height]
        if method == "eth_getBlockByNumber":
            return {"hash": hash_text(tipset)}
        if method == "Filecoin.EthTraceReplayBlockTransactions":
            return [{"transactionHash": made_trace(tipset)["transactionHash"]}]
        assert method in ("trace_block", "Filecoin.EthTraceBlock")
        self.asked.append(height)
        self.changed.set()
        await asyncio.sleep(self.wait)
        if self.error is not None:
            raise self.error
        return [] if height in self.empty else [made_trace(tipset)]

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(20):
            while len(self.asked) < times:
                self.changed.clear()
                await self.changed.wait()


class StubWriter:
    """What `Traces` needs of the bridge's writer."""

    def __init__(self, chain: MadeChain) -> None:
        self.index = chain.services().index
        self.rows_lock = asyncio.Lock()

    async def tipsets(self, keys: list[TipsetKey]) -> list[Tipset]:
        return [await self.index.tipset(key) for key in keys]

    async def row(self, key: TipsetKey) -> TipsetRow | None:
        return await self.index.row(key, fresh=True)


class Bench:
    """A chain of `count` tipsets, a node that has it, and the recorder of its traces at work."""

    def __init__(self, lookback: int = 1000, publish_wait_seconds: float = 5.0) -> None:
        self.chain = MadeChain()
        self.tipsets: list[Tipset] = []
        self.head: HeadEntry | None = None
        self.node = Node([])
        self.lookback = lookback
        self.publish_wait_seconds = publish_wait_seconds

    async def grow(self, count: int) -> list[Tipset]:
        new: list[Tipset] = []
        for _ in range(count):
            parent = self.tipsets[-1] if self.tipsets else None
            height = parent.height + (2 if parent.height % 5 == 4 else 1) if parent else 0
            new.append(await self.chain.add(parent, height))
            self.tipsets.append(new[-1])
            self.node.tipsets[height] = new[-1]
        top = self.tipsets[-1]
        self.head = HeadEntry(1, 1, (), (), TipsetRef(top.height, top.key))
        return new

    @contextlib.asynccontextmanager
    async def work(self) -> AsyncIterator[Traces]:
        traces = Traces(
            self.chain.store,
            StubWriter(self.chain),  # type: ignore[arg-type]
            self.lookback,
            lambda: self.head,
            publish_wait_seconds=self.publish_wait_seconds,
            retry_seconds=0.01,
        )
        traces.begin(self.node)  # type: ignore[arg-type]
        running = asyncio.create_task(traces.run())
        try:
            yield traces
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    async def recorded(self) -> list[int]:
        cids = [tipset.key.cid for tipset in self.tipsets]
        found = await kept_answers(self.chain.store, cids, TRACES)
        return [tipset.height for tipset, one in zip(self.tipsets, found, strict=True) if one is not None]


async def until_idle(traces: Traces) -> None:
    async with asyncio.timeout(20):
        await traces.idle.wait()
