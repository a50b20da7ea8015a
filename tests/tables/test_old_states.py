"""States of actors before version 9: tables that need none are made, the others say which version is not decoded."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockstore.memory import MemoryStore
from leader_bridge.imports.importer import import_car
from leader_bridge.tables.catalogue import TASKS, find_tasks
from leader_bridge.tables.extract import ExtractFailed, extract
from leader_bridge.tables.sinks.opening import open_sink
from tests.support.recorded import recorded

#: by task, the actor whose state it needs
NEED = {
    "actor_states": "storageminer",
    "miner_infos": "storageminer",
    "miner_sector_infos": "storageminer",
    "power_actor_claims": "storagepower",
    "chain_powers": "storagepower",
    "chain_rewards": "reward",
    "market_deal_proposals": "storagemarket",
    "market_deal_states": "storagemarket",
}


@pytest.mark.recorded
async def test_the_genesis_of_mainnet(tmp_path: Path) -> None:
    store = MemoryStore()
    await import_car(store, recorded("genesis/mainnet.car.zst"))
    made: dict[str, int] = {}
    for name in TASKS:
        tasks = find_tasks([name])
        sink = await open_sink(f"parquet:{tmp_path / name}", [task.table for task in tasks])
        try:
            if name in NEED:
                said = f"{name} at epoch 0: .*{NEED[name]} of actors version 0 is not decoded: versions 9 to"
                with pytest.raises(ExtractFailed, match=said):
                    await extract(store, sink, tasks, low=0, high=0)
            else:
                made.update((await extract(store, sink, tasks, low=0, high=0)).rows)
        finally:
            await sink.close()
    # Lotus' genesis: a block without parents, and its actors
    assert (made["block_headers"], made["actors"]) == (1, 37)
