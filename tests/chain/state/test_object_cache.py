"""Objects in memory: within their limit, the least used go, and no part grows so large that the loop waits for it."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.ipld.object_cache import ObjectCache


def digest(number: int) -> bytes:
    return b"\xa0\xe4\x02\x20" + blake2b(number.to_bytes(8, "big"), digest_size=32).digest()


@given(
    st.sampled_from([1, 4000, 1 << 20, 9 << 20, 64 << 20]),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1 << 17)), max_size=120),
)
@settings(max_examples=40, deadline=None)
def test_what_is_held_is_what_was_put_last_and_within_the_limit(limit: int, puts: list[tuple[int, int]]) -> None:
    cache = ObjectCache(limit)
    last: dict[int, bytes] = {}
    for number, size in puts:
        data = bytes([number]) * size
        cache.put(digest(number), data)
        if size < limit // 16:
            last[number] = data
            # what was put just now stays, whatever had to go for it
            assert cache.get(digest(number)) == data
        assert cache.used_bytes <= limit
    for number in range(31):
        found = cache.get(digest(number))
        assert found is None or found == last[number]
        assert (digest(number) in cache) == (found is not None)
    cache.clear()
    assert cache.used_bytes == 0
    assert not any(digest(number) in cache for number in range(31))


def test_the_least_used_goes_first() -> None:
    cache = ObjectCache(1 << 20)
    for number in range(16):
        cache.put(digest(number), bytes(60_000))
    assert cache.get(digest(0)) is not None
    for number in range(16, 24):
        cache.put(digest(number), bytes(60_000))
    assert digest(0) in cache
    assert digest(1) not in cache
    assert digest(23) in cache


@pytest.mark.parametrize("limit", [64 << 20, 256 << 20])
def test_no_part_takes_long_to_grow(limit: int) -> None:
    """The growth of a dictionary takes a step that is as long as it is large: 700,000 entries took 160 ms."""
    cache = ObjectCache(limit)
    for number in range(limit // 400):
        cache.put(digest(number), bytes(150))
    sizes = [len(part) for part in cache._parts]
    assert sum(sizes) > limit // 500
    assert max(sizes) < 16_000


def test_a_larger_cache_has_more_parts_not_larger_ones() -> None:
    for gib in (1, 16, 64):
        parts = ObjectCache(gib << 30)._parts
        assert {part.maxsize for part in parts} == {4 << 20}
        assert len(parts) * (4 << 20) == gib << 30


def test_an_object_of_2_mib_is_kept_by_default() -> None:
    cache = ObjectCache(64 << 20)
    cache.put(digest(1), bytes((2 << 20) - 200))
    assert digest(1) in cache
