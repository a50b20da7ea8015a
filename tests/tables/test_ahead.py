"""Rows that are made side by side: given out in order, bounded, and a failure stays with its tipset."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from blockstore.memory import MemoryStore
from chain.errors import NotHeld
from leader_bridge.tables.ahead import RowsAhead, TipsetWork
from leader_bridge.tables.source import TableSource, TipsetView
from leader_bridge.tables.table import MakeRows, Row, Task, table
from tests.pool.chain import pool_chain

MADE = table("made", "Made up.", key="height", columns="height bigint The epoch.\ntext text Some text.")


def task(rows: MakeRows) -> Task:
    return Task("made", MADE, rows)


async def works(*tasks: Task, count: int = 6) -> list[TipsetWork]:
    chain = await pool_chain(MemoryStore(), count - 1)
    source = await TableSource.open(chain.store)
    return [TipsetWork(source.view(tipset), tasks) for tipset in sorted(chain.canonical(), key=lambda one: one.height)]


async def taken(ahead: RowsAhead) -> list[tuple[int, int, list[Row]]]:
    """(epoch, number of the task, rows) in the order in which they are given out."""
    found = []
    try:
        async for work in ahead:
            for number, _ in enumerate(work.tasks):
                found += [(work.view.height, number, rows) async for rows in ahead.rows(work)]
    finally:
        await ahead.close()
    return found


async def test_later_tipsets_are_made_meanwhile_and_given_out_in_order() -> None:
    begun: list[int] = []
    all_begun = asyncio.Event()

    async def first(view: TipsetView) -> AsyncIterator[list[Row]]:
        begun.append(view.height)
        if len(begun) == 3:
            all_begun.set()
        # none goes on before three have begun
        await all_begun.wait()
        yield [(view.height, "a"), (view.height, "b")]
        yield [(view.height, "c")]

    async def second(view: TipsetView) -> AsyncIterator[list[Row]]:
        if view.height % 2:
            yield [(view.height, "d")]

    async with asyncio.timeout(60):
        found = await taken(RowsAhead(iter(await works(task(first), task(second))), tipsets=3))
    expected = []
    for height in range(6):
        expected += [(height, 0, [(height, "a"), (height, "b")]), (height, 0, [(height, "c")])]
        expected += [(height, 1, [(height, "d")])] if height % 2 else []
    assert found == expected


async def test_what_waits_is_bounded_in_tipsets_and_bytes_and_the_first_tipset_goes_on() -> None:
    made = dict.fromkeys(range(6), 0)
    full = asyncio.Event()

    async def rows(view: TipsetView) -> AsyncIterator[list[Row]]:
        if view.height == 0:
            # the others fill all the bytes first
            await full.wait()
        for _ in range(50):
            made[view.height] += 1
            if sum(made[height] for height in (1, 2)) > 12:
                full.set()
            yield [(view.height, "x" * 1000)]

    ahead = RowsAhead(iter(await works(task(rows))), tipsets=3, most_bytes=12_000)
    async with asyncio.timeout(60):
        async for work in ahead:
            await full.wait()
            # of a part that is made, its maker waits until it has room
            assert made[1] + made[2] <= 12 + 2
            assert made[3] == made[4] == made[5] == 0
            assert sum([len(part) async for part in ahead.rows(work)]) == 50
            break
    await ahead.close()


async def test_a_failure_comes_in_its_turn_and_ends_what_runs() -> None:
    cancelled: list[int] = []

    async def rows(view: TipsetView) -> AsyncIterator[list[Row]]:
        yield [(view.height, "a")]
        if view.height == 2:
            raise NotHeld("this epoch")
        if view.height == 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(view.height)
                raise

    ahead = RowsAhead(iter(await works(task(rows))), tipsets=4)
    seen: list[int] = []
    with pytest.raises(NotHeld, match="this epoch"):
        async with asyncio.timeout(60):
            async for work in ahead:
                async for part in ahead.rows(work):
                    seen += [row[0] for row in part]
    await ahead.close()
    assert seen == [0, 1, 2]
    assert cancelled == [3]
