"""Slots: shares, lending, what is never lent, and who comes first when one becomes free."""

from __future__ import annotations

import asyncio
import random

import pytest

from leader_bridge.pool.job import FILL, INDEX, SHARES, WALK, WATCH, slots_of
from leader_bridge.pool.slots import Slots


class Users:
    """Asks for slots, and counts those that it holds."""

    def __init__(self, shares: dict[str, int]) -> None:
        self.slots = Slots(shares)
        self.held = dict.fromkeys(shares, 0)
        self.waiting: list[tuple[str, asyncio.Task[None]]] = []

    async def ask(self, queue: str, count: int) -> None:
        for _ in range(count):
            self.waiting.append((queue, asyncio.create_task(self.slots.take(queue))))
        await self.settle()

    async def give_back(self, queue: str) -> None:
        self.held[queue] -= 1
        self.slots.give_back(queue)
        await self.settle()

    async def settle(self) -> None:
        """Count what was granted."""
        for _ in range(3):
            await asyncio.sleep(0)
        for queue, task in list(self.waiting):
            if task.done():
                self.waiting.remove((queue, task))
                self.held[queue] += 1

    def cancel(self) -> None:
        for _, task in self.waiting:
            task.cancel()


def ten() -> Users:
    return Users(slots_of(tuple(SHARES), 10))


async def test_a_class_that_is_alone_borrows_all_but_what_the_others_keep() -> None:
    users = ten()
    await users.ask(WALK, 20)
    assert users.held[WALK] == 10 - 2 - 1 - 1
    # what is kept is there at once, and no more
    await users.ask(WATCH, 5)
    await users.ask(FILL, 5)
    await users.ask(INDEX, 5)
    assert users.held == {WATCH: 2, FILL: 1, INDEX: 1, WALK: 6}
    users.cancel()


async def test_a_lent_slot_goes_back_to_the_class_that_has_the_smallest_part_of_its_own() -> None:
    users = ten()
    await users.ask(WALK, 20)
    await users.ask(WATCH, 5)
    await users.ask(FILL, 5)
    seen = []
    for _ in range(4):
        before = dict(users.held)
        await users.give_back(WALK)
        seen += [queue for queue in users.held if users.held[queue] > before[queue]]
    # one of ten stays free: `index` keeps it
    assert seen == [FILL, WATCH, WATCH, FILL]
    assert users.held == {WATCH: 4, FILL: 3, INDEX: 0, WALK: 2}
    await users.give_back(WALK)
    assert users.held == {WATCH: 5, FILL: 3, INDEX: 0, WALK: 1}
    users.cancel()


@pytest.mark.long
async def test_where_all_have_much_to_do_each_has_its_share() -> None:
    users = ten()
    for queue in users.held:
        await users.ask(queue, 1000)
    chance = random.Random(1)
    for _ in range(500):
        await users.give_back(chance.choice([queue for queue, held in users.held.items() if held]))
    assert users.held == {WATCH: 5, FILL: 3, INDEX: 1, WALK: 1}
    users.cancel()


async def test_who_stops_waiting_takes_nothing_with_it() -> None:
    users = ten()
    await users.ask(WALK, 8)
    users.cancel()
    await asyncio.gather(*(task for _, task in users.waiting), return_exceptions=True)
    users.waiting.clear()
    # one that is granted and cancelled in the same turn gives its slot back
    task = asyncio.create_task(users.slots.take(WALK))
    await users.settle()
    assert not task.done()
    users.slots.give_back(WALK)
    users.held[WALK] -= 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await users.ask(WALK, 8)
    assert users.held[WALK] == 6
    users.cancel()


async def test_one_class_has_all_slots() -> None:
    users = Users(slots_of((FILL,), 8))
    await users.ask(FILL, 20)
    assert users.held == {FILL: 8}
    users.cancel()
