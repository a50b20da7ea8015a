"""Finding gaps: epochs 0 to 10, all tasks, judged case by case."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from blockstore.memory import MemoryStore
from chain.errors import NotHeld
from chain.tipset import Tipset
from leader_bridge.pool.gaps import HeadBelowRange, find_gaps
from leader_bridge.pool.reports import NULL_ROUND, Report, Status, digest_of, save_reports, withdraw
from tests.pool.chain import PoolChain, pool_chain
from tests.support.event_chain import TOKEN

TASKS = tuple(f"task{number}" for number in range(10))
TOP = 10
OK, INFO, SKIP, ERROR = Status.OK, Status.INFO, Status.SKIP, Status.ERROR
#: (epoch, task or all) -> how each report of it ended, in their order; what is not named has one OK
Story = dict[tuple[int, str], Sequence[Status]]
ALL = "*"


async def told(chain: PoolChain, story: Story, nulls: Sequence[int] = ()) -> None:
    for tipset in chain.canonical():
        for task in TASKS:
            statuses = story.get((tipset.height, task), story.get((tipset.height, ALL), (OK,)))
            for number, status in enumerate(statuses):
                await save_reports(
                    chain.store, [Report(tipset.height, digest_of(tipset.key), task, status, f"worker {number}")]
                )
    for height in nulls:
        await save_reports(chain.store, [Report(height, NULL_ROUND, TASKS[0], INFO)])


CASES: list[tuple[str, Story, dict[int, Sequence[str]]]] = [
    ("nothing missing", {}, {}),
    ("all missing at 1", {(1, ALL): ()}, {1: TASKS}),
    ("all missing at 1, 4 and 5", {(1, ALL): (), (4, ALL): (), (5, ALL): ()}, {1: TASKS, 4: TASKS, 5: TASKS}),
    ("two tasks at 2", {(2, "task3"): (), (2, "task7"): ()}, {2: ("task3", "task7")}),
    (
        "two tasks at 2, three others at 10",
        {(2, "task3"): (), (2, "task7"): (), (10, "task0"): (), (10, "task1"): (), (10, "task9"): ()},
        {2: ("task3", "task7"), 10: ("task0", "task1", "task9")},
    ),
    ("all SKIP at 1, one task SKIP at 5", {(1, ALL): (SKIP,), (5, "task4"): (SKIP,)}, {1: TASKS, 5: ("task4",)}),
    (
        "2 missing, one ERROR at 8, all ERROR at 9",
        {(2, ALL): (), (8, "task6"): (ERROR,), (9, ALL): (ERROR,)},
        {2: TASKS, 8: ("task6",), 9: TASKS},
    ),
    ("double reports do not double a gap", {(5, "task1"): (ERROR, ERROR), (6, "task1"): (SKIP, SKIP)},
     {5: ("task1",), 6: ("task1",)}),
    ("all ERROR at 2", {(2, ALL): (ERROR,)}, {2: TASKS}),
    ("ERROR, then OK", {(2, ALL): (ERROR, OK)}, {}),
    ("OK, then ERROR", {(2, ALL): (OK, ERROR)}, {}),
    ("SKIP, then OK", {(2, ALL): (SKIP, OK)}, {}),
    ("OK, then SKIP", {(2, ALL): (OK, SKIP)}, {}),
    ("SKIP, ERROR and OK, doubled OKs at 2 and 8", {(2, ALL): (SKIP, ERROR, OK, OK), (8, ALL): (OK, OK)}, {}),
    ("SKIP and ERROR only", {(2, ALL): (SKIP, ERROR), (8, "task5"): (ERROR, SKIP)}, {2: TASKS, 8: ("task5",)}),
    ("INFO is a success", {(3, ALL): (INFO,)}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("story", "gaps"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
async def test_gaps(story: Story, gaps: dict[int, Sequence[str]]) -> None:
    chain = await pool_chain(MemoryStore(), TOP)
    await told(chain, story)
    assert await find_gaps(chain.store, 0, TOP, TASKS) == [(height, tuple(names)) for height, names in gaps.items()]


@pytest.mark.parametrize("marked", [[], [4, 5]], ids=["nobody looked", "marked INFO"])
async def test_a_null_round_is_no_gap(marked: list[int]) -> None:
    chain = await pool_chain(MemoryStore(), TOP, nulls={4, 5})
    await told(chain, {(6, "task2"): ()}, nulls=marked)
    assert await find_gaps(chain.store, 0, TOP, TASKS) == [(6, ("task2",))]


async def test_a_null_round_with_a_tipset_of_a_fork_is_no_gap_once_it_is_marked() -> None:
    chain = await pool_chain(MemoryStore(), TOP, nulls={4})
    orphan = await chain.tipset(chain.canonical()[3], [(TOKEN, 1, b"")])
    assert orphan.height == 4
    await told(chain, {})
    assert [height for height, _ in await find_gaps(chain.store, 0, TOP, TASKS)] == [4]
    await save_reports(chain.store, [Report(4, NULL_ROUND, task, INFO) for task in TASKS])
    assert await find_gaps(chain.store, 0, TOP, TASKS) == []


async def test_only_the_tipset_on_the_heads_chain_counts() -> None:
    chain = await pool_chain(MemoryStore(), 6)
    await told(chain, {})
    old = chain.canonical()[-2:]
    await chain.reorg(2, [(TOKEN, 7, b"new")], [(TOKEN, 8, b"new")])
    assert await find_gaps(chain.store, 0, 6, TASKS) == [(5, TASKS), (6, TASKS)]
    await told(chain, {})
    assert await find_gaps(chain.store, 0, 6, TASKS) == []
    assert [await withdraw(chain.store, one.height, digest_of(one.key)) for one in old] == [len(TASKS)] * 2
    assert await find_gaps(chain.store, 0, 6, TASKS) == []


async def test_a_mark_of_a_null_round_does_not_hide_a_tipset() -> None:
    """A reorganisation may put a tipset where there was none."""
    chain = await pool_chain(MemoryStore(), TOP)
    await told(chain, {(4, ALL): ()}, nulls=[4])
    assert await find_gaps(chain.store, 0, TOP, TASKS) == [(4, TASKS)]


async def test_a_head_below_the_range_is_refused() -> None:
    chain = await pool_chain(MemoryStore(), 5)
    with pytest.raises(HeadBelowRange, match="epoch 5, below the end of the range, 6"):
        await find_gaps(chain.store, 0, 6, TASKS)
    with pytest.raises(NotHeld):
        await find_gaps(MemoryStore(), 0, 6, TASKS)


async def test_what_failed_lately_can_be_left_out() -> None:
    chain = await pool_chain(MemoryStore(), 3)
    await told(chain, {(1, "task1"): (), (2, "task1"): (), (3, "task1"): ()})
    tipsets: dict[int, Tipset] = {tipset.height: tipset for tipset in chain.canonical()}
    for height, ended in ((1, 1000), (2, 3000)):
        report = Report(height, digest_of(tipsets[height].key), "task1", ERROR, ended_ms=ended)
        await save_reports(chain.store, [report])
    assert [at for at, _ in await find_gaps(chain.store, 0, 3, TASKS)] == [1, 2, 3]
    assert [at for at, _ in await find_gaps(chain.store, 0, 3, TASKS, without_failed_since=2000)] == [1, 3]


async def test_ranges_over_several_partitions() -> None:
    store = MemoryStore()
    chain = await pool_chain(store, 3)
    top = chain.head
    assert top is not None
    # epochs far apart, so that the range has several partitions
    high = await chain.tipset(top, [], nulls=6000)
    await chain.publish([], [high])
    await told(chain, {(2, "task1"): ()})
    assert await find_gaps(store, 0, high.height, TASKS) == [(2, ("task1",))]
    assert await withdraw(store, high.height, digest_of(high.key)) == len(TASKS)
    assert await find_gaps(store, 0, high.height, TASKS) == [(2, ("task1",)), (high.height, TASKS)]
