"""A store that drops what its policy does not keep gives the recorded answers, or says that it does not hold them."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from blockstore.generations import GenerationalStore
from blockstore.lmdb.store import LmdbStore
from blockstore.memory import MemoryStore
from blockstore.store import Store
from chain.index.chain_index import ChainIndex
from chain.index.kept import load_kept
from chain.ipld.objects import Objects
from chain.network import load_network
from chain.tipset import TipsetKey
from devnode.replay import start_replay
from follower.commands.comparison import Record, read_records
from follower.commands.comparison import judge as judge_answer
from leader_bridge.bridge import Bridge
from leader_bridge.imports.importer import import_car
from leader_bridge.settings import BridgeSettings
from rpc.client.node_info import parse_node_info
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from tests.retention.simulated import walk_kept
from tests.rpc.methods.test_recorded_chain import ask
from tests.support.recorded import recorded
from tests.support.recorded_answers import left_out
from tests.support.served import services_over
from tests.support.whole_path import reach

_POLICY = 300
#: look-ups by hash, which answer "there is none" beyond the index as a node does, with a header that says so
_BY_HASH = {
    "Filecoin.ChainGetMessage", "Filecoin.ChainReadObj", "Filecoin.ChainHasObj", "Filecoin.ChainStatObj",
    "Filecoin.ChainGetNode", "Filecoin.EthGetTransactionByHash", "Filecoin.EthGetTransactionByHashLimited",
    "Filecoin.EthGetTransactionReceipt", "Filecoin.EthGetTransactionReceiptLimited",
    "Filecoin.EthGetMessageCidByTransactionHash", "Filecoin.EthGetTransactionHashByCid",
    "eth_getTransactionByHash", "eth_getTransactionReceipt",
}  # fmt: skip


@asynccontextmanager
async def pruned(folder: Any) -> AsyncIterator[LmdbStore]:
    """The recorded chain as a bridge keeps it, head change by head change, with a policy of 300 epochs."""
    store = await LmdbStore.open(folder)
    node = await start_replay(recorded("devnet"))
    settings = BridgeSettings(
        network_file=recorded("devnet/network.json"),
        keep_state_epochs=_POLICY,
        keep_message_epochs=_POLICY,
        keep_index_epochs=_POLICY,
        retention_rate=1e6,
        retention_grace_seconds=0.0,
    )
    bridge = Bridge(store, parse_node_info(node.base), settings)
    assert bridge.keeper is not None
    running = asyncio.create_task(bridge.run())
    try:
        while True:
            await reach(store, node, running)
            # the chain of hours is played in seconds: the pass keeps up
            await bridge.keeper.once()
            if node.ended:
                break
            node.advance(40)
        yield store
    finally:
        bridge.stop()
        await running
        await node.stop()
        await store.close()


async def dispatcher_of(store: Store) -> Dispatcher:
    register_all()
    return Dispatcher(await services_over(store))


def is_refusal(answer: dict[str, Any], method: str) -> bool:
    """Whether an answer says that something is not held; with the range, where it is a state's."""
    said = str(answer.get("error", {}).get("message", ""))
    if "not held: state of epoch" in said:
        assert "held: states from epoch" in said, said
    # a node that does not hold what the client named itself says this, and so does ours
    if "not held" in said or "could not find" in said:
        return True
    result = answer.get("result", "")
    # as at a node, a block whose events cannot be read has a bloom filter that excludes nothing
    if isinstance(result, dict) and result.get("logsBloom") == "0x" + "f" * 512:
        return True
    return method in _BY_HASH and result is None


@pytest.mark.recorded
async def test_answers_are_equal_or_not_held(tmp_path: Any) -> None:
    async with pruned(tmp_path / "store") as store:
        assert isinstance(store, GenerationalStore)
        kept = await load_kept(store)
        assert kept.state > 500 and kept.messages > 100
        assert len(await store.generations()) <= 2
        await walk_kept(store, _POLICY)
        await assert_recorded_answers(store)
        await assert_same_as_whole(store)


def some_records(share: float) -> Iterator[Record]:
    """A share of the recorded calls, the same each time."""
    rng = random.Random(5)
    excluded = re.compile(left_out("devnet"))
    for record in read_records(recorded("devnet/rpc.jsonl.zst"), re.compile(""), exclude=excluded):
        # numbers that are no whole ones are read as decimals, which are not sent again
        if rng.random() < share and "Decimal(" not in repr(record.params):
            yield record


async def assert_recorded_answers(store: Store) -> None:
    """The recorded questions, as they were asked."""
    dispatcher = await dispatcher_of(store)
    counts: Counter[str] = Counter()
    for record in some_records(1.0):
        answer = await ask(dispatcher, record.path, record.method, record.params)
        why, _ = judge_answer(record, answer)
        assert why is None or is_refusal(answer, record.method), (record.method, record.params, why)
        counts["equal" if why is None else "not held"] += 1
    assert counts["equal"] > 1000 and counts["not held"] > 200, counts


async def assert_same_as_whole(store: Store) -> None:
    """The recorded questions, asked of other tipsets, of this store and of one that drops nothing."""
    rng = random.Random(11)
    whole = MemoryStore()
    await import_car(whole, recorded("devnet/chain.car.zst"), network_file=recorded("devnet/network.json"))
    head = await store.head()
    assert head is not None
    ours, theirs = await dispatcher_of(store), await dispatcher_of(whole)
    index = ChainIndex(store, Objects(store), await load_network(store))
    top = await index.tipset(TipsetKey(head.head.key))
    counts: Counter[str] = Counter()
    for record in some_records(0.5):
        tipset = await index.at_height(top, rng.randrange(top.height))
        params = [_moved(one, tipset, rng) for one in record.params]
        if params == record.params:
            continue
        ours_says = await ask(ours, record.path, record.method, params)
        theirs_says = await ask(theirs, record.path, record.method, params)
        same = ours_says == theirs_says
        assert same or is_refusal(ours_says, record.method), (record.method, params, ours_says, theirs_says)
        counts["equal" if same else "not held"] += 1
    assert counts["equal"] > 200 and counts["not held"] > 100, counts


def _moved(param: Any, tipset: Any, rng: random.Random) -> Any:
    """A parameter, at another tipset: a tipset key, an epoch in an Ethereum block parameter, a block hash."""
    if isinstance(param, list) and param and all(isinstance(one, dict) and "/" in one for one in param):
        return [{"/": str(cid)} for cid in tipset.key.cids]
    if isinstance(param, str) and param.startswith("0x") and len(param) <= 6:
        return hex(tipset.height)
    if isinstance(param, int) and not isinstance(param, bool) and 1 < param < 1109:
        return rng.randrange(1109)
    return param
