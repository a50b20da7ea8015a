"""Where state is lazy, logs need no node: the emitters' addresses come with messages, receipts and events."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockstore.open import open_store
from chain.index.coverage import covered
from chain.index.event_rows import EVENTS_INDEX
from devnode.replay import start_replay
from follower.commands.comparison import compare
from tests.support.recorded import recorded
from tests.support.served import served
from tests.support.whole_path import CHAINS, filled


@pytest.mark.recorded
@pytest.mark.parametrize("folder", CHAINS)
async def test_every_recorded_log_without_a_node(folder: str, tmp_path: Path) -> None:
    node = await start_replay(recorded(f"{folder}/chain.car.zst").parent, at_end=True)
    store = await open_store(f"lmdb://{tmp_path}/store")
    await filled(store, node, folder, state="lazy")
    await node.stop()
    head = await store.head()
    assert head is not None
    assert await covered(store, EVENTS_INDEX) == [(0, head.head.height - 1)]
    async with served(store) as server:
        report = await compare(
            f"http://127.0.0.1:{server.port}",
            [recorded(f"{folder}/rpc.jsonl.zst")],
            r"Filecoin\.EthGetLogs|eth_getLogs|Filecoin\.GetActorEventsRaw",
            paths=["/rpc/v0", "/rpc/v1", "/rpc/v2"],
        )
    assert not report.differences, report.differences[:5]
    assert report.equal == report.total > 50
    await store.close()
