"""Counting the objects under one: each once, with a checkpoint after a few, in sets that are freed a few at a time."""

from __future__ import annotations

import asyncio

import pytest

from chain.errors import BadRequest
from chain.ipld.dag_stat import _SHARDS, _Seen, stat_dag
from chain.ipld.hamt import hamt_build, hamt_set
from chain.ipld.tree_nodes import Raw
from tests.chain.tree_tools import Heap


async def test_objects_are_counted_once_and_others_go_on_meanwhile() -> None:
    heap = Heap()
    before = hamt_build(heap.put, {b"%d" % number: number for number in range(8000)})
    whole = len(heap.objects)
    after = await hamt_set(heap, heap.put, before, {b"more": Raw(b"\x01")})
    turns = 0

    async def checkpoint() -> None:
        nonlocal turns
        turns += 1

    assert await stat_dag(heap, before, checkpoint=checkpoint) == (
        whole,
        sum(map(len, list(heap.objects.values())[:whole])),
    )
    assert turns >= whole // 8
    added, _ = await stat_dag(heap, after, before)
    assert added == len(heap.objects) - whole
    with pytest.raises(BadRequest, match="more than 100 objects"):
        await stat_dag(heap, before, limit=100)


async def test_what_was_met_is_freed_a_little_at_a_time() -> None:
    seen = _Seen()
    heap = Heap()
    hamt_build(heap.put, {b"%d" % number: number for number in range(20_000)})
    assert all(seen.add(cid) for cid in heap.objects)
    assert not any(seen.add(cid) for cid in heap.objects)
    assert max(map(len, seen._shards)) < 20 * len(heap.objects) / _SHARDS
    seen.free()
    left = [sum(map(len, seen._shards))]
    while left[-1]:
        await asyncio.sleep(0)
        left.append(sum(map(len, seen._shards)))
    assert len(left) > 50, "all at once"
