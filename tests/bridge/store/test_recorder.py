"""What only the node knows is kept beside the tipset, and never holds a head up."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from blockstore.memory import MemoryStore
from blockstore.open import open_store
from blockstore.store import META, RECORDED
from chain.index.recorded_answers import F3_CERTIFICATE, NETWORK_PARAMS
from chain.tipset import TipsetKey
from devnode.replay import start_replay
from follower.commands.comparison import read_records
from leader_bridge.bridge import Bridge, BridgeSettings
from leader_bridge.store.recorder import Recorder, keep_network_params
from rpc.client.node_info import parse_node_info
from rpc.methods import register_all
from rpc.node_errors import CallFailed, NodeTimeout
from rpc.server.dispatch import Dispatcher
from tests.support.recorded import recorded
from tests.support.served import services_over

HEAD = TipsetKey(b"\x01\x71\xa0\xe4\x02\x20" + bytes(32)).cid


class Node:
    """Answers as it is told; counts what it is asked."""

    name = "made up"

    def __init__(self, answer: Any, wait: float = 0.0) -> None:
        self.answer = answer
        self.wait = wait
        self.asked = 0

    async def call(self, method: str, *params: Any) -> Any:
        self.asked += 1
        await asyncio.sleep(self.wait)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def _kept(node: Node, times: int = 1, publish_wait_seconds: float = 5.0) -> tuple[MemoryStore, bytes | None]:
    store = MemoryStore()
    recorder = Recorder(store, publish_wait_seconds=publish_wait_seconds)
    recorder.begin(node)  # type: ignore[arg-type]
    for _ in range(times):
        recorder.ask()
        await recorder.keep(HEAD)
    return store, await store.row(RECORDED, HEAD, F3_CERTIFICATE)


async def test_an_answer_is_kept_beside_its_tipset() -> None:
    _, row = await _kept(Node({"GPBFTInstance": 7}))
    assert row is not None
    assert orjson.loads(row) == {"GPBFTInstance": 7}


async def test_a_slow_node_holds_nothing_up() -> None:
    node = Node({"GPBFTInstance": 7}, wait=3600)
    async with asyncio.timeout(10):
        _, row = await _kept(node, publish_wait_seconds=0.01)
    assert row is None


async def test_a_question_that_is_refused_is_not_asked_again() -> None:
    node = Node(CallFailed(1, "f3 is not running"))
    _, row = await _kept(node, times=5)
    assert row is None
    assert node.asked == 1


async def test_one_that_timed_out_is() -> None:
    node = Node(NodeTimeout("no answer"))
    _, row = await _kept(node, times=3)
    assert row is None
    assert node.asked == 3


async def test_parameters_that_are_not_told_change_nothing() -> None:
    store = MemoryStore()
    await keep_network_params(store, Node({"NetworkName": "x"}))  # type: ignore[arg-type]
    before = await store.row(META, b"", NETWORK_PARAMS)
    assert before is not None
    await keep_network_params(store, Node(CallFailed(1, "no")))  # type: ignore[arg-type]
    await keep_network_params(store, Node(None))  # type: ignore[arg-type]
    assert await store.row(META, b"", NETWORK_PARAMS) == before


@pytest.mark.parametrize("folder", ["devnet", "upgrades"])
async def test_a_follower_tells_what_the_node_told_the_bridge(folder: str, tmp_path: Path) -> None:
    register_all()
    path = recorded(f"{folder}/rpc.jsonl.zst")
    pattern = re.compile(r"Filecoin\.StateGetNetworkParams")
    (record,) = read_records(path, pattern)
    node = await start_replay(path.parent, at_end=True)
    store = await open_store(f"lmdb://{tmp_path}/store")
    bridge = Bridge(store, parse_node_info(node.base), BridgeSettings(network_file=path.parent / "network.json"))
    running = asyncio.create_task(bridge.run())
    async with asyncio.timeout(60):
        while await store.head() is None:
            if running.done():
                running.result()
            await asyncio.sleep(0.005)
    assert await store.row(META, b"", NETWORK_PARAMS) is not None
    answer = orjson.loads(
        (
            await Dispatcher(await services_over(store)).http(
                1, b'{"id":1,"method":"%s","params":[]}' % record.method.encode()
            )
        )[1]
    )
    assert answer["result"] == record.answer["result"]
    bridge.stop()
    await running
    await node.stop()
    await store.close()
