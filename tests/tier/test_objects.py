"""Reads of objects: one of each under way at a time, in a process and among processes; hits that survive a restart."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from blockstore.cid import multihash_of
from blockstore.errors import StoreUnavailable
from blockstore.memory import MemoryStore
from blockstore.tier.claims import Claims
from blockstore.tier.disk import LEAST_BYTES, DiskTier
from blockstore.tier.objects import StoreSource, TieredObjects
from blockstore.tier.sources import RankedSources
from chain.ipld.objects import Objects
from tests.support.paths import ROOT


class SlowStore(MemoryStore):
    """A store whose reads take a moment, counted."""

    def __init__(self, seconds: float = 0.005) -> None:
        super().__init__("slow")
        self.seconds = seconds
        self.read: list[bytes] = []
        self.fails = False

    async def get(self, multihash: bytes) -> bytes | None:
        return (await self.get_many([multihash]))[0]

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        self.read += multihashes
        await asyncio.sleep(self.seconds)
        if self.fails:
            raise StoreUnavailable("the store is gone")
        return await super().get_many(multihashes)


def over(store: MemoryStore, folder: Path | None = None, queue_bytes: int = 32 << 20) -> TieredObjects:
    disk = None if folder is None else DiskTier(folder, LEAST_BYTES)
    claims = None if folder is None else Claims(folder / "claims")
    sources = RankedSources[bytes]([StoreSource(store, "store")])
    return TieredObjects(store, sources, disk=disk, claims=claims, queue_bytes=queue_bytes)


async def filled(store: MemoryStore, count: int, seed: int = 1, size: int = 600) -> list[bytes]:
    rng = random.Random(seed)
    objects = [rng.randbytes(size) for _ in range(count)]
    await store.put_many([(multihash_of(data), data) for data in objects], closed=True)
    return [multihash_of(data) for data in objects]


@pytest.mark.parametrize("with_disk", [True, False])
async def test_a_thousand_requests_for_one_object_are_one_read(tmp_path: Path, with_disk: bool) -> None:
    store = SlowStore()
    (key,) = await filled(store, 1)
    tier = over(store, tmp_path if with_disk else None)
    objects = Objects(tier, cache_bytes=1 << 20)
    cid = b"\x01\x71" + key
    found = await asyncio.gather(*(objects.get(cid) if at % 2 else objects.get_many([cid]) for at in range(1000)))
    assert store.read == [key]
    assert len(found) == 1000
    assert tier.joined == 999
    await tier.close()


async def test_a_reader_that_gives_up_takes_the_object_from_nobody(tmp_path: Path) -> None:
    store = SlowStore(0.02)
    (key,) = await filled(store, 1)
    tier = over(store, tmp_path)
    first = asyncio.create_task(tier.get(key))
    await asyncio.sleep(0)
    second = asyncio.create_task(tier.get(key))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is not None
    assert store.read == [key]
    await tier.close()


async def test_what_is_absent_is_asked_for_each_time(tmp_path: Path) -> None:
    store = SlowStore(0)
    tier = over(store, tmp_path)
    key = multihash_of(b"late")
    assert await tier.get(key) is None
    await store.put_many([(key, b"late")], closed=True)
    assert await tier.get(key) == b"late"
    await tier.close()


async def test_errors_are_raised_and_not_kept(tmp_path: Path) -> None:
    store = SlowStore(0)
    (key,) = await filled(store, 1)
    tier = over(store, tmp_path)
    store.fails = True
    with pytest.raises(StoreUnavailable):
        await tier.get(key)
    store.fails = False
    assert await tier.get(key) is not None
    assert tier.reserved_bytes in (600, 0)
    await tier.close()
    assert tier.reserved_bytes == 0


async def test_other_bytes_are_never_answered(tmp_path: Path) -> None:
    store = SlowStore(0)
    key = multihash_of(b"right")
    await store.put_many([(key, b"wrong")], closed=True)
    tier = over(store, tmp_path)
    with pytest.raises(StoreUnavailable, match="other bytes"):
        await tier.get(key)
    await tier.close()


async def test_space_is_reserved_before_a_fetch_and_never_exceeded(tmp_path: Path) -> None:
    store = SlowStore(0.005)
    keys = await filled(store, 600, size=3000)
    tier = over(store, tmp_path, queue_bytes=200_000)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, tier.reserved_bytes)
            await asyncio.sleep(0.001)

    watching = asyncio.create_task(watch())
    for at in range(0, 600, 60):
        await asyncio.gather(*(tier.get(key) for key in keys[at : at + 60]))
    watching.cancel()
    assert 0 < most <= 200_000
    assert tier.passed_through > 0
    await tier.close()
    assert tier.reserved_bytes == 0
    again = over(store, tmp_path)
    kept = sum(again.local(key) is not None for key in keys)
    assert kept == 600 - tier.passed_through
    await again.close()


_READER = """
import asyncio, sys
from pathlib import Path
from tests.tier.test_objects import SlowStore, filled, over

