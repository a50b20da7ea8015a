"""The recorded chain, followed: with the connection cut, and with the bridge killed, on the way."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from blockstore.memory import MemoryStore
from blockstore.open import open_store
from blockstore.store import MESSAGES, POST
from chain.ipld.dag_cbor import decode
from chain.network import load_network, read_network_file
from chain.tipset import TipsetKey
from tests.support.bridge.chain import genesis_of, read_car, read_changes
from tests.support.bridge.node import TestNode, until
from tests.support.bridge.running import Walker, entries_of, following, quick, replay_log
from tests.support.recorded import recorded

pytestmark = pytest.mark.recorded

Changes = list[tuple[list[TipsetKey], list[TipsetKey]]]
_loaded: dict[Path, tuple[dict[bytes, bytes], Changes]] = {}


@pytest.fixture
async def recording() -> AsyncIterator[tuple[TestNode, Changes]]:
    """A node that stands at the first recorded head, and the 1,100 head changes after it."""
    path = recorded("devnet/chain.car.zst")
    if path not in _loaded:
        _loaded[path] = read_car(path), read_changes(recorded("devnet/chain_notify.jsonl.zst"))
    objects, changes = _loaded[path]
    start = changes[0][1][0]
    node = await TestNode(objects, genesis_of(objects, start), start).start()
    yield node, changes
    await node.stop()


def final_chain(changes: Changes) -> list[TipsetKey]:
    chain: list[TipsetKey] = []
    for reverts, applies in changes:
        for key in reverts:
            assert chain.pop() == key
        chain.extend(applies)
    return chain


async def test_every_recorded_change_becomes_one_entry(recording: tuple[TestNode, Changes]) -> None:
    node, changes = recording
    store = MemoryStore()
    async with following(store, [node.url]) as bridge:
        await until(lambda: bridge.head is not None)
        for number, (reverts, applies) in enumerate(changes[1:]):
            await node.change(reverts, applies)
            if number % 300 == 0:  # a subscriber that lags by more loses its channel, as at any node
                await until(lambda: bridge.head is not None and bridge.head.head.key == node.head, 120)
        await until(lambda: bridge.head is not None and bridge.head.head.key == node.head, 120)
    assert node.asked["ChainNotify"] == 1
    entries = await entries_of(store)
    assert [([r.key for r in e.reverts], [a.key for a in e.applies]) for e in entries] == changes
    assert sum(len(entry.applies) for entry in entries) == 1101
    assert sum(len(entry.reverts) for entry in entries) == 123
    assert [ref.key for ref in await replay_log(store)] == final_chain(changes)
    assert await Walker().published(store) == len({key for _, applies in changes for key in applies})
    assert len(node.read) == len(set(node.read)), "no object is asked for twice"


async def test_index_rows_of_the_recorded_chain(recording: tuple[TestNode, Changes]) -> None:
    node, changes = recording
    store = MemoryStore()
    async with following(store, [node.url]) as bridge:
        await until(lambda: bridge.head is not None)
        await node.go_to(changes[300][1][-1])
        await until(lambda: bridge.head is not None and bridge.head.head.key == node.head, 120)
    chain = await replay_log(store)
    included = 0
    for below, ref in itertools.pairwise(chain):
        tipset = node.tipset(TipsetKey(ref.key))
        post = await store.row(POST, TipsetKey(below.key).cid, b"")
        assert post is not None
        assert decode(post) == [tipset.parent_state_root, tipset.parent_message_receipts]
        for block in tipset.blocks:
            for amt in decode(node.objects[block.messages.multihash]):
                root = decode(node.objects[amt[2:]])
                if root[0] == 0:  # one node: its values are the message CIDs
                    for cid in root[2][2]:
                        key = ref.height.to_bytes(8, "big") + TipsetKey(ref.key).cid
                        assert await store.row(MESSAGES, bytes(cid), key) is not None
                        included += 1
    assert included > 50


async def test_twenty_cuts_lose_and_double_nothing(recording: tuple[TestNode, Changes]) -> None:
    node, changes = recording
    rng = random.Random(20)
    cuts = set(rng.sample(range(1, len(changes)), 20))
    store = MemoryStore()
    async with following(store, [node.url]) as bridge:
        await until(lambda: bridge.head is not None)
        for number, (reverts, applies) in enumerate(changes[1:], 1):
            await node.change(reverts, applies)
            if number in cuts:
                if rng.random() < 0.5:
                    await until(lambda: bridge.head is not None and bridge.head.head.key == node.head)
                seen = bridge.reconnects
                await (node.cut if rng.random() < 0.7 else node.close_channels)()
                if rng.random() < 0.7:
                    await until(lambda: bridge.reconnects > seen)  # noqa: B023 - awaited here
            elif number % 8 == 0:
                await asyncio.sleep(0)
        await until(lambda: bridge.head is not None and bridge.head.head.key == node.head, 120)
        assert bridge.reconnects >= 10
    assert [ref.key for ref in await replay_log(store)] == final_chain(changes)
    await Walker().published(store)


async def test_kill_9_at_twenty_moments_leaves_every_published_head_whole(
    recording: tuple[TestNode, Changes], tmp_path: Path
) -> None:
    node, changes = recording
    rng = random.Random(9)
    url = f"lmdb://{tmp_path / 'store'}"
    walker = Walker()
    at = 1
    published = lives = 0
    for kill in range(20):
        store = await open_store(url, map_size=1 << 30)
        before = await store.head()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.bridge.process", url, node.url, stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        said = asyncio.create_task(process.stderr.read())
        try:
            await until(lambda: node.subscribers or process.returncode is not None, 60)  # noqa: B023
            assert process.returncode is None, (await said).decode()
            life = asyncio.create_task(asyncio.sleep(rng.random() * 0.8))
            end = len(changes) * (kill + 1) // 20
            for number in range(at, end):
                await node.change(*changes[number])
                await asyncio.sleep(rng.random() * 0.01)
            at = end
            await life  # the kill comes while a gap is filled, in a head change, or when idle
            if kill % 3 == 0:  # where time is all that a life has, a slow machine's bridge never gets to a head
                async with asyncio.timeout(60):
                    while await store.head() == before:
                        assert process.returncode is None, (await said).decode()
                        await asyncio.sleep(0.005)
                await asyncio.sleep(rng.random() * 0.1)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await said
        lives += await store.head() != before
        await replay_log(store)
        published = await walker.published(store)
        await store.close()
    assert lives >= 7 and published > 300, (lives, published)

    store = await open_store(url, map_size=1 << 30)
    async with following(store, [node.url]) as bridge:
        await until(lambda: bridge.head is not None and bridge.head.head.key == node.head, 60)
    chain, expected = [ref.key for ref in await replay_log(store)], final_chain(changes)
    assert chain == expected[-len(chain) :]
    assert len(chain) > len(expected) * 9 // 10, "the log begins later than in the first life"
    await Walker().published(store)
    await store.close()


async def test_polling_an_endpoint_without_websocket(recording: tuple[TestNode, Changes]) -> None:
    node, changes = recording
    node.faults.has_websocket = False
    store = MemoryStore()
    async with following(store, [node.url]) as bridge:
        await until(lambda: bridge.head is not None)
        for reverts, applies in changes[1:400]:
            await node.change(reverts, applies)
            await asyncio.sleep(0)
        await until(lambda: bridge.head is not None and bridge.head.head.key == node.head, 60)
    assert [ref.key for ref in await replay_log(store)] == final_chain(changes[:400])
    await Walker().published(store)
    assert "ChainNotify" not in node.asked


async def test_lazy_state_leaves_state_to_be_fetched_on_demand(recording: tuple[TestNode, Changes]) -> None:
    from blockstore.store import Held
    from chain.index.chain_index import HELD_ALL, HELD_EVENTS, HELD_MESSAGES, HELD_RECEIPTS

    node, changes = recording
    store = MemoryStore()
    async with following(store, [node.url], quick(state="lazy")) as bridge:
        await until(lambda: bridge.head is not None)
        await node.go_to(changes[200][1][-1])
        await until(lambda: bridge.head is not None and bridge.head.head.key == node.head)
    chain = await replay_log(store)
    for ref in chain:
        tipset = node.tipset(TipsetKey(ref.key))
        # at most the way to the actors that emitted an event, which is loose
        assert await store.held_many([tipset.parent_state_root.multihash]) != [Held.CLOSED]
        for block in tipset.blocks:
            await Walker().tree(store, block.messages)
        await Walker().tree(store, tipset.parent_message_receipts)
        row = await bridge.writer.row(TipsetKey(ref.key))
        assert row is not None and row.held & HELD_ALL == HELD_MESSAGES | HELD_RECEIPTS | HELD_EVENTS


async def test_a_chain_with_twelve_upgrades_is_one_gap_and_its_schedule_is_found() -> None:
    """The node's parameters do not tell this chain's schedule; its answers for single tipsets do."""
    objects = read_car(recorded("upgrades/chain.car.zst"))
    changes = read_changes(recorded("upgrades/chain_notify.jsonl.zst"))
    start = changes[0][1][0]
    truth = read_network_file(recorded("upgrades/network.json"), genesis_of(objects, start).cids[0])
    node = TestNode(objects, genesis_of(objects, start), changes[-1][1][-1], schedule=truth.version_at)
    await node.start()
    try:
        store = MemoryStore()
        async with following(store, [node.url]) as bridge:
            await until(lambda: bridge.head is not None)
            record = await load_network(store)
        assert record is not None
        chain = final_chain(changes)
        for key in chain:
            height = node.tipset(key).height
            assert record.version_at(height) == truth.version_at(height)
        await Walker().published(store)

        node.head = start
        store = MemoryStore()
        async with following(store, [node.url]) as bridge:
            await until(lambda: bridge.head is not None)
            await node.go_to(chain[-1])
            await until(lambda: bridge.head is not None and bridge.head.head.key == chain[-1], 120)
        entries = await entries_of(store)
        assert [len(entry.applies) for entry in entries] == [1, len(chain) - 1]
        assert [ref.key for ref in await replay_log(store)] == chain
        await Walker().published(store)
    finally:
        await node.stop()
