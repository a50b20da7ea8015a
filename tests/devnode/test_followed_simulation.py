"""A bridge that follows the simulated node, which does all it can do wrong; and the state that the node serves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from blockstore.memory import MemoryStore
from devnode.fault_arguments import faults_of
from devnode.faults import Faults
from devnode.sim_chain import SimSettings
from devnode.simulate import SimulatedNode, run_simulate, start_simulated
from follower.commands import replay, simulate
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info
from rpc.node_errors import CallFailed
from tests.support.bridge.running import Walker, following, quick, replay_log

SMALL = SimSettings(accounts=12, miners=4, miner_updates=2, messages=3, reorg_rate=0.2, late_rate=0.1)


async def reached(store: MemoryStore, node: SimulatedNode) -> None:
    async with asyncio.timeout(30):
        while True:
            entry = await store.head()
            if entry is not None and entry.head.key == node.head.key:
                return
            await asyncio.sleep(0.002)


@pytest.mark.parametrize(
    "faults",
    [
        Faults(),
        Faults(drop_every=3),
        Faults(restart_every=9, status=503, status_every=7),
        Faults(has_websocket=False),
    ],
    ids=["well", "drops", "restarts and 503", "no WebSockets"],
)
async def test_a_bridge_keeps_up_and_what_it_published_is_whole(faults: Faults) -> None:
    node = await start_simulated(SMALL, faults=faults, epochs=3)
    store = MemoryStore()
    async with following(store, [node.node_info], quick()):
        await reached(store, node)
        for _ in range(3):
            for _ in range(5):
                await node.advance()
                await node.restart_if_due()
            await reached(store, node)
    chain = await replay_log(store)
    assert chain[-1].key == node.head.key
    assert await Walker().published(store) >= len(chain)
    await node.stop()


async def test_where_one_node_lies_another_is_asked() -> None:
    # the same seed and the same steps: two nodes of one chain
    liar = await start_simulated(SMALL, faults=Faults(lie_every=20), epochs=3)
    honest = await start_simulated(SMALL, epochs=3)
    store = MemoryStore()
    async with following(store, [liar.node_info, honest.node_info], quick()):
        await reached(store, honest)
        for _ in range(6):
            await liar.advance()
            await honest.advance()
            assert liar.head.key == honest.head.key
            await reached(store, honest)
    assert (await replay_log(store))[-1].key == honest.head.key
    assert await Walker().published(store) > 6
    await liar.stop()
    await honest.stop()


async def test_the_state_is_read_by_the_same_methods_as_a_real_one() -> None:
    node = await start_simulated(SMALL, epochs=12)
    async with NodeClient(parse_node_info(node.node_info)[0]) as client:

        async def ask(method: str, *params: Any) -> Any:
            return await client.call("Filecoin." + method, *params)

        miners = await ask("StateListMiners", [])
        assert sorted(miners) == [f"t0{1000 + number}" for number in range(SMALL.miners)]
        info = await ask("StateMinerInfo", miners[0], [])
        owner = await ask("StateAccountKey", info["Owner"], [])
        assert await ask("StateLookupID", owner, []) == info["Owner"]
        assert len(await ask("StateMinerActiveSectors", miners[0], [])) == 8
        power = await ask("StateMinerPower", miners[0], [])
        assert power["MinerPower"]["RawBytePower"] == str(8 * (32 << 30))
        assert (await ask("StateReadState", "t01", []))["State"]["NetworkName"] == "simnet"
        assert (await ask("StateReadState", "t02", []))["State"]["Epoch"] >= 1
        nonces = [(await ask("StateGetActor", f"t0{1004 + number}", []))["Nonce"] for number in range(SMALL.accounts)]
        assert sum(nonces) > 0
        with pytest.raises(CallFailed, match="actor not found"):
            await ask("StateGetActor", "t099999", [])
    await node.stop()


async def test_every_message_is_a_transaction_to_ethereum() -> None:
    node = await start_simulated(SMALL, epochs=10)
    kinds: set[str] = set()
    async with NodeClient(parse_node_info(node.node_info)[0]) as client:
        tipset = await node.index.parent(node.head)
        while tipset.height:
            block = await client.call("eth_getBlockByNumber", hex(tipset.height), True)
            for one in block["transactions"]:
                kinds.add("native" if one["accessList"] == [] else "signed as one")
                receipt = await client.call("eth_getTransactionReceipt", one["hash"])
                assert receipt["blockHash"] == block["hash"] and int(receipt["gasUsed"], 16)
            tipset = await node.index.parent(tipset)
    assert kinds == {"native", "signed as one"}
    await node.stop()


async def test_the_command_serves_until_it_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(
        run_simulate(stop, settings=SMALL, host="127.0.0.1", port=0, block_time=0.0, epochs=2, first_epochs=2)
    )
    line = ""
    async with asyncio.timeout(10):
        while " at http" not in line:
            await asyncio.sleep(0.002)
            line += capsys.readouterr().out
    url = line.split(" at ")[1].split(": ")[0]
    async with NodeClient(parse_node_info(url.removesuffix("/rpc/v1"))[0]) as client:
        assert await client.call("Filecoin.StateNetworkName") == "simnet"
    stop.set()
    async with asyncio.timeout(10):
        assert await running == 0


def test_the_arguments_make_the_faults() -> None:
    import argparse

    for add_arguments, rest in ((simulate.add_arguments, []), (replay.add_arguments, ["folder"])):
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        found = faults_of(parser.parse_args([*rest, "--drop-every", "3", "--no-websocket", "--down", "1.5"]))
        assert (found.drop_every, found.has_websocket, found.down_seconds, found.delay_seconds) == (3, False, 1.5, 0.0)
