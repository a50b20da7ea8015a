"""The longest time that each method of the registry keeps the event loop, on a state of a million actors.

    python -m benches.heads.loop_stalls [--actors 1000000] [--epochs 20] [--methods REGEX] [--most 50]

A simulated chain is made in memory; every method without a channel is asked over it, with parameters made by their
types and, for those that walk, of their largest form. Beside each call a task counts the CPU time of each turn of the
loop: on a busy machine the clock would tell of others. Exit code 1 where a turn took longer than `--most` milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from dataclasses import replace
from typing import Any, Final

import orjson

from blockstore.cid import Cid
from chain.address import Address
from chain.eth.types import masked_id
from chain.ipld.objects import Objects
from devnode.sim_chain import SimSettings
from devnode.simulate import SimulatedNode, start_simulated
from follower.worker import tune_garbage_collector
from rpc.registry import REGISTRY, Method, Versions
from rpc.server.dispatch import Dispatcher

_VERSIONS: Final = {0: Versions.V0, 1: Versions.V1, 2: Versions.V2}


class Turns:
    """The CPU time of this thread between two turns of the loop."""

    def __init__(self) -> None:
        self.most = 0.0

    async def watch(self) -> None:
        """Count until cancelled."""
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.most = max(self.most, now - last)
            last = now


def _link(cid: Cid) -> dict[str, str]:
    return {"/": str(cid)}


class Questions:
    """Parameters of every method over one chain."""

    def __init__(self, node: SimulatedNode, tx_hash: str) -> None:
        head = node.head
        account = Address(node.chain._maker.account_id(3))
        block = head.blocks[0]
        self._by_type: dict[str, list[Any]] = {
            "types.TipSetKey": [[]],
            "address.Address": ["f01000", account.text()],
            "abi.ChainEpoch": [head.height - 2],
            "cid.Cid": [_link(head.parent_state_root), _link(block.cid), _link(block.messages)],
            "string": ["latest", "f01000"],
            "uint64": [0, 128],
            "int64": [1],
            "bool": [True],
            "ethtypes.EthBlockNumberOrHash": ["latest"],
            "[]uint8": ["AAAA"],
            "ethtypes.EthHash": [tx_hash],
            "*ethtypes.EthHash": [tx_hash],
            "ethtypes.EthAddress": ["0x" + masked_id(account.id).hex()],
            "ethtypes.EthBytes": ["0x00"],
            "ethtypes.EthUint64": ["0x0"],
            "types.TipSetSelector": [{"tag": "latest"}],
            "network.Version": [29],
            "abi.PaddedPieceSize": [1 << 30],
            "abi.SectorSize": [32 << 30],
            "[]string": [["f01000"]],
        }
        everything = {"fromBlock": "0x0", "toBlock": hex(head.height - 1)}
        roots = [_link(tipset.parent_state_root) for tipset in (node.chain.genesis, head)]
        self._own: dict[str, list[list[Any]]] = {
            "StateChangedActors": [roots],
            "EthFeeHistory": [["0x400", "latest", [10.0 * at for at in range(11)]]],
            "GasEstimateGasPremium": [[128, "f01000", 0, []]],
            "EthGetLogs": [[everything]],
            "EthTraceFilter": [[everything]],
            "StateListMessages": [[{"To": account.text()}, [], 0]],
            "ChainStatObj": [[roots[1], None], [roots[1], roots[0]]],
            "ChainGetPath": [[[_link(cid) for cid in tipset.key.cids] for tipset in (node.chain.genesis, head)]],
            "StateMinerSectors": [["f01000", None, []]],
        }

    def of(self, method: Method) -> list[list[Any]]:
        """Some lists of parameters, none where no useful ones are known."""
        own = self._own.get(method.field)
        if own is not None:
            return own
        if method.raw:
            return [[]]
        choices = [self._by_type.get(getattr(param, "go", ""), [None]) for param in method.params]
        most = max(map(len, choices), default=1)
        return [[some[min(at, len(some) - 1)] for some in choices] for at in range(most)]


async def measure(actors: int, epochs: int, wanted: re.Pattern[str], most: float) -> int:
    """Print a row for each method that takes more than a fifth of what it may. The number of those above it."""
    began = time.monotonic()
    settings = SimSettings.for_size(actors, 2000)
    node = await start_simulated(settings, epochs=epochs)
    # as each serving process does
    tune_garbage_collector()
    print(f"{actors:,} actors, {epochs} epochs: {time.monotonic() - began:.0f} s", flush=True)
    dispatcher = Dispatcher(replace(node._services, objects=Objects(node.store), extra={}))
    block = await _ask(dispatcher, 1, "Filecoin.EthGetBlockByNumber", ["latest", False])
    questions = Questions(node, next(iter(orjson.loads(block)["result"]["transactions"]), "0x" + "00" * 32))
    asked = answered = above = 0
    for method in REGISTRY:
        if method.channel or not wanted.search(method.name):
            continue
        version = next(number for number, flag in _VERSIONS.items() if (method.versions & flag and number != 0) or
                       method.versions == Versions.V0)  # fmt: skip
        longest, sizes = 0.0, 0
        for params in questions.of(method):
            # empty caches: what is decoded anew takes longest
            dispatcher.services.extra.clear()
            turns = Turns()
            watch = asyncio.create_task(turns.watch())
            await asyncio.sleep(0)
            try:
                answer = await asyncio.wait_for(_ask(dispatcher, version, method.name, params), 300)
            finally:
                await asyncio.sleep(0)
                watch.cancel()
            asked += 1
            answered += b'"result"' in answer
            longest, sizes = max(longest, turns.most), max(sizes, len(answer))
        above += longest * 1e3 > most
        if longest * 1e3 > most / 5:
            print(f"{method.name:44} {longest * 1e3:8.1f} ms  answer of {sizes:,} bytes", flush=True)
    await node.stop()
    print(f"{asked} calls, {answered} with a result; {above} methods keep the loop for more than {most:g} ms")
    return above


async def _ask(dispatcher: Dispatcher, version: int, name: str, params: list[Any]) -> bytes:
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": name, "params": params})
    return (await dispatcher.http(version, body))[1]


def main(arguments: list[str] | None = None) -> None:
    """Measure, and end with exit code 1 where a method takes too long."""
    parser = argparse.ArgumentParser(
        prog="python -m benches.heads.loop_stalls", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--actors", type=int, default=1_000_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--methods", default="", metavar="REGEX", help="only methods in which this is found")
    parser.add_argument("--most", type=float, default=50.0, help="milliseconds (default 50)")
    args = parser.parse_args(arguments)
    if asyncio.run(measure(args.actors, args.epochs, re.compile(args.methods), args.most)):
        sys.exit(1)


if __name__ == "__main__":
    main()
