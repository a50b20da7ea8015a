"""The rows of the newest tipsets, read before a follower of a shared store answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from blockstore.errors import StoreUnavailable
from blockstore.memory import MemoryStore
from blockstore.store import HeadEntry, Table, TipsetRef
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.tipset import Tipset
from follower.ahead.rows_ahead import read_rows_ahead
from tests.support.made_chain import MadeChain


class Counted(MemoryStore):
    """Counts the reads of single rows, and can be slow or gone."""

    single = 0
    seconds = 0.0
    is_gone = False

    async def row(self, table: Table, partition: bytes, key: bytes) -> bytes | None:
        self.single += 1
        return await super().row(table, partition, key)

    async def rows(self, table: Table, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        await asyncio.sleep(self.seconds)
        return [await MemoryStore.row(self, table, *one) for one in keys]

    async def scan(self, *arguments: Any, **named: Any) -> list[tuple[bytes, bytes]]:
        if self.is_gone:
            raise StoreUnavailable("gone")
        return await super().scan(*arguments, **named)


async def chain(length: int) -> tuple[Counted, Tipset]:
    made = MadeChain()
    made.store = store = Counted("rows")
    tipset: Tipset | None = None
    for height in range(0, length * 2, 2):
        tipset = await made.add(tipset, height)
    assert tipset is not None
    term = await store.new_term("test")
    ref = TipsetRef(tipset.height, tipset.key)
    await store.append_head(HeadEntry(1, term, (), (ref,), ref))
    return store, tipset


async def test_ancestors_and_their_roots_take_no_row_then() -> None:
    store, head = await chain(150)
    index = ChainIndex(store, Objects(store))
    assert await read_rows_ahead(store, index) == head.height + 1
    store.single = 0
    for height in range(0, head.height, 7):
        tipset = await index.at_height(head, height)
        assert tipset.height == height // 2 * 2
        assert await index.post(tipset.key) is not None
    assert store.single == 0


async def test_a_slow_store_or_none_delays_the_start_no_longer_than_that() -> None:
    store, head = await chain(150)
    store.seconds = 0.05
    done = await read_rows_ahead(store, ChainIndex(store, Objects(store)), seconds=0.2)
    assert done < head.height
    store.is_gone = True
    assert await read_rows_ahead(store, ChainIndex(store, Objects(store))) == 0
    assert await read_rows_ahead(MemoryStore("empty"), ChainIndex(store, Objects(store))) == 0


async def test_ethereum_hashes_take_no_row_then() -> None:
    store, head = await chain(20)
    index = ChainIndex(store, Objects(store))
    await read_rows_ahead(store, index)
    below = await index.at_height(head, 6)
    store.single = 0
    assert await index.key_of(below.key.cid) == below.key
    assert store.single == 0
    another = ChainIndex(store, Objects(store))
    assert [await another.key_of(below.key.cid) for _ in range(3)] == [below.key] * 3
    assert store.single == 1
    assert await another.key_of(below.blocks[0].cid) is None
