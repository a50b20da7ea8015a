"""What a store with generations must do beside the rest. A backend's test class subclasses it, as `StoreContract`."""

from __future__ import annotations

import random

import pytest

from blockstore.cid import multihash_of
from blockstore.errors import Missing, StoreError
from blockstore.generations import (
    LASTING,
    GenerationalStore,
    ObjectsInto,
    OnlyIn,
    keep_lasting,
    objects_of,
    put_lasting,
    put_layout,
)
from blockstore.store import EVENTS, META, Batch, Held, Store


def named(text: str) -> tuple[bytes, bytes]:
    return multihash_of(text.encode()), text.encode()


async def next_generation(store: Store) -> None:
    """Make another generation the current one."""
    assert isinstance(store, GenerationalStore)
    for step in ("next", "switch"):
        batch, layout = Batch(), await store.layout()
        put_layout(batch, layout.with_next() if step == "next" else layout.switched(5, 3))
        if step == "switch":
            assert layout.next is not None
            await store.make_generation(layout.next)
        await store.write(batch)
        await store.layout()


async def drop_previous(store: Store) -> None:
    assert isinstance(store, GenerationalStore)
    batch, layout = Batch(), await store.layout()
    assert layout.previous is not None
    put_layout(batch, layout.without_previous())
    with pytest.raises(StoreError, match="in use"):
        await store.drop_generation(layout.previous)
    await store.write(batch)
    await store.layout()
    await store.drop_generation(layout.previous)
    await store.drop_generation(layout.previous)


class GenerationsContract:
    """Tests of stores that are `GenerationalStore`."""

    async def test_it_has_generations(self, store: Store) -> None:
        assert isinstance(store, GenerationalStore)
        assert (await store.layout()).held == (1,)
        assert await store.generations() == [1]
        with pytest.raises(StoreError, match="in use"):
            await store.drop_generation(1)

    async def test_objects_are_found_in_each_place_the_newest_first(self, store: Store) -> None:
        assert isinstance(store, GenerationalStore)
        old, new, head, none = named("old"), named("new"), named("head"), named("none")
        await store.put_many([old], closed=True)
        await put_lasting(store, dict([head]))
        await next_generation(store)
        await store.put_many([new], closed=True)
        asked = [one[0] for one in (old, new, head, none)]
        assert await store.get_many(asked) == [b"old", b"new", b"head", None]
        assert [await store.get(one) for one in asked] == [b"old", b"new", b"head", None]
        # closed is what is closed in the current generation or for ever
        assert await store.held_many(asked) == [Held.LOOSE, Held.CLOSED, Held.CLOSED, Held.ABSENT]
        before = store.looks
        await store.get(new[0])
        assert store.looks == before + 1
        await store.get(none[0])
        assert store.looks == before + 4
        assert await store.generations() == [1, 2]

    async def test_what_is_closed_again_is_copied_and_outlives_the_older_generation(self, store: Store) -> None:
        copied, left, loose = named("copied"), named("left"), named("loose")
        await store.put_many([copied, left], closed=True)
        await store.put_many([loose], closed=False)
        await next_generation(store)
        await store.close_many([copied[0], loose[0]])
        with pytest.raises(Missing):
            await store.close_many([multihash_of(b"none")])
        await drop_previous(store)
        asked = [copied[0], left[0], loose[0]]
        assert await store.held_many(asked) == [Held.CLOSED, Held.ABSENT, Held.CLOSED]
        assert await store.get_many(asked) == [b"copied", None, b"loose"]
        assert isinstance(store, GenerationalStore)
        assert await store.generations() == [2]

    async def test_a_walk_goes_on_in_the_generation_that_it_began_in(self, store: Store) -> None:
        child, parent = named("child"), named("parent")
        walk = objects_of(store)
        await walk.put_many([child], closed=True)
        await next_generation(store)
        assert await walk.held_many([child[0]]) == [Held.CLOSED]
        await walk.put_many([parent], closed=True)
        # in the new one neither is closed
        assert await store.held_many([child[0], parent[0]]) == [Held.LOOSE, Held.LOOSE]

    async def test_a_pass_sees_only_the_place_that_it_fills(self, store: Store) -> None:
        old, header = named("old"), named("header")
        await store.put_many([old, header], closed=True)
        await keep_lasting(store, [header[0]])
        await next_generation(store)
        only, into = OnlyIn(store, 2), ObjectsInto(store, LASTING)
        assert await only.held_many([old[0], header[0]]) == [Held.ABSENT, Held.CLOSED]
        assert await into.held_many([old[0], header[0]]) == [Held.LOOSE, Held.CLOSED]
        await into.close_many([old[0]])
        await drop_previous(store)
        assert await store.get_many([old[0], header[0]]) == [b"old", b"header"]
        with pytest.raises(Missing):
            await keep_lasting(store, [multihash_of(b"none")])

    async def test_many_generations_one_after_another(self, store: Store) -> None:
        rng = random.Random(3)
        kept = named("kept")
        await store.put_many([kept], closed=True)
        for _ in range(4):
            await store.put_many([named(rng.randbytes(40).hex()) for _ in range(20)], closed=True)
            await next_generation(store)
            await store.close_many([kept[0]])
            await drop_previous(store)
        assert await store.get(kept[0]) == b"kept"
        assert isinstance(store, GenerationalStore)
        assert await store.generations() == [5]

    async def test_a_partition_goes_whole_and_no_other(self, store: Store) -> None:
        assert isinstance(store, GenerationalStore)
        rows = [(p, bytes((k,))) for p in (b"a", b"a\0", b"b", b"") for k in range(5)]
        await store.write(Batch([(EVENTS, p, k, b"v") for p, k in rows]))
        await store.drop_partitions(EVENTS, [b"a"])
        for p in (b"a", b"a\0", b"b", b""):
            assert len(await store.scan(EVENTS, p)) == (0 if p == b"a" else 5)
        await store.drop_partitions(META, [b"none"])
