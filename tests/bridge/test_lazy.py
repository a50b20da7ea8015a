"""Lazy state: every recorded answer comes out of what is fetched when it is first read, each object once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from blockstore.cid import DAG_CBOR, RAW, Cid, cid_of
from blockstore.errors import Missing, StoreUnavailable
from blockstore.memory import MemoryStore
from blockstore.open import open_store
from chain.ipld.objects import Objects
from devnode.replay import start_replay
from follower.commands.comparison import compare
from follower.lazy_objects import node_sources
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info
from rpc.node_errors import CallFailed, NodeUnavailable
from tests.support.recorded import recorded
from tests.support.served import served
from tests.support.whole_path import CHAINS, filled

# --- the recorded chains ---------------------------------------------------------------------------------


@pytest.mark.recorded
@pytest.mark.parametrize(("folder", "least"), list(zip(CHAINS, (31_000, 48_000), strict=True)))
async def test_every_recorded_answer_with_one_fetch_of_each_object(folder: str, least: int, tmp_path: Path) -> None:
    node = await start_replay(recorded(f"{folder}/chain.car.zst").parent, at_end=True)
    store = await open_store(f"lmdb://{tmp_path}/store")
    await filled(store, node, folder, state="lazy")
    asked: Counter[Cid] = Counter()

    class Counting(NodeClient):
        async def read_objects(self, cids: Sequence[Cid], *, timeout: float | None = None) -> list[bytes | CallFailed]:
            asked.update(cids)
            return await super().read_objects(cids, timeout=timeout)

    before = node.faults.reads
    async with (
        Counting(parse_node_info(node.base)[0]) as client,
        served(store, node_sources([client], 256).read) as server,
    ):
        report = await compare(
            f"http://127.0.0.1:{server.port}",
            [recorded(f"{folder}/rpc.jsonl.zst")],
            r"Filecoin\.(State|Chain|Msig|Paych|Wallet)",
            # events have rows only where the actors that emitted them are held when the tipset comes
            exclude="ChainValidateIndex",
            paths=["/rpc/v0", "/rpc/v1", "/rpc/v2"],
        )
    assert not report.differences, report.differences[:5]
    assert report.equal == report.total > least
    # nothing of the state was there before
    assert len(asked) > 1000
    present = [cid for cid in asked if node.store.held(cid) is not None]
    twice = [cid for cid in present if asked[cid] > 1]
    assert not twice, f"{len(twice)} of {len(present)} objects were asked for again, as {twice[0]}"
    # what the node has served is what the follower counted
    assert node.faults.reads - before == asked.total()
    await node.stop()
    await store.close()


# --- nodes made here -------------------------------------------------------------------------------------


class Node(NodeClient):
    """A node that holds some objects, lies about some, and notes what it is asked; `down`: it cannot be reached."""

    def __init__(self, held: Sequence[bytes], *, lies: Sequence[bytes] = (), limit: int = 1000) -> None:
        super().__init__(parse_node_info("http://127.0.0.1:1")[0])
        self.data = {cid_of(one).multihash: one for one in held}
        self.data |= {cid_of(one).multihash: one + b"!" for one in lies}
        self.requests: list[list[Cid]] = []
        self.down = False
        self.limit = limit
        self.gate = asyncio.Event()
        self.gate.set()

    async def read_objects(self, cids: Sequence[Cid], *, timeout: float | None = None) -> list[bytes | CallFailed]:
        self.requests.append(list(cids))
        await self.gate.wait()
        if self.down:
            raise NodeUnavailable("127.0.0.1:1: refused")
        if len(cids) > self.limit:
            raise CallFailed(-32600, "batch too large")
        absent = CallFailed(1, "blockstore get: ipld: could not find it")
        return [self.data.get(cid.multihash, absent) for cid in cids]


def made(*nodes: Node, batch: int = 256) -> tuple[MemoryStore, Objects]:
    store = MemoryStore()
    return store, Objects(store, fetch=node_sources(nodes, batch).read)


BLOBS = [b"object %d" % number for number in range(10)]
CIDS = [cid_of(blob) for blob in BLOBS]


async def test_a_fetched_object_is_stored_and_not_asked_again() -> None:
    node = Node(BLOBS)
    store, objects = made(node)
    assert await objects.get_many(CIDS) == BLOBS
    assert await objects.get(CIDS[3]) == BLOBS[3]
    assert await store.get(CIDS[3].multihash) == BLOBS[3]
    assert await Objects(store).get_many(CIDS) == BLOBS
    assert node.requests == [CIDS]
    assert objects.fetched == len(CIDS)


async def test_who_waits_for_the_same_object_shares_one_fetch() -> None:
    node = Node(BLOBS)
    node.gate.clear()
    _, objects = made(node)
    other_codec = cid_of(BLOBS[0], RAW if CIDS[0].codec == DAG_CBOR else DAG_CBOR)
    waiting = [asyncio.create_task(objects.get(cid)) for cid in (CIDS[0], CIDS[0], other_codec, CIDS[1])]
    while not node.requests:
        await asyncio.sleep(0)
    # the first to ask goes away: the others still get it
    waiting[0].cancel()
    late = asyncio.create_task(objects.get_many([CIDS[1], CIDS[0]]))
    await asyncio.sleep(0)
    node.gate.set()
    assert await asyncio.gather(*waiting[1:], late) == [BLOBS[0], BLOBS[0], BLOBS[1], [BLOBS[1], BLOBS[0]]]
    assert waiting[0].cancelled()
    # what was missed at one moment went into one request
    assert node.requests == [[CIDS[0], CIDS[1]]]


async def test_the_next_node_is_asked_for_what_one_lacks_or_lies_about() -> None:
    first = Node(BLOBS[:4], lies=BLOBS[4:6])
    second = Node(BLOBS[4:])
    store, objects = made(first, second)
    assert await objects.get_many(CIDS) == BLOBS
    assert second.requests == [CIDS[4:]]
    assert await store.get_many([cid.multihash for cid in CIDS]) == BLOBS


async def test_a_lie_alone_is_an_error_and_is_not_stored() -> None:
    store, objects = made(Node(BLOBS[1:], lies=BLOBS[:1]), Node([]))
    good, bad = await asyncio.gather(objects.get(CIDS[1]), objects.get(CIDS[0]), return_exceptions=True)
    assert good == BLOBS[1]
    assert isinstance(bad, StoreUnavailable)
    assert await store.get(CIDS[0].multihash) is None


async def test_missing_is_said_only_when_every_node_could_be_asked() -> None:
    first, second = Node([]), Node([])
    _, objects = made(first, second)
    with pytest.raises(Missing):
        await objects.get(CIDS[0])
    for one, other in ((first, second), (second, first)):
        one.down, other.down = True, False
        with pytest.raises(StoreUnavailable):
            await objects.get(CIDS[0])
    # absence was not remembered
    first.down = False
    first.data[CIDS[0].multihash] = BLOBS[0]
    assert await objects.get(CIDS[0]) == BLOBS[0]


async def test_requests_hold_no_more_than_a_batch_or_than_the_node_takes() -> None:
    node = Node(BLOBS)
    _, objects = made(node, batch=4)
    assert await objects.get_many(CIDS) == BLOBS
    assert [len(cids) for cids in node.requests] == [4, 4, 2]
    small = Node(BLOBS, limit=1)
    _, objects = made(small)
    assert await objects.get_many(CIDS) == BLOBS
    assert sum(len(cids) == 1 for cids in small.requests) == len(CIDS)
