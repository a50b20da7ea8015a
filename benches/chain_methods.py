"""Requests a second, p50, p99 and CPU time of each `Chain*` method, over HTTP from an LMDB store.

    python -m benches.chain_methods [--store lmdb:///path] [--seconds N] [--methods REGEX]

Without `--store` the recorded chain is imported into a store of its own. Each method is asked for up to 200
tipsets, blocks or messages spread over the chain, so that warm answers come from caches; `cold` rows turn those
caches off, so that every answer is made of stored bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson

from benches.rpc_load import free_port, load, server_process
from blockstore.open import open_store
from blockstore.store import Store
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.message import receipt_from_fields
from chain.network import load_network
from chain.tipset import Tipset
from follower.head import StoreHeads
from rpc.server.limits import ServerSettings
from rpc.services import CacheSizes, Services

_SAMPLES = 200
#: for servers whose answers are made each time: what a method costs is measured
MAKING = ServerSettings(answer_cache_bytes=0)


async def services_over(store: Store, cold: bool = False) -> Services:
    """A follower's services; `cold` with caches so small that nothing stays in them."""
    network = await load_network(store)
    if network is None:
        raise SystemExit("the store names no network: import a chain into it first")
    objects = Objects(store, cache_bytes=1 if cold else 64 << 20)
    rows = {"cached_rows": 1, "cached_tipsets": 1} if cold else {}
    index = ChainIndex(store, objects, network, **rows)
    services = Services(
        store=store, index=index, objects=objects, network=network, head_source=StoreHeads(store, index)
    )
    if cold:
        services.cache_sizes = CacheSizes(json=1)
    return services


async def questions(url: str) -> dict[str, list[bytes]]:
    """Request bodies by method, made of what the store holds."""
    import rpc.methods.chain.chain as methods
    from chain.ipld.amt import Amt
    from chain.tipset_messages import load_block_messages
    from rpc.context import Context

    store = await open_store(url, readonly=True)
    services = await services_over(store)
    ctx = Context(services)
    head = (await ctx.head()).tipset
    step = max(1, head.height // _SAMPLES)
    params: dict[str, list[list[Any]]] = {"ChainHead": [[]], "ChainGetGenesis": [[]]}

    def add(method: str, *some: Any) -> None:
        params.setdefault(method, []).append(list(some))

    tipsets: list[Tipset] = []
    for epoch in range(step, head.height, step):
        tipsets.append(await ctx.index.at_height(head, epoch))
        add("ChainGetTipSetByHeight", epoch, [])
        add("ChainGetTipSetAfterHeight", epoch, [])
    for tipset in tipsets:
        key = [_link(cid) for cid in tipset.key.cids]
        block = tipset.blocks[0]
        add("ChainGetTipSet", key)
        add("ChainGetMessagesInTipset", key)
        for method in ("ChainGetBlock", "ChainGetBlockMessages", "ChainGetParentMessages", "ChainGetParentReceipts",
                       "ChainReadObj", "ChainHasObj"):  # fmt: skip
            add(method, _link(block.cid))
        bls, signed = await load_block_messages(services.objects, block)
        for one in (*bls, *signed)[:1]:
            add("ChainGetMessage", _link(one.cid))
        for _, value in [item async for item in Amt(services.objects, block.parent_message_receipts, 0).items()]:
            root = receipt_from_fields(value).events_root
            if root is not None:
                add("ChainGetEvents", _link(root))
    below = await ctx.index.at_height(head, max(0, head.height - 10))
    add("ChainGetPath", [_link(cid) for cid in below.key.cids], [_link(cid) for cid in head.key.cids])
    add("ChainStatObj", _link(head.blocks[0].messages), None)
    await store.close()
    assert methods.MAX_PATH > 10
    return {
        name: [orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": f"Filecoin.{name}", "params": one}) for one in some]
        for name, some in params.items()
    }


def _link(cid: Any) -> dict[str, str]:
    return {"/": str(cid)}


def serving(url: str, cold: bool, *, keeps: bool = False) -> Callable[[int], None]:
    """What a server process runs. `keeps`: answers are kept as bytes, as a follower does."""

    def run(port: int) -> None:
        import uvloop

        async def main() -> None:
            from follower.worker import tune_garbage_collector
            from rpc.methods import register_all
            from rpc.server.server import serve

            register_all()
            tune_garbage_collector()
            services = await services_over(await open_store(url, readonly=True), cold)
            await serve(services, "127.0.0.1", port, settings=ServerSettings() if keeps else MAKING)
            await asyncio.Event().wait()

        uvloop.run(main())

    return run


async def import_chain(folder: Path) -> str:
    """The URL of a store with the recorded chain in it."""
    from leader_bridge.imports.importer import import_car
    from tests.support.recorded import recorded

    url = f"lmdb://{folder}/store"
    store = await open_store(url, map_size=1 << 30)
    await import_car(store, recorded("devnet/chain.car.zst"), network_file=recorded("devnet/network.json"))
    await store.close()
    return url


def run(make: Callable[[Path], Awaitable[str]], url: str | None, seconds: float, wanted: re.Pattern[str]) -> None:
    """Print one row a method, warm and cold."""
    with tempfile.TemporaryDirectory() as folder:
        if url is None:
            url = asyncio.run(make(Path(folder)))  # type: ignore[arg-type]
        asked = asyncio.run(questions(url))
        for cold in (False, True):
            port = free_port()
            with server_process(serving(url, cold), port) as pid:
                for name, bodies in asked.items():
                    if wanted.search(name):
                        took = load(f"http://127.0.0.1:{port}/rpc/v1", bodies, pids=[pid], seconds=seconds)
                        print(took.row(f"{'cold' if cold else 'warm'} {name} ({len(bodies)} questions)"), flush=True)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benches.chain_methods", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--store", metavar="URL", help="a store with a chain in it (default: one made for this)")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row (default 2)")
    parser.add_argument("--methods", default="", metavar="REGEX", help="only methods in which this is found")
    args = parser.parse_args(arguments)
    run(import_chain, args.store, args.seconds, re.compile(args.methods))


if __name__ == "__main__":
    main()
