"""Requests a second, p50, p99 and CPU time of each method that decodes actor states, over HTTP from an LMDB store.

    python -m benches.state_methods [--store lmdb:///path] [--seconds N] [--methods REGEX]

Without `--store` the recorded chain (or a simulated one, where no recording is there) is imported into a store of its
own. Each method is asked about up to 200 actors of the head's state, `StateSearchMsg` about 200 messages. `cold` rows
turn the caches off, so that every answer is made of stored bytes; behind each cold row stand the objects and the store
round trips of one answer.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from benches.chain_methods import MAKING, import_chain, services_over
from benches.rpc_load import free_port, load, server_process
from blockstore.cid import Cid
from blockstore.open import open_store
from chain.tipset import EMPTY_KEY
from chain.tipset_messages import load_tipset_messages
from rpc.context import Context
from rpc.lookup.actor_states import states_at
from rpc.lookup.senders import id_of
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from rpc.services import Services

_SAMPLES = 200

#: by the kind of actor that they are asked about; None: about nothing but the tipset
_ASKED: dict[str | None, tuple[tuple[str, tuple[Any, ...]], ...]] = {
    "account": (
        ("StateGetActor", ()),
        ("StateLookupID", ()),
        ("StateAccountKey", ()),
        ("StateReadState", ()),
        ("StateMarketBalance", ()),
        ("StateVerifierStatus", ()),
        ("StateVerifiedClientStatus", ()),
        ("StateGetAllocations", ()),
    ),
    "evm": (("StateReadState", ()),),
    "multisig": (("MsigGetAvailableBalance", ()), ("MsigGetPending", ()), ("MsigGetVestingSchedule", ())),
    "storageminer": (
        ("StateReadState", ()),
        ("StateMinerInfo", ()),
        ("StateMinerPower", ()),
        ("StateMinerSectors", (None,)),
        ("StateMinerActiveSectors", ()),
        ("StateMinerDeadlines", ()),
        ("StateMinerPartitions", (0,)),
        ("StateMinerProvingDeadline", ()),
        ("StateMinerAvailableBalance", ()),
        ("StateSectorGetInfo", (0,)),
        ("StateGetClaims", ()),
    ),
    None: (
        ("StateListActors", ()),
        ("StateMarketDeals", ()),
        ("StateGetAllClaims", ()),
        ("StateListMiners", ()),
        ("StateVMCirculatingSupplyInternal", ()),
        ("StateDealProviderCollateralBounds", (1 << 30, False)),
    ),
}


async def questions(url: str) -> dict[str, list[bytes]]:
    """Request bodies by method, made of the actors that the head's state holds."""
    store = await open_store(url, readonly=True)
    ctx = Context(await services_over(store))
    _, states = await states_at(ctx, EMPTY_KEY)
    params: dict[str, list[list[Any]]] = {}
    for method, more in _ASKED[None]:
        params[method] = [[*more, []]]
    async for address, actor in states.tree.items():
        name, _ = await states.kind_of(actor)
        for method, more in _ASKED.get(name, ()):
            asked = params.setdefault(method, [])
            if len(asked) < _SAMPLES:
                asked.append([str(address), *more, []])
    params["StateSearchMsg"] = [[[], {"/": str(cid)}, -1, True] async for cid in executed(ctx)]
    await store.close()
    return {
        name: [orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": f"Filecoin.{name}", "params": one}) for one in some]
        for name, some in params.items()
    }


async def executed(ctx: Context) -> AsyncIterator[Cid]:
    """Up to 200 messages that were executed on the head's chain, of any age."""
    head = (await ctx.head()).tipset
    found = 0
    for height in range(2, head.height, max(1, head.height // _SAMPLES)):
        tipset = await ctx.index.at_height(head, height)
        for one in await load_tipset_messages(ctx.objects, tipset, ctx.network, id_of(ctx)):
            if found < _SAMPLES:
                found += 1
                yield one.cid


def serving(url: str, cold: bool) -> Callable[[int], None]:
    """What a server process runs."""

    def run(port: int) -> None:
        import uvloop

        async def main() -> None:
            from rpc.server.server import serve

            register_all()
            await serve(await _services(url, cold), "127.0.0.1", port, settings=MAKING)
            await asyncio.Event().wait()

        uvloop.run(main())

    return run


async def _services(url: str, cold: bool) -> Services:
    services = await services_over(await open_store(url, readonly=True), cold)
    if cold:
        services.cache_sizes = replace(services.cache_sizes, nodes=1)
    return services


async def reads(url: str, bodies: list[bytes]) -> tuple[float, float]:
    """(objects, store round trips) an answer, without caches."""
    services = await _services(url, cold=True)
    dispatcher = Dispatcher(services, settings=MAKING)
    for body in bodies:
        _, answer = await dispatcher.http(1, body)
        if b'"error"' in answer and b"not found" not in answer:
            raise SystemExit(f"{body!r} answered {answer[:200]!r}")
    objects = services.objects
    await services.store.close()
    return objects.reads / len(bodies), objects.round_trips / len(bodies)


def run(url: str | None, seconds: float, wanted: re.Pattern[str]) -> None:
    """Print one row a method, warm and cold."""
    register_all()
    with tempfile.TemporaryDirectory() as folder:
        url = url or asyncio.run(import_chain(Path(folder)))
        asked = {name: some for name, some in asyncio.run(questions(url)).items() if wanted.search(name)}
        for cold in (False, True):
            port = free_port()
            with server_process(serving(url, cold), port) as pid:
                for name, bodies in asked.items():
                    took = load(f"http://127.0.0.1:{port}/rpc/v1", bodies, pids=[pid], seconds=seconds)
                    row = took.row(f"{'cold' if cold else 'warm'} {name} ({len(bodies)} questions)")
                    if cold:
                        objects, trips = asyncio.run(reads(url, bodies))
                        row += f"  {objects:.1f} objects, {trips:.1f} round trips"
                    print(row, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benches.state_methods", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--store", metavar="URL", help="a store with a chain in it (default: the recorded chain)")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row (default 2)")
    parser.add_argument("--methods", default="", metavar="REGEX", help="only methods in which this is found")
    args = parser.parse_args(arguments)
    run(args.store, args.seconds, re.compile(args.methods))


if __name__ == "__main__":
    main()
