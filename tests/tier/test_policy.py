"""Which objects make room: the rules of Joystream's distributor, on sizes in bytes."""

from __future__ import annotations

import random

import pytest

from blockstore.tier.policy import GROUPS, Gdsf, Lru, LruSp, Policy, group_of


@pytest.mark.parametrize(
    ("size", "popularity", "group"),
    [
        (1, 1, 0), (2, 1, 1), (3, 1, 2), (4, 1, 2), (5, 1, 3), (1024, 1, 10), (1025, 1, 11), (1024, 2, 9), (1024, 3, 9),
        (1024, 4, 8), (7, 8, 0), (0, 1, 0), (1 << 40, 1, GROUPS - 1),
    ],
)  # fmt: skip
def test_groups_are_logarithms_rounded_up(size: int, popularity: int, group: int) -> None:
    assert group_of(size, popularity) == group


def test_the_oldest_large_unpopular_object_goes() -> None:
    policy = LruSp(3000)
    policy.add(b"small", 400, 0)
    policy.add(b"large", 1600, 10)
    policy.add(b"used", 900, 20)
    for now in range(30, 40):
        assert policy.use(b"used", now)
    # at 100: small 100 * 400, large 90 * 1600, used 61 * 900 / 11
    assert policy.add(b"new", 500, 100) == [b"large"]
    assert policy.add(b"more", 1300, 110) == [b"small"]
    assert policy.used == 900 + 500 + 1300


def test_of_equals_the_one_in_the_later_group_goes() -> None:
    policy = LruSp(300)
    policy.add(b"a", 100, 10)
    policy.add(b"b", 200, 15)
    # at 20: 10 * 100 = 5 * 200
    assert policy.add(b"c", 100, 20) == [b"b"]


def test_objects_of_the_lowest_group_make_room_too() -> None:
    policy = LruSp(4)
    for now in range(4):
        assert policy.add(bytes([now]), 1, now) == []
    assert policy.add(b"x", 1, 10) == [b"\0"]


@pytest.mark.parametrize("kind", [Lru, LruSp, Gdsf])
def test_no_policy_exceeds_its_capacity_or_forgets_what_it_holds(kind: type[Policy]) -> None:
    rng = random.Random(3)
    policy = kind(10_000)  # type: ignore[call-arg]
    held: dict[bytes, int] = {}
    for now in range(20_000):
        key = rng.randrange(400).to_bytes(2, "big")
        hit = policy.use(key, now)
        assert hit == (key in held)
        if not hit:
            size = rng.choice([1, 50, 300, 2000, 20_000])
            gone = policy.add(key, size, now)
            held[key] = size
            for one in gone:
                del held[one]
        assert policy.used == sum(held.values()) <= 10_000


def test_popular_objects_stay_under_a_scan_where_lru_loses_them() -> None:
    hits: list[int] = []
    for kind in (Lru, LruSp, Gdsf):
        policy = kind(50_000)
        now = found = 0
        for turn in range(40):
            hot = [b"hot%d" % number for number in range(20)] * 2
            for key in (*hot, *(b"scan%d.%d" % (turn, number) for number in range(100))):
                now += 1
                if policy.use(key, now):
                    found += 1
                else:
                    policy.add(key, 500, now)
        hits.append(found)
    lru, sp, gdsf = hits
    # the second use in each turn alone, against nearly all
    assert lru == 20 * 40
    assert sp > 1500
    assert gdsf > 1500
