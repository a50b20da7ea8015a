"""The tasks that fetch, make, repair and move: against a replayed node, and a store with generations."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from blockstore.generations import LASTING, put_layout
from blockstore.lmdb.store import LmdbStore
from blockstore.memory import MemoryStore
from blockstore.store import HEIGHTS, META, POST, RECORDED, TIPSETS, Batch, Held, Store
from chain.index.chain_index import HELD_ALL, HELD_EVENTS, HELD_RECEIPTS, decode_row, height_row
from chain.index.coverage import covered
from chain.index.recorded_answers import TRACES, TRACES_INDEX, keep_answer, kept_answers
from chain.tipset import TipsetKey
from leader_bridge.nodes.no_nodes import NoNodes
from leader_bridge.pool.claims import Claims
from leader_bridge.pool.gaps import find_gaps
from leader_bridge.pool.job import FILL, Job
from leader_bridge.pool.reports import Status, reports_of
from leader_bridge.pool.tasks import ALL, bound_tasks
from leader_bridge.pool.tasks.moving import placed
from leader_bridge.pool.tasks.tables import table_tasks
from leader_bridge.pool.tasks.task import CannotDo, TaskContext
from leader_bridge.pool.worker import Worker
from leader_bridge.store.coverage import TIPSETS_INDEX
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.tipset_writer import TipsetWriter
from leader_bridge.store.traces import FLOOR
from leader_bridge.tables.jobs import TableJobs
from leader_bridge.upkeep.repair import StoreFetcher
from rpc.client.client import NodeClient
from tests.pool.chain import PoolChain, pool_chain


@pytest.fixture
async def lmdb(tmp_path: Path) -> AsyncIterator[LmdbStore]:
    store = await LmdbStore.open(tmp_path / "store", map_size=1 << 30)
    yield store
    await store.close()


async def done(context: TaskContext, *tasks: str, high: int = 5) -> dict[tuple[int, str], Status]:
    """How each task ended on epochs 1 to `high`."""
    worker = Worker(context, bound_tasks(context), "test", job_seconds=30)
    assert await worker.handle(Job(FILL, 1, high, tasks), 2) is None
    return {(one.height, one.task): one.status async for one in reports_of(context.store, 0, 100)}


async def claimed(store: Store) -> None:
    await Claims(store, TipsetWriter(store, Mirror(store, NoNodes()))).once()


def test_each_task_says_what_it_does() -> None:
    assert set(ALL) >= {"messages", "eth_hashes", "events", "receipts", "traces", "coverage", "retention", "warm"}
    for name, kind in ALL.items():
        assert kind.name == name
        assert kind.doc.endswith(".")
    # in a worker with neither node nor executor nor cache
    assert set(ALL) - set(bound_tasks(TaskContext(MemoryStore()))) == {"receipts", "traces", "retention", "warm"}


class Node(NodeClient):
    """A node that has traces of some epochs."""

    name = "node"

    def __init__(self, chain: PoolChain, traced: set[int]) -> None:
        self.chain = chain
        self.traced = traced

    async def call(self, method: str, *params: object) -> object:  # type: ignore[override]
        height = int(str(params[0]), 16)
        (tipset,) = [one for one in self.chain.canonical() if one.height == height]
        if method == "eth_getBlockByNumber":
            return {"hash": "0x" + tipset.key.block_hash.hex()}
        assert method == "trace_block"
        found = "0x" + (tipset.key.block_hash.hex() if height in self.traced else "00" * 32)
        return [{"blockHash": found, "result": height}]


async def test_traces_come_from_a_node_if_they_are_of_our_tipset() -> None:
    chain = await pool_chain(MemoryStore(), 6)
    keys = {one.height: one.key for one in chain.canonical()}
    await keep_answer(chain.store, keys[2].cid, TRACES, b"[]")
    batch = Batch()
    batch.put(META, b"", FLOOR, orjson.dumps(2))
    await chain.store.write(batch)
    context = TaskContext(chain.store, client=Node(chain, {1, 3, 5}))
    found = await done(context, "traces")
    assert [found[height, "traces"] for height in range(1, 6)] == [
        Status.SKIP, Status.OK, Status.OK, Status.SKIP, Status.OK,
    ]  # fmt: skip
    answers = await kept_answers(chain.store, [keys[height].cid for height in (1, 2, 3, 4, 5)], TRACES)
    assert [answer and len(orjson.loads(answer)) for answer in answers] == [None, 0, 1, None, 1]
    await claimed(chain.store)
    assert await covered(chain.store, TRACES_INDEX) == [(2, 3), (5, 5)]
    assert await chain.store.row(RECORDED, keys[4].cid, TRACES) is None


async def test_receipts_are_fetched_and_claimed_and_those_that_nobody_has_are_skipped() -> None:
    chain = await pool_chain(MemoryStore(), 6)
    node = MemoryStore()
    children = chain.canonical()[2:5]
    batch = Batch()
    for child in children:
        lacks = replace(chain.rows[child.key], held=HELD_ALL & ~(HELD_RECEIPTS | HELD_EVENTS))
        batch.put(TIPSETS, child.key.cid, b"", lacks.encode())
    await chain.store.write(batch)
    fetched, nowhere = (child.parent_message_receipts.multihash for child in children[:2])
    chain.store._closed -= {fetched, nowhere}
    await node.put_many([(fetched, chain.store._objects.pop(fetched))], closed=True)
    assert chain.store._objects.pop(nowhere)
    context = TaskContext(chain.store, fetcher=StoreFetcher(node))
    found = await done(context, "receipts")
    assert [found[height, "receipts"] for height in range(1, 6)] == [
        Status.OK, Status.SKIP, Status.OK, Status.OK, Status.OK,
    ]  # fmt: skip
    await claimed(chain.store)
    held = []
    for child in children:
        value = await chain.store.row(TIPSETS, child.key.cid, b"")
        assert value is not None
        held.append(bool(decode_row(value).held & HELD_EVENTS))
    assert held == [True, False, True]
    assert await chain.store.held_many([fetched, nowhere]) == [Held.CLOSED, Held.ABSENT]


async def test_coverage_is_repaired_and_rows_by_epoch_are_written_again() -> None:
    chain = await pool_chain(MemoryStore(), 6, nulls={3})
    assert await covered(chain.store, TIPSETS_INDEX) == []
    lost, unknown = chain.canonical()[2], chain.canonical()[4]
    partition, prefix = height_row(lost.height)
    batch = Batch()
    batch.delete(POST, lost.parents.cid, b"")
    batch.put(TIPSETS, unknown.key.cid, b"", replace(chain.rows[unknown.key], parent_height=-1).encode())
    await chain.store.write(batch)
    found = await done(TaskContext(chain.store), "coverage", high=6)
    assert found[2, "coverage"] == found[4, "coverage"] == found[6, "coverage"] == Status.OK
    assert found[5, "coverage"] == Status.SKIP
    await claimed(chain.store)
    assert await covered(chain.store, TIPSETS_INDEX) == [(1, 4), (6, 6)]
    assert await chain.store.row(POST, lost.parents.cid, b"") is not None
    assert await chain.store.row(HEIGHTS, partition, prefix + lost.key.cid) == bytes(lost.key)


async def test_retention_copies_contents_to_the_generation_that_is_filled(lmdb: LmdbStore) -> None:
    chain = await pool_chain(lmdb, 6)
    with pytest.raises(CannotDo, match="nothing to copy"):
        await placed(lmdb, ["retention"])
    layout = (await lmdb.layout()).with_next()
    batch = Batch()
    put_layout(batch, layout)
    await lmdb.write(batch)
    (task,) = await placed(lmdb, ["retention"])
    assert task == "retention@2"
    context = TaskContext(lmdb)
    assert set((await done(context, task)).values()) == {Status.OK}
    assert await find_gaps(lmdb, 1, 5, [task]) == []
    roots = [block.messages.multihash for one in chain.canonical()[1:6] for block in one.blocks]
    assert set(await lmdb.place(2).held_many(roots)) == {Held.CLOSED}
    assert set(await lmdb.place(LASTING).held_many(roots)) == {Held.ABSENT}
    # the next pass has another name, so it is done again
    assert await find_gaps(lmdb, 1, 1, ["retention@3"]) == [(1, ("retention@3",))]


async def test_warming_reads_the_contents_through_the_cache_of_this_machine() -> None:
    chain = await pool_chain(MemoryStore(), 6)
    read: set[bytes] = set()

    class Near:
        async def get(self, multihash: bytes) -> bytes | None:
            return (await self.get_many([multihash]))[0]

        async def get_many(self, multihashes: list[bytes]) -> list[bytes | None]:
            read.update(multihashes)
            return await chain.store.get_many(multihashes)

        async def put_many(self, objects: object, *, closed: bool) -> None:
            raise AssertionError("nothing is written")

    (task,) = await placed(chain.store, ["warm"])
    assert task == f"warm@{socket.gethostname()}"
    context = TaskContext(chain.store)
    context.near = Near()  # type: ignore[assignment]
    assert set((await done(context, task)).values()) == {Status.OK}
    tipset = chain.canonical()[3]
    wanted = [*(cid.multihash for cid in tipset.key.cids), tipset.blocks[0].messages.multihash]
    wanted.append(chain.canonical()[4].parent_message_receipts.multihash)
    assert set(wanted) <= read
    assert TipsetKey(tipset.key) == tipset.key


async def test_tables_are_made_and_rows_of_an_epoch_that_is_a_null_round_are_withdrawn(tmp_path: Path) -> None:
    chain = await pool_chain(MemoryStore(), 6, nulls={4})
    place = f"parquet:{tmp_path / 'tables'}"
    with pytest.raises(CannotDo, match="needs a place"):
        await placed(chain.store, ["table_block_headers"])
    first, other = [await placed(chain.store, ["table_block_headers"], at) for at in (place, place + "2")]
    assert first != other, "what is done for one place is not done for another"
    jobs = await TableJobs.open(place, ["block_headers"])
    # a worker of the other place, which takes the job from the same queue, says of neither that it is done
    stranger = Worker(TaskContext(chain.store), table_tasks(jobs, place + "2"), "other", job_seconds=60)
    await stranger.handle(Job(FILL, 1, 6, first), 0)
    told = {(one.height, one.status) async for one in reports_of(chain.store, 0, 9)}
    assert told == {(height, Status.SKIP) for height in range(1, 7)}
    withdrawn: list[int] = []

    async def withdraw(height: int) -> None:
        withdrawn.append(height)
        await jobs.withdraw(height)

    worker = Worker(TaskContext(chain.store), table_tasks(jobs, place), "test", job_seconds=60, on_null_round=withdraw)
    assert await worker.handle(Job(FILL, 1, 6, first), 0) is None
    assert await find_gaps(chain.store, 1, 6, first) == []
    assert withdrawn == [4]
    await jobs.close()
    import pyarrow.parquet as pq

    rows = [row for file in sorted((tmp_path / "tables").rglob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    assert sorted({row["height"] for row in rows}) == [1, 2, 3, 5, 6]
