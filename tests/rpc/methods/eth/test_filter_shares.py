"""A few addresses cannot use up a fleet's filters: shares of clients and networks, and who gives way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.memory import MemoryStore
from blockstore.store import FILTERS
from chain.tipset import EMPTY_KEY
from rpc.errors import LimitExceeded, MethodError
from rpc.lookup.filters.filter_shares import NOBODY, FilterLimits, HeldFilter, Owner, make_room, owner_of
from rpc.lookup.filters.installed_filters import BLOCKS, FilterNotFound, Filters, FilterState
from rpc.lookup.head_changes import Cursor

HOUR = 3_600_000
STATE = FilterState(BLOCKS, Cursor(1, 0, 0, EMPTY_KEY), 0)


class Clock:
    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.ms


async def count_of(store: MemoryStore) -> int:
    return sum([len(await store.scan(FILTERS, bytes((part,)))) for part in range(64)])


async def lives(filters: Filters, filter_id: bytes) -> bool:
    try:
        await filters.read(filter_id)
    except FilterNotFound:
        return False
    return True


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("1.2.3.4", "1.2.3.250", True),
        ("1.2.3.4", "1.2.4.4", False),
        ("2001:db8:1:2::/64", "2001:db8:1:ffff::/64", True),
        ("2001:db8:1:2::/64", "2001:db8:2:2::/64", False),
        ("no address", "no address", True),
        ("no address", "another", False),
    ],
)
def test_addresses_of_one_network(left: str, right: str, same: bool) -> None:
    assert (owner_of(left).network == owner_of(right).network) is same
    assert (owner_of(left).client == owner_of(right).client) is (left == right)
    assert owner_of("") == NOBODY


async def test_41_addresses_of_one_network_leave_room_for_others() -> None:
    store = MemoryStore()
    filters = Filters(store)
    refused = 0
    for host in range(41):
        for _ in range(100):
            try:
                await filters.install(STATE, f"203.0.113.{host}")
            except LimitExceeded:
                refused += 1
    assert await count_of(store) <= filters.limits.per_network
    assert refused
    for host in range(100):
        assert await filters.install(STATE, f"198.51.{host}.7")


async def test_41_addresses_of_41_networks_lock_nobody_out() -> None:
    """They take all places; a client of another network gets one, and keeps it."""
    store = MemoryStore()
    filters = Filters(store)
    honest: list[bytes] = []
    for number in range(41):
        for _ in range(100):
            try:
                await filters.install(STATE, f"203.{number}.113.5")
            except (LimitExceeded, MethodError):
                break
    for host in range(50):
        honest.append(await filters.install(STATE, f"198.51.{host}.7"))
    for number in range(41):
        for _ in range(100):
            try:
                await filters.install(STATE, f"203.{number}.113.6")
            except (LimitExceeded, MethodError):
                break
    assert await count_of(store) <= filters.limits.total
    assert all([await lives(filters, one) for one in honest])


async def test_the_oldest_idle_filter_of_a_client_goes_first() -> None:
    store = MemoryStore()
    clock = Clock()
    filters = Filters(store, FilterLimits(per_client=3), clock)
    made = []
    for _ in range(3):
        made.append(await filters.install(STATE, "1.1.1.1"))
        clock.ms += 1000
    with pytest.raises(LimitExceeded, match="at most 3"):
        await filters.install(STATE, "1.1.1.1")
    clock.ms += HOUR // 3
    raw, state = await filters.read(made[0])
    assert await filters.advance(made[0], raw, state, state)
    fresh = await filters.install(STATE, "1.1.1.1")
    assert [await lives(filters, one) for one in (*made, fresh)] == [True, False, True, True]


async def test_the_oldest_idle_filter_of_a_network_goes_first() -> None:
    clock = Clock()
    filters = Filters(MemoryStore(), FilterLimits(per_network=3), clock)
    made = []
    for host in range(3):
        made.append(await filters.install(STATE, f"1.1.1.{host}"))
        clock.ms += 1000
    with pytest.raises(LimitExceeded, match="one network"):
        await filters.install(STATE, "1.1.1.9")
    clock.ms += HOUR // 3
    fresh = await filters.install(STATE, "1.1.1.9")
    assert [await lives(filters, one) for one in (*made, fresh)] == [False, True, True, True]


owners = st.sampled_from([Owner(b"1", b"a"), Owner(b"2", b"a"), Owner(b"3", b"b")])
held = st.lists(st.builds(HeldFilter, st.just(b"\0"), st.binary(), st.just(b""), owners, st.integers(0, HOUR)))


@given(held, owners, st.booleans(), st.integers(1, 4), st.integers(1, 6))
def test_who_gives_way(some: list[HeldFilter], owner: Owner, full: bool, per_client: int, per_network: int) -> None:
    limits = FilterLimits(per_client=per_client, per_network=per_network)
    counts = {network: sum(one.owner.network == network for one in some) for network in (b"a", b"b")}
    try:
        leaving = make_room(some, owner, limits, HOUR, full)
    except LimitExceeded:
        own = [one for one in some if one.owner.client == owner.client or one.owner.network == owner.network]
        assert len(own) >= min(per_client, per_network)
        return
    except MethodError:
        assert full
        return
    if leaving is None:
        assert not full
        return
    idle = leaving.polled_ms + limits.idle_ms < HOUR
    # nobody loses a filter that is polled to a network that has as many
    assert idle or counts[leaving.owner.network] > counts[owner.network] + 1
    # whoever has his share gives way himself
    if counts[owner.network] >= per_network:
        assert leaving.owner.network == owner.network
