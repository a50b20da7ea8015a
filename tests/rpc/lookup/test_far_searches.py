"""Searches over a store that is 60 ms away: what they find, how long they take, and what they cost.

`-s` prints the figures that docs/performance.md shows.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import pytest

from blockstore.store import TIPSETS, Batch
from chain.index.chain_index import (
    HELD_MESSAGES,
    HELD_RECEIPTS,
    HELD_STATE,
    ChainIndex,
    decode_row,
    rows_down,
)
from chain.index.oldest import oldest_held
from chain.ipld.objects import Objects
from chain.tipset import Tipset, TipsetKey
from rpc.context import Context
from rpc.lookup.message_search import NO_LIMIT, Found, search
from rpc.services import Services
from tests.blockstore.lookup.far_store import FarStore, far_copy
from tests.blockstore.lookup.near_store import one_at_a_time
from tests.rpc.methods.test_search import Sending, message, sending
from tests.support.made_chain import MadeChain
from tests.support.virtual_time import run_virtual

T = TypeVar("T")


def far(chain: MadeChain, *, is_uneven: bool = False) -> tuple[Services, FarStore]:
    """The services of a chain over a far store, with nothing cached."""
    near = chain.services()
    store = far_copy(chain.store, is_uneven=is_uneven)
    objects = Objects(store)
    return replace(near, store=store, objects=objects, index=ChainIndex(store, objects, near.network)), store


async def timed(work: Awaitable[T]) -> tuple[T, float]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    found = await work
    assert asyncio.all_tasks() == {asyncio.current_task()}, "a search has left a task behind"
    return found, loop.time() - began


@pytest.fixture(scope="module")
def sent() -> Sending:
    """1,200 tipsets of which no message has an index row."""
    return run_virtual(sending(random.Random(4), 1200, indexed=False))[0]


@pytest.mark.parametrize("is_uneven", [False, True])
def test_a_message_beyond_the_index(sent: Sending, is_uneven: bool) -> None:
    where = [message(nonce) for nonce in range(40, 500, 40)]

    async def seconds(serial: bool) -> tuple[list[int], float, float, int]:
        heights: list[int] = []
        took = trips = most = 0.0
        for one in where:
            services, store = far(sent.chain, is_uneven=is_uneven)
            if serial:
                one_at_a_time(services.lookup)
            ctx = Context(services)
            head = (await ctx.head()).tipset
            (_, found), passed = await timed(search(ctx, head, one.cid, NO_LIMIT, True))
            assert isinstance(found, Found)
            assert found.cid == one.cid
            heights.append(found.tipset.height)
            took, trips, most = took + passed, trips + store.round_trips, max(most, store.most_in_flight)
        return heights, took / len(where), trips / len(where), int(most)

    before = run_virtual(seconds(True))
    after = run_virtual(seconds(False))
    assert after[0] == before[0]
    assert after[1] * 2 <= before[1]
    assert before[3] == 1
    # a probe has one read in flight
    assert after[3] <= 16
    uneven = ", one read in twenty ten times slower" if is_uneven else ""
    print(f"nonce{uneven}: {before[1]:.2f} s, {before[2]:.0f} reads -> {after[1]:.2f} s, {after[2]:.0f} reads")


def test_a_search_ends_when_its_client_has_gone(sent: Sending) -> None:
    async def run(after: float) -> None:
        services, store = far(sent.chain)
        ctx = Context(services)
        head = (await ctx.head()).tipset
        task = asyncio.create_task(search(ctx, head, message(200).cid, NO_LIMIT, True))
        await asyncio.sleep(after)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert store.in_flight == 0

    for tenths in range(1, 16, 2):
        run_virtual(run(tenths / 10))


async def without(chain: MadeChain, tipsets: list[Tipset], flag: int) -> None:
    batch = Batch()
    for tipset in tipsets:
        row = chain.rows[tipset.key]
        row = chain.rows[tipset.key] = replace(row, held=row.held & ~flag)
        batch.put(TIPSETS, tipset.key.cid, b"", row.encode())
    await chain.store.write(batch)


def test_the_oldest_epoch_that_is_held() -> None:
    async def made() -> tuple[MadeChain, list[Tipset]]:
        chain, tipsets, rng = MadeChain(), [], random.Random(9)
        height = 0
        for _ in range(2000):
            tipsets.append(await chain.add(tipsets[-1] if tipsets else None, height))
            height += rng.choice([1, 1, 1, 2, 4])
        chain.log.publish([], tipsets)
        await without(chain, tipsets[:700], HELD_STATE)
        await without(chain, tipsets[:1501], HELD_RECEIPTS)
        return chain, tipsets

    chain, tipsets = run_virtual(made())

    async def ask(flag: int, serial: bool) -> tuple[int | None, float, int]:
        services, store = far(chain)
        if serial:
            one_at_a_time(services.lookup)
        head = (await services.head_source.current()).tipset
        found, took = await timed(oldest_held(services.index, services.lookup, head, flag))
        return found, took, store.round_trips

    for flag, expected in ((HELD_STATE, tipsets[700]), (HELD_RECEIPTS, tipsets[1501]), (HELD_MESSAGES, tipsets[0])):
        serial = run_virtual(ask(flag, True))
        ahead = run_virtual(ask(flag, False))
        assert serial[0] == ahead[0] == expected.height
        print(f"oldest {flag}: {serial[1]:.2f} s, {serial[2]} reads -> {ahead[1]:.2f} s, {ahead[2]} reads")
        assert ahead[1] < serial[1]
    run_virtual(without(chain, tipsets, HELD_STATE))
    assert run_virtual(ask(HELD_STATE, False))[0] is None


def test_rows_of_a_chain_are_read_in_batches() -> None:
    async def made() -> tuple[MadeChain, list[Tipset]]:
        chain, tipsets, rng = MadeChain(), [], random.Random(3)
        height = 2000
        for number in range(1500):
            tipsets.append(await chain.add(tipsets[-1] if tipsets else None, height))
            if number % 7 == 0:
                await chain.add(tipsets[-1], height + 1, salt=9)  # a fork
            height += rng.choice([1, 1, 1, 2, 4])
        return chain, tipsets

    chain, tipsets = run_virtual(made())

    async def read(rows: Callable[[FarStore, TipsetKey], Awaitable[list[TipsetKey]]]) -> tuple[list[TipsetKey], int]:
        store = far_copy(chain.store)
        return await rows(store, tipsets[-1].key), store.round_trips

    async def in_batches(store: FarStore, key: TipsetKey) -> list[TipsetKey]:
        return [row.key async for row in rows_down(store, key)]

    async def one_by_one(store: FarStore, key: TipsetKey) -> list[TipsetKey]:
        found: list[TipsetKey] = []
        while (value := await store.row(TIPSETS, key.cid, b"")) is not None:
            row = decode_row(value)
            found.append(row.key)
            key = row.parent
        return found

    keys, few = run_virtual(read(in_batches))
    expected, many = run_virtual(read(one_by_one))
    assert keys == expected == [tipset.key for tipset in reversed(tipsets)]
    print(f"rows of {len(keys)} tipsets: {many} reads -> {few}")
    assert few * 50 <= many
