"""A store stays at the size that its policy means, and whole, whatever moment its leader is killed at."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from chain.index.kept import load_kept
from devnode.sim_chain import SimSettings
from tests.retention.simulated import SimulatedLeader, disk_use, kill_at_random, walk_kept
from tests.support.cassandra.stores import emptied, keyspace_url

_LONG: Final = [pytest.mark.long, pytest.mark.timeout(7200)]


@pytest.mark.parametrize(
    ("policy", "epochs", "objects", "kills"), [(30, 160, 60, 6), pytest.param(300, 6000, 1000, 20, marks=_LONG)]
)
async def test_lmdb(tmp_path: Path, policy: int, epochs: int, objects: int, kills: int) -> None:
    folder = tmp_path / "store"

    async def size() -> int:
        return disk_use(folder)

    await size_levels_off(f"lmdb://{folder}", size, policy, epochs, objects, kills)


@pytest.mark.parametrize(("policy", "epochs", "objects", "kills"), [pytest.param(300, 1500, 1000, 20, marks=_LONG)])
async def test_cassandra(policy: int, epochs: int, objects: int, kills: int) -> None:
    url = keyspace_url("follower_retention")
    store = await emptied(url, delta_ms=200, epsilon_ms=20, every=True)

    async def size() -> int:
        # the server's own figure: what its tables take on the disk
        cql = "SELECT mebibytes FROM system_views.disk_usage WHERE keyspace_name = ?"
        return sum(int(row[0]) << 20 for row in await store._execute(cql, ["follower_retention"]))

    try:
        await size_levels_off(url, size, policy, epochs, objects, kills)
    finally:
        await store.close()


async def size_levels_off(
    url: str, size: Callable[[], Awaitable[int]], policy: int, epochs: int, objects: int, kills: int
) -> None:
    """Feed a chain to a leader, kill it in its passes, and walk what must be held after each kill."""
    settings = SimSettings.for_size(max(30, objects * 2), objects, seed=7)
    leader = SimulatedLeader(url, policy, settings)
    rng = random.Random(7)
    sizes: list[tuple[int, int]] = []
    lives: list[tuple[int, int]] = []
    await leader.start()
    every = epochs // (kills + 1)
    for at in range(epochs):
        await leader.advance()
        if at % 8 == 7:
            # the chain of days is made in seconds: the pass may catch up
            await leader.settle("idle")
        if at % max(1, epochs // 120) == 0:
            await leader.settle()
            sizes.append((leader.height, await size()))
        if at % every == every - 1 and leader.kills < kills:
            await kill_at_random(leader, rng)
            store = await leader.opened()
            live = await walk_kept(store, policy)
            lives.append((leader.height, live.bytes + live.rows))
            await store.close()
            await leader.start()
    await leader.settle("idle")
    await leader.stop()
    store = await leader.opened()
    live = await walk_kept(store, policy)
    kept = await load_kept(store)
    await store.close()
    assert kept.state > leader.height - 3 * policy
    most = max(size for height, size in sizes if height > 3 * policy)
    lives.append((leader.height, live.bytes + live.rows))
    ratio = most / (live.bytes + live.rows)
    print(f"live {live}, most {most:,} bytes, {ratio:.2f} times; killed in {leader.killed_in}")
    if figures := os.environ.get("RETENTION_FIGURES"):
        Path(figures).write_text(json.dumps({"policy": policy, "sizes": sizes, "live": lives}))
    assert leader.kills == kills
    # a small store is mostly rows and headers, which stay
    assert objects < 1000 or ratio < 2.5
