"""Installed filters: on any follower, each event told once, through reorgs, restarts and polls at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.memory import MemoryStore
from blockstore.store import FILTERS, Store
from chain.eth.types import masked_id
from chain.ipld.dag_cbor import encode
from rpc.lookup.filters.filter_shares import FilterLimits
from rpc.lookup.filters.installed_filters import Filters
from tests.support.event_chain import (
    ADDRESSES,
    NATIVE,
    POOL,
    TOKEN,
    Client,
    EventChain,
    follower_over,
    seen,
    store_of,
    topic,
)

UNKNOWN = "0x" + "12" * 16 + "00" * 16


@pytest.fixture(params=["memory", "lmdb", "cassandra"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with store_of(request.param, tmp_path) as made:
        yield made


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Store]:
    """One kind of store, where what is tested lies above it."""
    async with store_of("memory", tmp_path) as made:
        yield made


async def begun(store: Store) -> EventChain:
    """A chain of three tipsets; `latest` is the second, with one log."""
    chain = EventChain(store)
    await chain.grow()
    await chain.grow((TOKEN, 1, b"first"))
    await chain.grow((TOKEN, 2, b"second"), (POOL, 2, b"third"))
    return chain


async def two(store: Store) -> Client:
    return Client(await follower_over(store), await follower_over(store))


def data(value: bytes) -> str:
    return "0x" + value.hex()


async def test_two_followers_polled_in_turn_tell_each_log_once(store: Store) -> None:
    chain = await begun(store)
    client = await two(store)
    made = await client.ask("eth_newFilter", {})
    assert made[34:] == "0" * 32 and len(made) == 66
    _, first, second = chain.canonical()
    # as at the node: a filter without a range begins with what `latest` holds
    assert seen(await client.ask("eth_getFilterChanges", made)) == chain.shown(first)
    assert await client.ask("eth_getFilterChanges", made) == []
    await chain.grow()
    assert seen(await client.ask("eth_getFilterChanges", made)) == chain.shown(second)
    assert await client.ask("eth_getFilterChanges", made) == []
    await chain.grow((NATIVE, 5, None), nulls=2)
    fourth = await chain.grow((POOL, 9, b"x"))
    # a follower that was started again meanwhile knows as much
    client.followers[0] = await follower_over(store)
    assert [log["topics"] for log in await client.ask("eth_getFilterChanges", made)] == [[data(topic(5))]]
    assert await client.ask("eth_getFilterChanges", made) == []
    await chain.grow()
    assert seen(await client.ask("Filecoin.EthGetFilterLogs", made)) == chain.shown(fourth)
    assert await client.ask("eth_uninstallFilter", made) is True
    assert await client.ask("eth_uninstallFilter", made) is False
    assert (await client.error("eth_getFilterChanges", made)) == {"code": 1, "message": "filter not found"}
    assert await store.scan(FILTERS, bytes((int(made[2:4], 16) % 64,))) == []


async def test_a_reorg_takes_logs_back_and_tells_the_others(store: Store) -> None:
    chain = await begun(store)
    client = await two(store)
    made = await client.ask("eth_newFilter", {"fromBlock": "0x0"})
    await client.ask("eth_getFilterChanges", made)
    _, _, second = chain.canonical()
    third = await chain.grow((TOKEN, 3, None))
    await chain.grow()
    assert seen(await client.ask("eth_getFilterChanges", made)) == [*chain.shown(second), *chain.shown(third)]
    await chain.reorg(2, [(POOL, 7, b"new")], [], [])
    fresh = chain.canonical()[3]
    # what is executed again by the new branch is taken back first and told again, as the node has it
    assert seen(await client.ask("eth_getFilterChanges", made)) == [
        *chain.shown(third, removed=True),
        *chain.shown(second, removed=True),
        *chain.shown(second),
        *chain.shown(fresh),
    ]
    assert await client.ask("eth_getFilterChanges", made) == []


async def test_a_filter_older_than_the_head_log_goes_on_by_ancestry(store: Store) -> None:
    chain = await begun(store)
    client = await two(store)
    made = await client.ask("eth_newFilter", {})
    blocks = await client.ask("eth_newBlockFilter")
    await client.ask("eth_getFilterChanges", made)
    await chain.reorg(1, [(TOKEN, 4, b"a")], [(TOKEN, 5, b"b")])
    await chain.reorg(1, [(POOL, 6, b"c")], [])
    await store.trim_head_log(1)
    _, first, *later = chain.canonical()
    # what came and went in between is left out
    assert seen(await client.ask("eth_getFilterChanges", made)) == [
        *chain.shown(first, removed=True),
        *chain.shown(first),
        *(one for tipset in later[:-1] for one in chain.shown(tipset)),
    ]
    assert await client.ask("eth_getFilterChanges", blocks) == [data(tipset.key.block_hash) for tipset in later]
    assert await client.ask("eth_getFilterChanges", made) == []
    # and by the log again from there on
    await chain.grow()
    assert seen(await client.ask("eth_getFilterChanges", made)) == chain.shown(later[-1])


async def test_of_polls_at_the_same_time_each_log_comes_from_one(store: Store) -> None:
    chain = await begun(store)
    client = await two(store)
    made = await client.ask("eth_newFilter", {"fromBlock": "0x0"})
    told: list[tuple[str, int, bool]] = []

    async def poll(times: int) -> None:
        for _ in range(times):
            answer = await client.whole("eth_getFilterChanges", made)
            told.extend(seen(answer["result"]))
            await asyncio.sleep(0)

    async def grow() -> None:
        for number in range(6):
            await chain.grow((TOKEN, number, b"x"), (POOL, number, b"y"))

    await asyncio.gather(grow(), *(poll(6) for _ in range(3)))
    told += seen(await client.ask("eth_getFilterChanges", made))
    expected = [one for tipset in chain.canonical()[:-1] for one in chain.shown(tipset)]
    assert sorted(told) == sorted(expected)


async def test_what_a_filter_asks_for(quick: Store) -> None:
    chain = await begun(quick)
    client = await two(quick)
    _, _, second = chain.canonical()
    token, pool = (data(ADDRESSES[who]) for who in (TOKEN, POOL))
    wanted: dict[str, Any] = {
        "token": {"address": token},
        "either": {"address": [pool, data(masked_id(NATIVE))]},
        "topic": {"topics": [[data(topic(2)), data(topic(8))]]},
        "both": {"address": pool, "topics": [data(topic(2))]},
        "none": {"topics": [None, data(topic(2))]},
        "late": {"fromBlock": "0x4"},
        "early": {"fromBlock": "0x0", "toBlock": "0x2"},
        "block": {"blockHash": data(second.key.block_hash)},
    }
    made = {name: await client.ask("eth_newFilter", spec) for name, spec in wanted.items()}
    await chain.grow((NATIVE, 8, b"e"), (TOKEN, None, None))
    await chain.grow((POOL, 2, b"f"), (TOKEN, None, b"no topics"))
    await chain.grow()
    told = {}
    for name, one in made.items():
        logs = await client.ask("eth_getFilterChanges", one)
        told[name] = [bytes.fromhex(log["data"][2:]).decode() for log in logs]
    assert told == {
        # an event with nothing in it is told while it is new, and never by eth_getLogs
        "token": ["first", "second", "", "no topics"],
        "either": ["third", "e", "f"],
        "topic": ["second", "third", "e", "f"],
        "both": ["third", "f"],
        "none": [],
        "late": ["f", "no topics"],
        "early": ["first", "second", "third"],
        "block": ["second", "third"],
    }


async def test_what_is_refused(quick: Store) -> None:
    await begun(quick)
    client = await two(quick)
    blocks = await client.ask("eth_newBlockFilter")
    for method, params, code, text in (
        ("eth_getFilterChanges", [UNKNOWN], 1, "filter not found"),
        ("eth_getFilterLogs", [UNKNOWN], 1, "filter not found"),
        ("eth_getFilterLogs", [blocks], 1, "wrong filter type"),
        ("eth_newFilter", [None], 1, "no filter is given"),
        ("eth_newFilter", [{"topics": [None] * 5}], 1, "too many topics in filter: 5, max: 4"),
        ("eth_newFilter", [{"fromBlock": "latest", "toBlock": "0x0"}], 1, "invalid epoch range"),
        ("eth_newFilter", [{"fromBlock": "0x1", "toBlock": "0xf00"}], -32005, "block range exceeds maximum of 2880"),
        ("eth_newFilter", [{"fromBlock": "0x0", "toBlock": "0x0", "blockHash": UNKNOWN}], 1, "must not specify block"),
        ("eth_newFilter", [{"blockHash": UNKNOWN}], 1, "failed to install event filter"),
        ("eth_newFilter", [{"address": "0x" + "cc" * 20, "toBlock": "0x99"}], 1, "range end is in the future"),
        ("eth_newPendingTransactionFilter", [], -32010, "full node"),
        ("eth_getFilterChanges", ["0x12"], -32700, "(param: *ethtypes.EthFilterID): expected hex string length"),
    ):
        error = await client.error(method, *params)
        assert error["code"] == code, method
        assert text in error["message"], method
    assert await client.ask("eth_uninstallFilter", UNKNOWN) is False


async def test_a_filter_of_blocks_tells_each_head(store: Store) -> None:
    chain = await begun(store)
    client = await two(store)
    made = await client.ask("eth_newBlockFilter")
    assert await client.ask("eth_getFilterChanges", made) == []
    heads = [await chain.grow(), await chain.grow(nulls=1)]
    assert await client.ask("eth_getFilterChanges", made) == [data(one.key.block_hash) for one in heads]
    await chain.reorg(2, [], [])
    assert await client.ask("eth_getFilterChanges", made) == [
        data(one.key.block_hash) for one in chain.canonical()[-2:]
    ]
    assert await client.ask("eth_getFilterChanges", made) == []


class Clock:
    """Milliseconds that a test sets."""

    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.ms


async def test_a_filter_that_nobody_polls_expires(store: Store) -> None:
    await begun(store)
    clock = Clock()
    limits = FilterLimits(total=1, ttl_seconds=100.0)
    client = Client(*[await follower_over(store, Filters(store, limits, clock)) for _ in range(2)])
    made = await client.ask("eth_newBlockFilter")
    for _ in range(4):
        clock.ms += 90_000
        assert await client.ask("eth_getFilterChanges", made) == []
    assert (await client.error("eth_newBlockFilter"))["message"] == "maximum number of filters registered"
    clock.ms += 101_000
    assert (await client.error("eth_getFilterChanges", made))["message"] == "filter not found"
    assert await client.ask("eth_uninstallFilter", made) is False
    # its row goes with the next one that is installed
    other = await client.ask("eth_newBlockFilter")
    rows = [row for part in range(64) for row in await store.scan(FILTERS, bytes((part,)))]
    assert [key.hex() for key, _ in rows] == [other[2:]]


async def test_a_filter_of_another_version_is_not_found(quick: Store) -> None:
    await begun(quick)
    client = Client(await follower_over(quick))
    made = await client.ask("eth_newBlockFilter")
    place = (FILTERS, bytes((int(made[2:4], 16) % 64,)), bytes.fromhex(made[2:]))
    assert await quick.swap(*place, await quick.row(*place), encode(["blocks", 1]))
    assert (await client.error("eth_getFilterChanges", made))["message"] == "filter not found"
    assert await client.ask("eth_uninstallFilter", made) is False
    assert await quick.row(*place) is not None, "those that know it may still be there"


async def test_polls_that_find_nothing_do_not_write(quick: Store) -> None:
    await begun(quick)
    clock = Clock()
    filters = Filters(quick, FilterLimits(ttl_seconds=800.0), clock)
    client = Client(await follower_over(quick, filters))
    made = await client.ask("eth_newBlockFilter")
    place = (FILTERS, bytes((int(made[2:4], 16) % 64,)), bytes.fromhex(made[2:]))
    before = await quick.row(*place)
    clock.ms += 99_000
    await client.ask("eth_getFilterChanges", made)
    assert await quick.row(*place) == before
    clock.ms += 2_000
    await client.ask("eth_getFilterChanges", made)
    assert await quick.row(*place) != before


@pytest.mark.parametrize("total", [1, 7, 40, 300])
async def test_filters_are_bounded_in_number(quick: Store, total: int) -> None:
    await begun(quick)
    client = Client(await follower_over(quick, Filters(quick, FilterLimits(total=total))))
    made = 0
    for _ in range(2 * total):
        made += "result" in await client.whole("eth_newBlockFilter")
    rows = [row for part in range(64) for row in await quick.scan(FILTERS, bytes((part,)))]
    assert len(rows) == made <= total
    # a few partitions are looked into, so not every last place is found
    assert made >= total * 3 // 4


async def test_a_filter_has_a_largest_size(quick: Store) -> None:
    await begun(quick)
    client = Client(await follower_over(quick))
    values = [data(number.to_bytes(32, "big")) for number in range(1000)]
    error = await client.error("eth_newFilter", {"topics": [values] * 4})
    assert error["code"] == -32005
    assert "the filter is too large" in error["message"]


async def test_a_poll_tells_a_page_and_the_next_goes_on(store: Store) -> None:
    chain = await begun(store)
    filters = [Filters(store, FilterLimits(results=3)) for _ in range(2)]
    client = Client(*[await follower_over(store, some) for some in filters])
    made = await client.ask("eth_newFilter", {"fromBlock": "0x0"})
    blocks = await client.ask("eth_newBlockFilter")
    batch = [await chain.tipset(chain.head, [(TOKEN, 1, b"x")])]
    for count in (2, 0, 5, 1, 1):
        batch.append(await chain.tipset(batch[-1], [(TOKEN, 1, b"x")] * count))
    # one head change of many tipsets: a page may end within it
    await chain.publish([], batch)
    pages = []
    while page := await client.ask("eth_getFilterChanges", made):
        pages.append(seen(page))
    assert [one for page in pages for one in page] == [
        one for tipset in chain.canonical()[:-1] for one in chain.shown(tipset)
    ]
    # no page is larger than three, but for the tipset that has five
    assert [len(page) for page in pages] == [3, 3, 5, 1]
    told = []
    while page := await client.ask("eth_getFilterChanges", blocks):
        assert len(page) <= 3
        told += page
    assert told == [data(tipset.key.block_hash) for tipset in batch]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), st.integers(0, 2), st.integers(0, 2)),
        st.tuples(st.just("reorg"), st.integers(1, 3), st.integers(1, 3)),
        st.tuples(st.just("poll"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("trim"), st.integers(1, 2), st.just(0)),
        st.tuples(st.just("restart"), st.integers(0, 1), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=60)
@given(steps=STEPS, results=st.sampled_from([1, 4, 10_000]))
async def test_what_was_told_is_always_what_the_chain_holds(steps: list[tuple[str, int, int]], results: int) -> None:
    """Logs told less logs taken back are those of the head's chain, after whatever came, and none comes twice."""
    store = MemoryStore()
    chain = await begun(store)
    limits = FilterLimits(results=results)
    client = Client(*[await follower_over(store, Filters(store, limits)) for _ in range(2)])
    made = await client.ask("eth_newFilter", {"fromBlock": "0x0"})
    told: set[tuple[str, int]] = set()

    async def poll() -> int:
        page = seen(await client.ask("eth_getFilterChanges", made))
        for block, index, removed in page:
            assert ((block, index) in told) is removed
            (told.remove if removed else told.add)((block, index))
        return len(page)

    for step, first, second in steps:
        if step == "grow":
            await chain.grow(*[(TOKEN, number, b"x") for number in range(first)], nulls=second)
        elif step == "reorg":
            depth = min(first, len(chain.canonical()) - 1)
            await chain.reorg(depth, *[[(POOL, number, b"y")] * (number % 2) for number in range(depth + second)])
        elif step == "poll":
            await poll()
        elif step == "trim":
            await store.trim_head_log(first)
        else:
            client.followers[first] = await follower_over(store, Filters(store, limits))
    while await poll():
        pass
    expected = [one for tipset in chain.canonical()[:-1] for one in chain.shown(tipset)]
    assert told == {(block, index) for block, index, _ in expected}
