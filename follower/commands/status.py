"""`follower status`: what a store holds, and where its head is."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from blockstore.open import open_store
from blockstore.store import META, SCHEMA_VERSION, Store
from chain.index.chain_index import HELD_EVENTS, HELD_MESSAGES, HELD_RECEIPTS, HELD_STATE, ChainIndex
from chain.ipld.objects import Objects
from chain.network import load_network
from chain.tipset import TipsetKey
from follower.settings import Settings

_HELD = {
    "messages": HELD_MESSAGES,
    "state": HELD_STATE,
    "receipts": HELD_RECEIPTS,
    "events": HELD_EVENTS,
}


async def store_status(store: Store) -> dict[str, Any]:
    """Network, head, what of the head is held, cheap figures of the backend."""
    network = await load_network(store)
    entry = await store.head()
    report: dict[str, Any] = {
        "store": store.url,
        "schema": SCHEMA_VERSION,
        "network": None if network is None else network.to_json(),
        "import_unfinished": await store.row(META, b"", b"import") is not None,
        "head": None,
        "figures": await store.stats(),
    }
    if entry is not None:
        key = TipsetKey(entry.head.key)
        held = await ChainIndex(store, Objects(store, cache_bytes=1 << 20), network).held(key)
        report["head"] = {
            "seq": entry.seq,
            "term": entry.term,
            "height": entry.head.height,
            "tipset": [str(cid) for cid in key.cids],
            "held": {name: bool(held & flag) for name, flag in _HELD.items()},
        }
    return report


def status(settings: Settings, *, as_json: bool) -> int:
    """Print the status of the store that the settings name."""

    async def run() -> dict[str, Any]:
        store = await open_store(settings["store"], readonly=True)
        try:
            return await store_status(store)
        finally:
            await store.close()

    report = asyncio.run(run())
    if as_json:
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
        return 0
    network, head = report["network"], report["head"]
    print(f"store    {report['store']} (schema {report['schema']})")
    print(f"network  {network['network_name'] + ', genesis ' + network['genesis'] if network else 'none yet'}")
    if report["import_unfinished"]:
        print("import   not finished: nothing is served; run the same import again to resume")
    if head is None:
        print("head     none yet")
    else:
        held = ", ".join(name for name, is_held in head["held"].items() if is_held) or "nothing"
        print(f"head     epoch {head['height']}, entry {head['seq']} of term {head['term']}, {held} held")
        print(f"         {' '.join(head['tipset'])}")
    for name, figure in report["figures"].items():
        print(f"{name:8} {figure:,}")
    return 0
