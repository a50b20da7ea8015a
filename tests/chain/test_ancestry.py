"""The list of a head's chain is what walking from parent to parent finds, for whatever heads and ranges."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.consensus.ancestry import Ancestor, Ancestry
from chain.errors import NotHeld
from chain.tipset import Tipset
from tests.support.made_chain import MadeChain


def walked(parents: dict[Tipset, Tipset], head: Tipset, low: int, high: int) -> list[Tipset]:
    found = []
    at: Tipset | None = head
    while at is not None:
        if low <= at.height <= high:
            found.append(at)
        at = parents.get(at)
    return found[::-1]


@settings(max_examples=60)
@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=40),
    asked=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=12),
    depth=st.sampled_from([8, 30, 1000]),
)
async def test_any_range_of_any_chain(
    steps: list[tuple[int, int]], asked: list[tuple[int, int, int]], depth: int
) -> None:
    made = MadeChain()
    tipsets = [await made.add(None, 0)]
    parents: dict[Tipset, Tipset] = {}
    for salt, (back, nulls) in enumerate(steps, 1):
        parent = tipsets[max(0, len(tipsets) - 1 - back)]
        tipset = await made.add(parent, parent.height + 1 + nulls, salt=salt)
        parents[tipset] = parent
        tipsets.append(tipset)
    ancestry = Ancestry(made.services().index, depth=depth)
    for which, low, high in asked:
        head = tipsets[which % len(tipsets)]
        found = await ancestry.tipsets_between(head, low, high)
        line = walked(parents, head, 0, head.height)
        assert found == [Ancestor.of(tipset) for tipset in line if low <= tipset.height <= high]
        at = min(low, head.height)
        below = next(tipset for tipset in reversed(line) if tipset.height <= at)
        assert await ancestry.at_height(head, at) == below
        above = next(tipset for tipset in line if tipset.height >= at)
        assert await ancestry.at_height(head, at, previous=False) == above


async def test_what_is_not_held_is_said() -> None:
    made = MadeChain()
    bottom = await made.add(None, 0)
    lost = await made.add(bottom, 1)
    tipset = await made.add(lost, 2)
    for number in range(3, 9):
        tipset = await made.add(tipset, number)
    index = made.services().index
    for cid in lost.key.cids:
        del made.store._objects[cid.multihash]
    ancestry = Ancestry(index)
    assert [place.height for place in await ancestry.tipsets_between(tipset, 3, 8)] == [3, 4, 5, 6, 7, 8]
    for table, partition in list(made.store._rows):
        if table == "tipsets":
            del made.store._rows[table, partition]
    fresh = made.services().index
    with pytest.raises(NotHeld, match="epoch 1"):
        await Ancestry(fresh).tipsets_between(tipset, 0, 8)
