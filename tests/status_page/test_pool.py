"""The pool of workers on the status page, and in a terminal."""

from __future__ import annotations

import time

from blockstore.memory import MemoryStore
from blockstore.pool_rows import WorkerRow, put_worker
from blockstore.store import Batch
from follower.status_page.pool import PoolView


async def test_workers_that_give_a_sign_come_first() -> None:
    store = MemoryStore()
    view = PoolView(store)
    assert await view.workers() == []
    now = int(time.time() * 1000)
    batch = Batch()
    # killed long ago
    put_worker(batch, WorkerRow("a", {"walk": 1}, written_ms=now - 3_600_000))
    put_worker(batch, WorkerRow("b", {"watch": 5}, 7, 2, 1, {"OK": 30}, {"watch": 3}, 4, now))
    await store.write(batch)
    first, second = await view.workers()
    assert (first["name"], first["state"], second["name"], second["state"]) == ("b", "works", "a", "no sign")
    assert first["slots"] == {"watch": 5}
    assert (first["done"], first["deferred"], first["failed"], first["waiting"]) == (7, 2, 1, {"watch": 3})
