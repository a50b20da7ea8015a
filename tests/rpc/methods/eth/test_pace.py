"""No Ethereum method keeps the event loop: the work between two checkpoints is short, however big the tipset.

What counts is the processor time of the thread, which other processes on the machine do not change; a worker's garbage
collector looks rarely (`tune_garbage_collector`), so here it is off.
"""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from pathlib import Path
from time import thread_time
from typing import Any

import orjson
import pytest

from blockstore.cid import RAW
from blockstore.memory import MemoryStore
from blockstore.store import Batch, HeadEntry, TipsetRef
from chain.address import from_id
from chain.index.recorded_answers import TRACES, keep_answer
from chain.message import Message
from chain.network import save_network
from chain.tipset import Tipset
from rpc.methods import register_all
from rpc.pacer import LoopPacer
from rpc.server.dispatch import Dispatcher
from tests.support.bridge.trace_bench import made_trace
from tests.support.event_chain import NATIVE, POOL, TOKEN, EventChain, topic
from tests.support.made_chain import ask
from tests.support.served import services_over

MESSAGES = 2000
EVENTS_EACH = 16
#: processor seconds between two checkpoints, some times what it takes
MAX_STEP = 0.05


class WatchedPacer(LoopPacer):
    """Gives no slice, so that each checkpoint comes here, and watches how long the thread works between two."""

    __slots__ = ("last", "longest", "place", "where")

    def __init__(self) -> None:
        super().__init__(slice_seconds=-1.0)
        self.last = thread_time()
        self.longest = 0.0
        #: the last checkpoint, and the two that the longest step lies between: for who reads of a failure
        self.place = "the beginning"
        self.where = ""

    async def turn(self) -> None:
        now = thread_time()
        code = sys._getframe(1)
        place = f"{Path(code.f_code.co_filename).name}:{code.f_lineno}"
        if now - self.last > self.longest:
            self.longest = now - self.last
            self.where = f"{self.place} to {place}"
        self.place = place
        await super().turn()
        self.last = thread_time()


class BigChain(EventChain):
    """The tipset at epoch 1 has many messages, each of which emits many events."""

    def __init__(self, has_event_rows: bool) -> None:
        super().__init__(MemoryStore())
        self.has_event_rows = has_event_rows

    async def make(self) -> Tipset:
        first = await self.tipset(None)
        messages = [
            Message(0, bytes(from_id((TOKEN, POOL, NATIVE)[at % 3])), bytes(from_id(2000 + at)), 0, at, 9, 1, 1, 0, b"")
            for at in range(MESSAGES)
        ]
        state = await self._root()
        big = await self.add(first, 1, [(messages, ())], receipts=await self._receipts([]), state=state, salt=7)
        receipts = []
        for at in range(MESSAGES):
            entries = [[3, "t1", RAW, topic(at % 7)], [3, "t2", RAW, topic(at)], [3, "d", RAW, bytes(64)]]
            events = [[(TOKEN, POOL)[at % 2], entries] for _ in range(EVENTS_EACH)]
            receipts.append([0, b"", 1000, await self.amt(events, 3, 5)])
        child = await self.add(big, 2, [(messages[:1], ())], receipts=await self.amt(receipts), state=state, salt=8)
        self._logs[child.key] = ()
        for one in (first, big, child):
            self._tipsets[one.key] = one
        last = await self.tipset(child)
        if self.has_event_rows:
            await self.publish([], [first, big, child, last])
        else:
            batch = Batch()
            save_network(batch, self.network)
            await self.store.write(batch)
            refs = tuple(TipsetRef(one.height, one.key) for one in (first, big, child, last))
            await self.store.append_head(HeadEntry(1, await self.store.new_term("test"), (), refs, refs[-1]))
        traces = [made_trace(big, at % MESSAGES, result={"output": "0x" + "ab" * 2000}) for at in range(3000)]
        for trace in traces:
            trace["transactionHash"] = ""
        await keep_answer(self.store, big.key.cid, TRACES, orjson.dumps(traces))
        return big


CALLS: dict[str, tuple[Any, ...]] = {
    "EthGetLogs": ({"fromBlock": "0x0"},),
    "EthGetBlockReceipts": ("0x1",),
    "EthGetBlockByNumber": ("0x1", True),
    "EthGetBlockTransactionCountByNumber": ("0x1",),
    "EthFeeHistory": ("0x400", "latest", [float(at) for at in range(100)]),
    "EthTraceFilter": ({"fromBlock": "0x1", "toBlock": "0x1", "after": "0xb00"},),
    "EthNewFilter": ({"fromBlock": "0x0"},),
    "GetActorEventsRaw": ({"fromHeight": 0},),
}


@pytest.mark.parametrize("has_event_rows", [False, True])
async def test_no_method_keeps_the_loop(has_event_rows: bool, request: pytest.FixtureRequest) -> None:
    register_all()
    chain = BigChain(has_event_rows)
    await chain.make()
    gc.disable()
    request.addfinalizer(gc.enable)
    steps: dict[str, tuple[float, str]] = {}
    for name, params in CALLS.items():
        # what the machine adds once is not there again
        for _ in range(3):
            # nothing is cached
            pacer = WatchedPacer()
            dispatcher = Dispatcher(replace(await services_over(chain.store), pacer=pacer))
            pacer.last = thread_time()
            answer = await ask(dispatcher, name, *params)
            assert "error" not in answer, answer
            assert pacer.turns > 10, name
            step = pacer.longest, pacer.where
            steps[name] = min(step, steps.get(name, step))
            if steps[name][0] <= MAX_STEP:
                break
    assert {name: step for name, step in steps.items() if step[0] > MAX_STEP} == {}, steps


@pytest.mark.parametrize(
    ("method", "wanted", "text"),
    [
        ("EthGetLogs", {"topics": [["0x" + f"{at:064x}" for at in range(1001)]]}, "EthHashList: 1001, max: 1000"),
        ("EthGetLogs", {"address": ["0x" + f"{at:040x}" for at in range(1001)]}, "EthAddressList: 1001, max: 1000"),
        ("EthGetLogs", {"topics": [None] * 65}, "ethtypes.EthTopicSpec: 65, max: 64"),
        ("EthTraceFilter", {"toAddress": ["0x" + f"{at:040x}" for at in range(1001)]}, "EthAddressList: 1001, max:"),
        ("GetActorEventsRaw", {"addresses": [f"t0{at}" for at in range(1001)]}, "[]address.Address: 1001, max: 1000"),
        ("GetActorEventsRaw", {"fields": {str(at): None for at in range(33)}}, "ActorEventBlock: 33, max: 32"),
        ("GetActorEventsRaw", {"fields": {"t1": [None] * 1001}}, "ActorEventBlock: 1001, max: 1000"),
    ],
)  # fmt: skip
async def test_filters_that_are_too_large_are_refused(method: str, wanted: dict[str, Any], text: str) -> None:
    register_all()
    chain = EventChain(MemoryStore())
    await chain.grow()
    answer = await ask(Dispatcher(await services_over(chain.store)), method, wanted)
    assert answer["error"]["code"] == -32700
    assert text in answer["error"]["message"]
