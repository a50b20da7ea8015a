"""`follower import FILE`: read a CAR file, or a snapshot from an address, into the store."""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from follower.commands.command import Command
from follower.commands.processes import run_loop
from follower.setting_parsers import snapshot_urls
from follower.settings import CannotRun, Settings, shared_options

_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Import, and print what was read. Errors: BadCar, DownloadFailed, StoreError, ChainError, OSError, CannotRun."""
    if args.sha256 and not _SHA256.fullmatch(args.sha256):
        raise CannotRun("--sha256 takes 64 hexadecimal digits")
    return run_loop(_import(settings, args))


def url_of(settings: Settings, text: str) -> str | None:
    """The address to download from, None where `text` names a file."""
    return snapshot_urls(settings["snapshot_urls"]).get(text) or (
        text if text.startswith(("https://", "http://")) else None
    )


def work_folder(settings: Settings, name: str) -> Path:
    """A folder for what an import keeps beside the store while it runs."""
    if settings["download_folder"]:
        return Path(settings["download_folder"]) / name
    scheme, _, path = settings["store"].partition("://")
    return Path(path if scheme == "lmdb" else ".") / name


def _sort_above(megabytes: int) -> int:
    """Bytes of the largest file that is stored as it comes. `megabytes` 0: a quarter of the machine's memory."""
    return megabytes << 20 or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


async def _import(settings: Settings, args: argparse.Namespace) -> int:
    from blockstore.open import open_store
    from leader_bridge.imports.download import DownloadOptions
    from leader_bridge.imports.fetched import import_from_url
    from leader_bridge.imports.importer import import_car
    from leader_bridge.imports.progress import reporting
    from leader_bridge.retention.policy import Policy

    url = url_of(settings, args.file)
    if url is None and (args.sha256 or args.keep_file):
        raise CannotRun("--sha256 and --keep-file are for downloads")
    arguments: dict[str, Any] = {
        "network_file": Path(settings["network_file"]) if settings["network_file"] else None,
        "index": not args.no_index,
        "lease_seconds": settings["lease_seconds"],
        "policy": Policy(settings["keep_state_epochs"], settings["keep_message_epochs"], settings["keep_index_epochs"]),
        "folder": work_folder(settings, "import"),
        "sort_above": _sort_above(settings["import_memory_mb"]),
    }
    shared = replace(shared_options(settings), may_create_tables=True)
    store = await open_store(settings["store"], map_size=settings["map_size_gb"] << 30, bulk=True, shared=shared)
    try:
        with reporting() as progress:
            if url is None:
                done = await import_car(store, args.file, progress=progress, **arguments)
            else:
                done = await import_from_url(
                    store,
                    url,
                    work_folder(settings, "download"),
                    options=DownloadOptions(settings["download_timeout_seconds"], sha256=args.sha256 or ""),
                    keep_file=args.keep_file,
                    progress=progress,
                    **arguments,
                )
    finally:
        await store.close()
    print(f"imported {done.objects:,} objects, {done.object_bytes:,} bytes, into {settings.shown('store')}")
    if done.network is not None:
        print(f"network {done.network.name}, {done.tipsets:,} tipsets, epochs {done.lowest} to {done.height}")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, and what is done with it."""
    parser.add_argument(
        "file",
        help="CARv1, CARv2, .car.zst or .forest.car.zst; - for standard input; mainnet, calibnet or an http(s) URL: "
        "download it (setting snapshot_urls)",
    )
    parser.add_argument("--no-index", action="store_true", help="objects only, no index rows and no head")
    parser.add_argument("--sha256", metavar="HEX", help="the hash that a download must have (default: as published)")
    parser.add_argument("--keep-file", action="store_true", help="keep a downloaded file after the import")


COMMAND: Final = Command(
    "import",
    "Read a CAR file or a downloaded snapshot into the store.",
    "follower import calibnet --store lmdb:///var/lib/follower",
    run,
    add_arguments,
)
