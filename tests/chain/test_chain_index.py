"""Ancestors by epoch: the skip pointers against a walk along the parents."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.cid import Cid, cid_of
from blockstore.memory import MemoryStore
from blockstore.store import Batch
from chain.block import BlockHeader, decode_header, encode_header
from chain.consensus.ancestry import Ancestry
from chain.errors import NotHeld
from chain.index.chain_index import HELD_ALL, ChainIndex, TipsetRow, decode_row, index_rows
from chain.ipld.objects import Objects
from chain.tipset import Tipset, TipsetKey

NOWHERE = cid_of(b"\x80")


def make_header(height: int, parents: tuple[Cid, ...], salt: int = 0) -> tuple[BlockHeader, bytes]:
    header = BlockHeader(
        cid=NOWHERE,
        miner=b"\0\1",
        ticket=salt.to_bytes(8, "big"),
        election_proof=(1, b"e"),
        beacon_entries=((1, b"b"),),
        win_post=(),
        parents=parents,
        parent_weight=height,
        height=height,
        parent_state_root=NOWHERE,
        parent_message_receipts=NOWHERE,
        messages=NOWHERE,
        bls_aggregate=(2, b""),
        timestamp=height * 30,
        block_sig=(2, b"s"),
        fork_signaling=0,
        parent_base_fee=100,
    )
    raw = encode_header(header)
    return decode_header(cid_of(raw), raw), raw


class Built:
    """A chain in a memory store, with or without rows."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.rows: dict[TipsetKey, TipsetRow] = {}
        self.index = ChainIndex(self.store, Objects(self.store))

    async def add(self, parent: Tipset | None, height: int, salt: int = 0, *, indexed: bool = True) -> Tipset:
        parents = tuple(parent.key.cids) if parent else (NOWHERE,)
        header, raw = make_header(height, parents, salt)
        tipset = Tipset.of([header])
        await self.store.put_many([(header.cid.multihash, raw)], closed=False)
        if indexed:
            batch = Batch()
            above = self.rows.get(parent.key) if parent else None
            self.rows[tipset.key] = index_rows(batch, tipset, above, HELD_ALL)
            await self.store.write(batch)
        return tipset


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 300), st.floats(0, 0.9), st.floats(0, 0.3))
async def test_ancestors_equal_a_walk(seed: int, length: int, null_rate: float, unindexed: float) -> None:
    rng = random.Random(seed)
    built = Built()
    chain = [await built.add(None, 0)]
    height = 0
    while len(chain) < length:
        height += 1 if rng.random() > null_rate else rng.randrange(1, 40)
        chain.append(await built.add(chain[-1], height, indexed=rng.random() >= unindexed))
    for _ in range(30):
        anchor = rng.choice(chain)
        wanted = rng.randint(0, anchor.height)
        below = [t for t in chain if t.height <= wanted]
        above = [t for t in chain if wanted <= t.height <= anchor.height]
        assert await built.index.at_height(anchor, wanted) == below[-1]
        assert await built.index.at_height(anchor, wanted, previous=False) == above[0]


async def test_forks_do_not_disturb_each_other() -> None:
    built = Built()
    trunk = await built.add(None, 0)
    for height in range(1, 50):
        trunk = await built.add(trunk, height)
    left = right = trunk
    for height in range(50, 400):
        left = await built.add(left, height, 1)
        right = await built.add(right, height, 2)
    assert (await built.index.at_height(left, 60)).blocks[0].ticket == (1).to_bytes(8, "big")
    assert (await built.index.at_height(right, 60)).blocks[0].ticket == (2).to_bytes(8, "big")
    assert await Ancestry(built.index).is_ancestor(trunk.key, 49, left)
    assert not await Ancestry(built.index).is_ancestor(right.key, right.height, left)


async def test_below_what_is_held_is_an_error() -> None:
    built = Built()
    header, _ = make_header(99, (NOWHERE,), 5)
    bottom = await built.add(Tipset.of([header]), 100)
    top = await built.add(bottom, 101)
    assert await built.index.at_height(top, 100) == bottom
    with pytest.raises(NotHeld, match="epoch 99"):
        await built.index.at_height(top, 99)


async def test_few_steps_however_deep() -> None:
    built = Built()
    top = await built.add(None, 0)
    for height in range(1, 5000):
        top = await built.add(top, height)
    cold = ChainIndex(built.store, Objects(built.store))
    await cold.at_height(top, 3)
    assert len(cold._rows) < 60


def test_rows_round_trip() -> None:
    header, _ = make_header(7, (NOWHERE,))
    tipset = Tipset.of([header])
    row = TipsetRow(tipset.key, 7, tipset.parents, 6, HELD_ALL, ((4, tipset.parents),))
    assert decode_row(row.encode()) == row
