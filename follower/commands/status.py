"""`follower status`: what a store holds, and where its head is."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from follower.commands.command import Command
from follower.settings import Settings

if TYPE_CHECKING:
    from blockstore.store import Store


async def store_status(store: Store) -> dict[str, Any]:
    """The network, the head, what is held of the head, and cheap figures of the backend."""
    from blockstore.lookup import Lookup
    from blockstore.store import META, SCHEMA_VERSION
    from chain.index.chain_index import HELD_EVENTS, HELD_MESSAGES, HELD_RECEIPTS, HELD_STATE, ChainIndex
    from chain.index.kept import load_kept
    from chain.index.oldest import oldest_held
    from chain.ipld.objects import Objects
    from chain.network import load_network
    from chain.tipset import TipsetKey
    from follower.execution_stop import stops

    network = await load_network(store)
    kept = await load_kept(store)
    entry = await store.head()
    report: dict[str, Any] = {
        "store": store.url,
        "schema": SCHEMA_VERSION,
        "network": None if network is None else network.to_json(),
        "import_unfinished": await store.row(META, b"", b"import") is not None,
        "execution_stopped": {machine: str(why) for machine, why in (await stops(store)).items()},
        "head": None,
        "figures": await store.stats(),
        "keeps": kept.report() if kept.policy else None,
        "keeps_text": kept.lines(),
    }
    if entry is not None:
        key = TipsetKey(entry.head.key)
        index = ChainIndex(store, Objects(store, cache_bytes=1 << 20), network)
        held = await index.held(key)
        flags = {"messages": HELD_MESSAGES, "state": HELD_STATE, "receipts": HELD_RECEIPTS, "events": HELD_EVENTS}
        report["head"] = {
            "seq": entry.seq,
            "term": entry.term,
            "height": entry.head.height,
            "tipset": [str(cid) for cid in key.cids],
            "held": {name: bool(held & flag) for name, flag in flags.items()},
        }
        tipset, lookup = await index.tipset(key), Lookup()
        lowest = {"messages": kept.messages, "state": kept.state, "receipts": kept.messages, "events": kept.messages}
        report["held_from"] = {
            name: await oldest_held(index, lookup, tipset, flag, lowest[name]) for name, flag in flags.items()
        }
    return report


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Print the status of the store that the settings name, or watch a follower. Errors: StoreError, ChainError."""
    if args.watch:
        from follower.status_page.terminal import watch

        return asyncio.run(watch(settings, args.token_file))
    report = asyncio.run(_read_status(settings))
    if args.json:
        import orjson

        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        _print_status(report)
    return 0


async def _read_status(settings: Settings) -> dict[str, Any]:
    from blockstore.open import open_store

    store = await open_store(settings["store"], readonly=True)
    try:
        return await store_status(store)
    finally:
        await store.close()


def _print_status(report: dict[str, Any]) -> None:
    network, head = report["network"], report["head"]
    print(f"store    {report['store']} (schema {report['schema']})")
    print(f"network  {network['network_name'] + ', genesis ' + network['genesis'] if network else 'none yet'}")
    if report["import_unfinished"]:
        print("import   not finished: nothing is served; run the same import again to resume")
    for machine, why in report["execution_stopped"].items():
        print(f"execution stopped on {machine}: {why}; see `follower resume`")
    if head is None:
        print("head     none yet")
    else:
        held = ", ".join(name for name, is_held in head["held"].items() if is_held) or "nothing"
        print(f"head     epoch {head['height']}, entry {head['seq']} of term {head['term']}, {held} held")
        print(f"         {' '.join(head['tipset'])}")
        held_from = {name: epoch for name, epoch in report["held_from"].items() if epoch is not None}
        print("held     " + ", ".join(f"{name} from epoch {epoch}" for name, epoch in held_from.items()))
    for line in report["keeps_text"]:
        print(f"keeps    {line}")
    for name, figure in report["figures"].items():
        print(f"{name:8} {figure:,}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--json`, `--watch` and its `--token-file`."""
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "--watch", action="store_true", help="show the follower that runs at --listen, and its fleet, live"
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="with --watch: a token that allows admin")


COMMAND: Final = Command(
    "status",
    "What the store holds and where its head is.",
    "follower status --store lmdb:///var/lib/follower",
    run,
    add_arguments,
)
