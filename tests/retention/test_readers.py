"""Followers in processes of their own read states while a leader drops them: never a wrong or a missing object."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path

import pytest

from blockstore.generations import GenerationalStore
from devnode.sim_chain import SimSettings
from tests.retention.simulated import SimulatedLeader, kill_at_random, walk_kept
from tests.support.cassandra.stores import emptied, keyspace_url
from tests.support.paths import ROOT

_READERS = 3


async def test_lmdb(tmp_path: Path) -> None:
    await readers_beside_a_pass(f"lmdb://{tmp_path / 'store'}", policy=20, epochs=75)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_cassandra() -> None:
    url = keyspace_url("follower_retention_readers")
    store = await emptied(url, delta_ms=200, epsilon_ms=20, every=True)
    await store.close()
    await readers_beside_a_pass(url, policy=20, epochs=300)


async def readers_beside_a_pass(url: str, *, policy: int, epochs: int) -> None:
    leader = SimulatedLeader(url, policy, SimSettings.for_size(120, 60, seed=3), grace_seconds=0.1)
    await leader.start()
    await leader.advance()
    await leader.settle()
    readers = [await _reader(url, seed) for seed in range(_READERS)]
    rng = random.Random(3)
    for at in range(epochs):
        await leader.advance()
        if at % 4 == 3:
            await leader.settle("idle")
        if at % (epochs // 3) == epochs // 4:
            await kill_at_random(leader, rng)
            await leader.start()
    await leader.settle("idle")
    found = [await _told(reader) for reader in readers]
    await leader.stop()
    store = await leader.opened()
    await walk_kept(store, policy)
    assert isinstance(store, GenerationalStore)
    generation = (await store.layout()).current
    await store.close()
    print(f"generation {generation}; {found}")
    assert generation > 2
    assert all(one["objects"] > 100 for one in found)


async def _reader(url: str, seed: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.retention.reader", url, str(seed),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip


async def _told(reader: asyncio.subprocess.Process) -> dict[str, int]:
    assert reader.stdin is not None
    reader.stdin.close()
    async with asyncio.timeout(60):
        out, _ = await reader.communicate()
    assert reader.returncode == 0
    told: dict[str, int] = json.loads(out)
    return told
