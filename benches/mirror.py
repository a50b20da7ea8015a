"""Objects a second mirrored from a full node on the same machine, by methods that stock Lotus has.

    python -m benches.mirror [--objects N] [--epoch N] [--batch N] [--in-flight N]

The node is this project's own, in a process of its own, over a made-up state: `--objects` objects of about 230
bytes in a tree eight wide. First the whole state is mirrored, then three states after it that each replace
`--epoch` objects (mainnet makes about 20,000 an epoch). CPU time of the mirror and of the node stand beside wall
time: with both on one core the sum of the two is what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import uvloop

from benches.rpc_load import cpu_seconds, free_port, server_process
from blockstore.cid import Cid, cid_of
from blockstore.memory import MemoryStore
from blockstore.open import open_store
from blockstore.store import Store
from chain.block import BlockHeader, encode_header
from chain.ipld.dag_cbor import encode
from chain.network import NetworkRecord
from chain.tipset import Tipset
from leader_bridge.nodes.sources import Sources
from leader_bridge.store.mirror import Mirror
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info

_WIDTH = 8


def make_states(objects: int, epoch: int, states: int) -> tuple[dict[bytes, bytes], list[Cid]]:
    """(objects by multihash, state roots): each state shares what it can with the one before."""
    rng = random.Random(1)
    held: dict[bytes, bytes] = {}
    leaves_count = objects * (_WIDTH - 1) // _WIDTH
    changed = epoch * 4 // 7  # with their ancestors about `epoch` objects

    def put(value: object) -> Cid:
        raw = encode(value)
        cid = cid_of(raw)
        held[cid.multihash] = raw
        return cid

    def leaf() -> Cid:
        return put([rng.getrandbits(40), rng.randbytes(220)])

    leaves = [leaf() for _ in range(leaves_count)]
    roots: list[Cid] = []
    for _ in range(states):
        level = leaves
        while len(level) > 1:
            level = [put([b"\xff", level[at : at + _WIDTH]]) for at in range(0, len(level), _WIDTH)]
        roots.append(level[0])
        for at in rng.sample(range(leaves_count), min(changed, leaves_count)):
            leaves[at] = leaf()
    return held, roots


def _genesis(state: Cid) -> tuple[bytes, Tipset]:
    """A block to stand on: a node has a head."""
    header = BlockHeader(
        cid=Cid(),
        miner=b"\0\xe8\x07",
        ticket=b"\0",
        election_proof=None,
        beacon_entries=(),
        win_post=(),
        parents=(cid_of(b"before"),),
        parent_weight=0,
        height=0,
        parent_state_root=state,
        parent_message_receipts=state,
        messages=state,
        bls_aggregate=None,
        timestamp=0,
        block_sig=None,
        fork_signaling=0,
        parent_base_fee=100,
    )
    raw = encode_header(header)
    return raw, Tipset.of([replace(header, cid=cid_of(raw))])


def _serve(objects: dict[bytes, bytes], root: Cid, port: int) -> None:
    from devnode.faults import Faults, FaultyStore
    from devnode.node_heads import NodeHeads
    from devnode.played_node import PlayedNode

    async def run() -> None:
        raw, genesis = _genesis(root)
        cid = genesis.blocks[0].cid
        store = FaultyStore("mirror", Faults())
        await store.put_many([*objects.items(), (cid.multihash, raw)], closed=False)
        network = NetworkRecord("bench", cid, "f", 314, 30, ((-1, 29),))
        node = PlayedNode(store, network, NodeHeads(genesis), agent="bench")
        await node.start("127.0.0.1", port)
        await asyncio.Event().wait()

    uvloop.run(run())


async def _measure(name: str, store: Store, url: str, roots: list[Cid], batch: int, in_flight: int, pid: int) -> None:
    sources = Sources([NodeClient(info, max_in_flight=in_flight) for info in parse_node_info(url)], batch=batch)
    mirror = Mirror(store, sources, batch=batch, in_flight=in_flight)
    for number, root in enumerate(roots):
        node_cpu, own_cpu, began = cpu_seconds([pid]), time.process_time(), time.perf_counter()
        walked = await mirror.close([root])
        wall = time.perf_counter() - began
        own, node = time.process_time() - own_cpu, cpu_seconds([pid]) - node_cpu
        what = "whole state" if number == 0 else f"epoch {number}"
        print(
            f"{name:7} {what:12} {walked.fetched:8,} objects {walked.fetched / wall:10,.0f}/s"
            f"  {wall:6.2f} s wall  {own:6.2f} s CPU  {node:6.2f} s CPU of the node",
            flush=True,
        )
        if walked.failed or walked.missing:
            raise SystemExit("the node did not give everything")
    await sources.close()
    await store.close()


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benches.mirror", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--objects", type=int, default=100_000, metavar="N", help="in the first state")
    parser.add_argument("--epoch", type=int, default=20_000, metavar="N", help="new objects in each later one")
    parser.add_argument("--batch", type=int, default=256, metavar="N", help="objects a request")
    parser.add_argument("--in-flight", type=int, default=8, metavar="N", help="requests at once")
    args = parser.parse_args(arguments)
    objects, roots = make_states(args.objects, args.epoch, 4)
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, server_process(lambda at: _serve(objects, roots[0], at), port) as pid:
        url = f"http://127.0.0.1:{port}"

        async def run() -> None:
            stores = {"memory": MemoryStore(), "lmdb": await open_store(f"lmdb://{Path(folder) / 'store'}")}
            for name, store in stores.items():
                await _measure(name, store, url, roots, args.batch, args.in_flight, pid)

        uvloop.run(run())


if __name__ == "__main__":
    main()
