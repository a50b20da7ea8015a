"""Followers of one region in one process: real servers, each with a disk of its own, and what sends to them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from blockstore.cid import Cid, cid_of
from blockstore.shards.inbox import Inbox
from blockstore.store import Store
from blockstore.tier.disk import LEAST_BYTES, DiskTier
from blockstore.tier.objects import StoreSource, TieredObjects
from blockstore.tier.sources import RankedSources
from follower.object_tier.files import ReceivedFiles
from follower.object_tier.shards import ShardReceiver
from leader_bridge.dispersal.sender import Sender
from tests.tier.test_peers import serving

SECRET = "a secret of some length"


@dataclass
class Follower:
    url: str
    receiver: ShardReceiver
    tier: TieredObjects
    disk: DiskTier
    folder: Path

    def has(self, cid: Cid) -> bool:
        return self.disk.get_many([cid.multihash])[0] is not None


@asynccontextmanager
async def region(
    store: Store, folder: Path, count: int, files: bool = True, disk_bytes: int = LEAST_BYTES
) -> AsyncIterator[list[Follower]]:
    """Followers that know each other, each with a disk of its own."""
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving()) for _ in range(count)]
        urls = [f"http://127.0.0.1:{server.port}" for server in servers]
        found = []
        for number, server in enumerate(servers):
            place = folder / str(number)
            disk = DiskTier(place / "tier", disk_bytes)
            tier = TieredObjects(store, RankedSources([StoreSource(store, "store")]), disk=disk)
            stack.push_async_callback(tier.close)
            receiver = ShardReceiver(
                store,
                Inbox(place / "shards", 64 << 20),
                tier,
                SECRET,
                [url for other, url in enumerate(urls) if other != number],
                ReceivedFiles(place / "files") if files else None,
            )
            receiver.serve_on(server)
            stack.push_async_callback(receiver.close)
            found.append(Follower(urls[number], receiver, tier, disk, place))
        yield found


@asynccontextmanager
async def sending(store: Store, followers: Sequence[str]) -> AsyncIterator[Sender]:
    sender = Sender(store, followers, SECRET)
    try:
        yield sender
    finally:
        await sender.close()


def objects_of(count: int, size: int = 500, seed: int = 1) -> list[tuple[Cid, bytes]]:
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        data = b"\x59" + size.to_bytes(2, "big") + rng.randbytes(size)
        found.append((cid_of(data), data))
    return found


async def until(check: Callable[[], object], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.01)
