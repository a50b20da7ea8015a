"""`follower disperse`: send a file to all followers of a region, each byte hardly more than once."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

from follower.commands.command import DONE, FAILED, Command
from follower.settings import CannotRun, Settings, shared_options

if TYPE_CHECKING:
    from blockstore.store import Store
    from leader_bridge.dispersal.sender import Sender


def sender_of(settings: Settings, store: Store) -> Sender:
    """What sends to the followers of `disperse_to`. Errors: CannotRun (none, no secret, no library)."""
    from blockstore.shards.erasure import is_available
    from follower.object_tier.open import read_secret, split_peers
    from leader_bridge.dispersal.sender import Sender

    followers = split_peers(settings["disperse_to"])
    if not followers:
        raise CannotRun("nobody to send to: give --disperse-to http://HOST:PORT,…")
    if not is_available():
        raise CannotRun("disperse_to needs pyeclib: pip install 'lotus-follower[dispersal]'")
    return Sender(store, followers, read_secret(settings, "disperse_to"))


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Send. Errors: CannotRun (the file, the followers, the secret), StoreError, OSError."""
    if args.folders:
        return _cut(args.file, [Path(one.strip()) for one in args.folders.split(",") if one.strip()])
    return asyncio.run(_send(settings, args.file))


async def _send(settings: Settings, path: Path) -> int:
    from blockstore.open import open_store
    from leader_bridge.dispersal.files import send_file

    store = await open_store(settings["store"], shared=shared_options(settings))
    try:
        if await store.head() is None:
            raise CannotRun(
                f"the store {settings.shown('store')} is empty: give --store, the one that the followers read, for it "
                "tells them what is sent"
            )
        sender = sender_of(settings, store)
        try:
            delivery = await send_file(
                sender,
                path,
                progress=lambda done, total: print(f"{done / total:4.0%} of {total:,} bytes", flush=True),
            )
        except (ValueError, FileNotFoundError, IsADirectoryError) as error:
            raise CannotRun(str(error)) from None
        finally:
            await sender.close()
    finally:
        await store.close()
    got = len(sender.followers) - len(delivery.failed)
    print(f"{got} of {len(sender.followers)} followers have {path.name}, SHA-256 {delivery.digest}")
    print(f"sent from here: {sender.sent_bytes:,} bytes")
    for name, reason in delivery.failed.items():
        print(f"{name} has not got it: {reason}")
    return FAILED if delivery.failed else DONE


def _cut(path: Path, folders: list[Path]) -> int:
    """Write the shards to folders. Errors: CannotRun, StoreUnavailable (no library), OSError."""
    from blockstore.shards.files import cut_file

    def show(done: int, total: int) -> None:
        print(f"{done / total:4.0%} of {total:,} bytes", flush=True)

    try:
        digest = cut_file(path, folders, progress=show)
    except (ValueError, FileNotFoundError, IsADirectoryError) as error:
        raise CannotRun(str(error)) from None
    print(f"the shards of {path.name} are in {len(folders)} folders, SHA-256 {digest}")
    return DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, and where to."""
    parser.add_argument(
        "--to-folders",
        dest="folders",
        metavar="DIR,…",
        help="write the shards to these folders in turn, and send nothing; `follower sync --from DIR,…` reads them",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="sent under its own name, to their received_files_dir")


COMMAND: Final = Command(
    "disperse",
    "Send a file, such as a snapshot, to all followers of a region.",
    "follower disperse snapshot.car.zst --store cassandra://db1/chain --disperse-to http://a:1235,http://b:1235"
    " --object-peer-secret-file FILE",
    run,
    add_arguments,
)
