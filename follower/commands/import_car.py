"""`follower import FILE`: read a CAR file into the store."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Final

from follower.commands.command import Command
from follower.commands.processes import run_loop
from follower.settings import Settings, shared_options


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Import, and print what was read. Errors: BadCar, StoreError, ChainError, OSError."""
    return run_loop(_import(settings, args.file, index=not args.no_index))


async def _import(settings: Settings, file: Path, *, index: bool) -> int:
    from blockstore.open import open_store
    from leader_bridge.imports.importer import import_car
    from leader_bridge.imports.progress import reporting

    network_file = Path(settings["network_file"]) if settings["network_file"] else None
    shared = replace(shared_options(settings), may_create_tables=True)
    store = await open_store(settings["store"], map_size=settings["map_size_gb"] << 30, bulk=True, shared=shared)
    try:
        with reporting() as progress:
            done = await import_car(
                store,
                str(file),
                network_file=network_file,
                progress=progress,
                index=index,
                lease_seconds=settings["lease_seconds"],
            )
    finally:
        await store.close()
    print(f"imported {done.objects:,} objects, {done.object_bytes:,} bytes, into {settings.shown('store')}")
    if done.network is not None:
        print(f"network {done.network.name}, {done.tipsets:,} tipsets, epochs {done.lowest} to {done.height}")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, and whether it is indexed."""
    parser.add_argument("file", type=Path, help="CARv1, CARv2, .car.zst or .forest.car.zst; - for standard input")
    parser.add_argument("--no-index", action="store_true", help="objects only, no index rows and no head")


COMMAND: Final = Command(
    "import",
    "Read a CAR file into the store.",
    "follower import snapshot.forest.car.zst --store lmdb:///var/lib/follower",
    run,
    add_arguments,
)
