"""A store stays at the size that its policy means, and whole, whatever moment its leader is killed at."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from chain.index.kept import load_kept
from devnode.sim_chain import SimSettings
from tests.retention.simulated import SimulatedLeader, disk_use, kill_at_random, walk_kept


@pytest.mark.parametrize(
    ("policy", "epochs", "objects", "kills"),
    [(30, 240, 60, 8), pytest.param(300, 6000, 1000, 20, marks=[pytest.mark.long, pytest.mark.timeout(7200)])],
)
async def test_the_size_levels_off_and_every_kept_root_is_whole(
    tmp_path: Path, policy: int, epochs: int, objects: int, kills: int
) -> None:
    folder = tmp_path / "store"
    settings = SimSettings.for_size(max(30, objects * 2), objects, seed=7)
    leader = SimulatedLeader(f"lmdb://{folder}", policy, settings)
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
            sizes.append((leader.height, disk_use(folder)))
        if at % every == every - 1 and leader.kills < kills:
            await kill_at_random(leader, rng)
            store = await leader.opened()
            lives.append((leader.height, (await walk_kept(store, policy)).bytes))
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
    lives.append((leader.height, live.bytes))
    ratio = most / live.bytes
    print(f"live {live}, most {most:,} bytes, {ratio:.2f} times; killed in {leader.killed_in}")
    if figures := os.environ.get("RETENTION_FIGURES"):
        Path(figures).write_text(json.dumps({"policy": policy, "sizes": sizes, "live": lives}))
    assert leader.kills == kills
    # a small store is mostly rows and headers, which stay
    assert objects < 1000 or ratio < 2.5
