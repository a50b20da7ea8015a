"""The head is executed; then its child's header says something else."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from blockstore.cid import Cid, cid_of
from blockstore.open import open_store
from blockstore.store import Batch, HeadEntry, Store, TipsetRef
from chain.block import encode_header
from chain.index.chain_index import HELD_ALL, ChainIndex, index_rows
from chain.ipld.objects import Objects
from chain.tipset import Tipset, TipsetKey
from rpc.context import Context
from rpc.lookup.self_check import CheckedExecutor, executed_roots
from rpc.lotus_json import json_cache
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from tests.execution.machine import executing, import_recorded, require_machine
from tests.execution.test_executor_process import Rpc, rpc
from tests.support.processes import follower_process, free_port, run_follower

_UNAVAILABLE = -32002


@pytest.fixture
def store(tmp_path: Path) -> str:
    require_machine()
    return import_recorded("devnet", tmp_path)


async def head_of(store: Store) -> Tipset:
    entry = await store.head()
    assert entry is not None
    return await ChainIndex(store, Objects(store)).tipset(TipsetKey(entry.head.key))


async def publish_child(store: Store, head: Tipset, state: Cid, receipts: Cid) -> Tipset:
    """Publish a tipset on the head, whose header has these roots."""
    before = head.blocks[0]
    made = replace(
        before,
        parents=head.key.cids,
        height=head.height + 1,
        timestamp=before.timestamp + 30,
        parent_state_root=state,
        parent_message_receipts=receipts,
    )
    raw = encode_header(made)
    child = Tipset.of([replace(made, cid=cid_of(raw))])
    await store.put_many([(child.key.cids[0].multihash, raw)], closed=True)
    batch = Batch()
    index_rows(batch, child, await ChainIndex(store, Objects(store)).row(head.key), HELD_ALL)
    term = await store.new_term("test")
    await store.write(batch)
    entry = await store.head()
    assert entry is not None
    ref = TipsetRef(child.height, child.key)
    await store.append_head(HeadEntry(entry.seq + 1, term, (), (ref,), ref))
    return child


async def other_receipts(ctx: Context, receipts: Cid) -> Cid:
    """The newest receipts on the chain that are others."""
    tipset = (await ctx.head()).tipset
    while tipset.parent_message_receipts == receipts:
        tipset = await ctx.index.parent(tipset)
    return tipset.parent_message_receipts


class Asking:
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._fresh = 0

    async def ask(self, method: str, *params: Any) -> dict[str, Any]:
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        found: dict[str, Any] = orjson.loads((await self._dispatcher.http(1, body))[1])
        return found

    async def call(self) -> dict[str, Any]:
        """An `eth_call` that was never made."""
        self._fresh += 1
        return await self.ask("eth_call", {"to": None, "data": "0x5b00" + f"{self._fresh:016x}"}, "latest")


@pytest.mark.recorded
@pytest.mark.timeout(900)
@pytest.mark.parametrize("wrong", ["nothing", "state", "receipts"])
async def test_a_child_that_contradicts_stops_execution(store: str, wrong: str) -> None:
    register_all()
    async with executing(store, readonly=False) as services:
        asking = Asking(Dispatcher(services))
        checked = services.executor
        assert isinstance(checked, CheckedExecutor)
        ctx = Context(services)
        head = (await ctx.head()).tipset
        served = await asking.ask("eth_getBlockByNumber", "pending", True)
        assert int(served["result"]["number"], 16) == head.height
        roots = await executed_roots(ctx, checked, head)
        await publish_child(
            services.store,
            head,
            # roots of what is held
            head.parent_state_root if wrong == "state" else roots[0],
            await other_receipts(ctx, roots[1]) if wrong == "receipts" else roots[1],
        )
        # the check comes with the new head, before anything is answered for it
        await asking.ask("Filecoin.ChainHead")
        if wrong == "nothing":
            assert (checked.stopped, checked.differences) == (None, 0)
            again = await asking.ask("eth_getBlockByHash", served["result"]["hash"], True)
            assert again["result"] == served["result"]
            assert json_cache(ctx).get(b"EF" + head.key) is not None
            return
        # what was served is withdrawn
        assert "eth_executed" not in services.caches
        assert json_cache(ctx).get(b"EF" + head.key) is None
        assert checked.stopped is not None
        assert (checked.stopped.epoch, checked.stopped.executed) == (head.height, roots)
        error = (await asking.call())["error"]
        assert error["code"] == _UNAVAILABLE
        assert f"its result for epoch {head.height} differs" in error["message"]
        if wrong == "receipts":
            # what the chain says now
            again = await asking.ask("eth_getBlockByHash", served["result"]["hash"], True)
            assert again.get("result") != served["result"]
        checked.resume()
        assert "result" in await asking.call()


@pytest.mark.recorded
@pytest.mark.timeout(900)
async def test_an_old_tipset_is_checked_when_it_is_executed(store: str) -> None:
    """Its child is there already: what differs is not answered."""
    register_all()
    async with executing(store, readonly=False) as services:
        asking = Asking(Dispatcher(services))
        ctx = Context(services)
        head = (await ctx.head()).tipset
        parent = await ctx.index.parent(head)
        number = hex(parent.height)
        assert "result" in await asking.ask("trace_block", number)
        services.caches.pop("executed_traces")
        # the row of a child that is not the head's
        batch = Batch()
        child = replace(head.blocks[0], parent_state_root=parent.parent_state_root)
        index_rows(batch, Tipset.of([child]), await ctx.index.row(parent.key), HELD_ALL)
        await services.store.write(batch)
        ctx.index._posts.clear()
        # one that has kept no answer
        asking = Asking(Dispatcher(services))
        assert (await asking.ask("trace_block", number))["error"]["code"]
        assert isinstance(services.executor, CheckedExecutor)
        assert services.executor.stopped is not None


@pytest.mark.recorded
@pytest.mark.timeout(900)
async def test_a_stop_outlives_the_follower_until_an_operator_resumes(store: str) -> None:
    port = free_port()
    arguments = ("serve", "--store", store, "--listen", f"127.0.0.1:{port}", "--execution", "on")
    with follower_process(*arguments) as follower:
        async with rpc(port) as client:
            await client.until_it_executes(follower)
            assert "result" in await client.ask("eth_getBlockByNumber", "pending", False)
            assert await client.metric("follower_execution_stopped") == 0
            writer = await open_store(store)
            head = await head_of(writer)
            await publish_child(writer, head, head.parent_state_root, head.parent_message_receipts)
            await writer.close()
            answer = await client.call(1)
            assert answer["error"]["code"] == _UNAVAILABLE
            assert "an operator has to look" in answer["error"]["message"]
            await until_metric(client, "follower_execution_stopped", 1)
            assert await client.metric("follower_execution_differences_total") == 1
            async with asyncio.timeout(60):
                while "execution stopped on" not in run_follower("status", "--store", store).stdout:
                    await asyncio.sleep(0.2)
        assert follower.stop() == 0
        assert f"at epoch {head.height} gave state" in follower.output()
    with follower_process(*arguments) as follower:
        async with rpc(port) as client:
            async with asyncio.timeout(120):
                while not (answer := await asked(client)):
                    await asyncio.sleep(0.1)
            assert "an operator has to look" in answer["error"]["message"]
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}/readyz?verbose") as ready,
            ):
                assert ready.status == 503
                assert "[!] execution: nothing is executed until an operator has looked" in await ready.text()
            assert run_follower("resume", "elsewhere", "--store", store).returncode == 1
            done = run_follower("resume", "--store", store)
            assert done.returncode == 0, done.stderr
            assert f"epoch {head.height}" in done.stdout
            await client.until_it_executes(follower)
            await until_metric(client, "follower_execution_stopped", 0)


async def until_metric(client: Rpc, name: str, value: float) -> None:
    """Wait for a metric to have a value: its text is kept for a second."""
    async with asyncio.timeout(60):
        while await client.metric(name) != value:
            await asyncio.sleep(0.1)


async def asked(client: Rpc) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = await client.call(2)
        return found
    except aiohttp.ClientError:
        return None
