"""Three real Cassandra nodes, three copies, QUORUM: what a store must do, and one node killed with -9 meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import pytest

from blockstore.cassandra.store import CassandraStore
from blockstore.cid import multihash_of
from blockstore.store import MESSAGES, Batch, Held
from tests.blockstore.store_contract import StoreContract, entry
from tests.support.cassandra.server import ClusterOfThree


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterOfThree]:
    made = ClusterOfThree()
    yield made
    made.stop()


@pytest.fixture
async def store(cluster: ClusterOfThree) -> AsyncIterator[CassandraStore]:
    url = f"cassandra://{cluster.hosts}/three"
    made = await CassandraStore.open(url, delta_ms=200, epsilon_ms=50, replication=3)
    yield made
    await made.close()


#: what of the contract is judged here too; the rest is the code's, not the cluster's
CONTRACT = (
    "test_loose_and_closed",
    "test_tables_and_partitions_are_apart",
    "test_the_last_write_of_a_row_wins",
)


@pytest.mark.parametrize("name", CONTRACT)
async def test_the_contract_holds(store: CassandraStore, name: str) -> None:
    await getattr(StoreContract(), name)(store)


async def test_a_node_is_killed_and_no_operation_fails(cluster: ClusterOfThree, store: CassandraStore) -> None:
    rng = random.Random(1)
    objects = [rng.randbytes(200 + n % 800) for n in range(500)]
    pairs = [(multihash_of(data), data) for data in objects]
    keys = [multihash for multihash, _ in pairs]
    await store.put_many(pairs, closed=True)
    term = await store.new_term("one")
    head = await store.head()
    seq = head.seq if head else 0
    done = {"read": 0, "write": 0, "publish": 0}
    stop = asyncio.Event()

    async def read() -> None:
        while not stop.is_set():
            some = rng.sample(range(len(pairs)), 20)
            assert await store.get_many([keys[at] for at in some]) == [objects[at] for at in some]
            assert set(await store.held_many([keys[at] for at in some[:5]])) == {Held.CLOSED}
            done["read"] += 1

    async def write(name: bytes) -> None:
        while not stop.is_set():
            number = done["write"] = done["write"] + 1
            key = b"%s %d" % (name, number)
            batch = Batch()
            batch.put(MESSAGES, key, b"", b"%d" % number)
            await store.write(batch)
            data = b"%s %d" % (name, number)
            await store.put_many([(multihash_of(data), data)], closed=False)
            assert await store.row(MESSAGES, key, b"") == b"%d" % number
            assert await store.get(multihash_of(data)) == data

    async def publish() -> None:
        nonlocal seq
        while not stop.is_set():
            await store.append_head(entry(seq + 1, term))
            seq += 1
            await store.renew_lease(term, seq)
            head = await store.head()
            assert head is not None
            assert head.seq == seq
            done["publish"] += 1

    async def more(count: int) -> None:
        """Until so much more of each kind is done, or one of them has failed."""
        targets = {name: number + count for name, number in done.items()}
        async with asyncio.timeout(120):
            while any(done[name] < target for name, target in targets.items()):
                for task in working:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)

    working = [asyncio.create_task(one) for one in (read(), read(), write(b"a"), write(b"b"), publish())]
    try:
        await more(20)
        cluster.nodes[1].kill()
        await more(60)
    finally:
        stop.set()
        await asyncio.gather(*working)
    log = await store.head_entries(0, 10_000)
    assert [one.seq for one in log] == list(range(1, seq + 1))
    # who comes now, with a dead node among the hosts, is let in
    late = await CassandraStore.open(store.url, delta_ms=200, epsilon_ms=50)
    assert (await late.head() or entry(0, 0)).seq == seq
    await late.close()