async def main():
    store = SlowStore(0.02)
    keys = await filled(store, int(sys.argv[2]))
    tier = over(store, Path(sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.readline()
    for at in range(0, len(keys), 10):
        assert None not in await asyncio.gather(*(tier.get(key) for key in keys[at:at + 10]))
    print(len(store.read), flush=True)
    if len(sys.argv) > 3:
        await asyncio.sleep(0.3)
        print("written", flush=True)
        await asyncio.sleep(60)
    await tier.close()

asyncio.run(main())
"""


def reader(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", _READER, str(folder), *arguments],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def told(child: subprocess.Popen[str]) -> int:
    assert child.stdout is not None
    return int(child.stdout.readline())


def test_two_workers_read_an_object_once(tmp_path: Path) -> None:
    children = [reader(tmp_path, "100"), reader(tmp_path, "100")]
    for child in children:
        go(child)
    reads = [told(child) for child in children]
    assert sum(reads) == 100
    for child in children:
        child.communicate(timeout=20)
        assert child.returncode == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
async def test_hits_after_a_restart(tmp_path: Path, how: signal.Signals) -> None:
    child = reader(tmp_path, "400", "stays")
    go(child)
    assert told(child) == 400
    assert child.stdout is not None
    assert child.stdout.readline() == "written\n"
    os.kill(child.pid, how)
    child.communicate(timeout=20)
    store = SlowStore(0)
    keys = await filled(store, 400)
    tier = over(store, tmp_path)
    assert None not in await tier.get_many(keys)
    # all of 400 were hits before; at least 90 % are now
    assert tier.disk_hits >= 360
    assert len(store.read) == 400 - tier.disk_hits
    await tier.close()


async def test_a_holder_of_a_claim_that_dies_is_waited_for_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockstore.tier.objects._OTHER_SECONDS", 120.0)
    store = SlowStore(0)
    (key,) = await filled(store, 1)
    holder = subprocess.Popen(
        [
            sys.executable, "-c",
            "import sys, time; from pathlib import Path; from blockstore.tier.claims import Claims\n"
            "assert Claims(Path(sys.argv[1])).take(bytes.fromhex(sys.argv[2])); print('held', flush=True)\n"
            "time.sleep(60)",
            str(tmp_path / "claims"), key.hex(),
        ],
        cwd=ROOT, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    tier = over(store, tmp_path)
    reading = asyncio.create_task(tier.get(key))
    await asyncio.sleep(0.05)
    assert not reading.done()
    holder.kill()
    holder.communicate()
    began = time.monotonic()
    assert await reading is not None
    assert time.monotonic() - began < 60
    await tier.close()


def test_a_process_holds_a_bounded_number_of_claims(tmp_path: Path) -> None:
    """The kernel looks through all locks of a file for each one: with thousands of them each takes a tenth of a ms."""
    claims = Claims(tmp_path / "claims")
    keys = [multihash_of(b"%d" % number) for number in range(2000)]
    assert all(claims.take(key) for key in keys)
    assert 200 < locks_held() < 300
    for key in keys:
        claims.give(key)
    assert not locks_held() and claims.take(keys[-1]) and locks_held() == 1
    claims.close()


def locks_held() -> int:
    """Locks that this process has, by the system's own list."""
    return sum(line.split()[4] == str(os.getpid()) for line in Path("/proc/locks").read_text().splitlines())
