"""A tiny node for tests of the wire: services over an empty store and a head of its own making."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from blockstore.cid import cid_of
from blockstore.memory import MemoryStore
from blockstore.store import HeadEntry, TipsetRef
from chain.block import BlockHeader
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.network import NetworkRecord
from chain.tipset import Tipset
from rpc.services import Head, Services


def header(height: int, name: str = "") -> BlockHeader:
    """A header whose CID is that of its epoch and name: good for answers, not for hashing."""
    cid = cid_of(f"block {height} {name}".encode())
    return BlockHeader(
        cid=cid,
        miner=b"\x00\xe8\x07",
        ticket=b"ticket",
        election_proof=(1, b"proof"),
        beacon_entries=(),
        win_post=(),
        parents=(cid_of(f"block {height - 1} {name}".encode()),),
        height=height,
        parent_weight=height,
        parent_state_root=cid,
        parent_message_receipts=cid,
        messages=cid,
        bls_aggregate=None,
        timestamp=30 * height,
        block_sig=None,
        fork_signaling=0,
        parent_base_fee=100,
    )


def head_at(height: int, seq: int = 1) -> Head:
    """A head of one block."""
    tipset = Tipset.of([header(height)])
    ref = TipsetRef(height, tipset.key)
    return Head(seq, HeadEntry(seq, 1, (), (ref,), ref), tipset)


class Heads:
    """A head source whose head a test moves."""

    def __init__(self, height: int = 1108) -> None:
        self.head = head_at(height)
        self._moved = asyncio.Condition()

    async def current(self) -> Head:
        return self.head

    async def subscribe(self, after: int | None = None) -> AsyncIterator[HeadEntry]:
        seen = self.head.seq if after is None else after
        while True:
            async with self._moved:
                while self.head.seq <= seen:
                    await self._moved.wait()
                entry = self.head.entry
            assert entry is not None
            seen = entry.seq
            yield entry

    async def move(self, height: int) -> None:
        async with self._moved:
            self.head = head_at(height, self.head.seq + 1)
            self._moved.notify_all()


NETWORK = NetworkRecord(
    name="testing",
    genesis=header(0).cid,
    address_prefix="f",
    eth_chain_id=314,
    block_delay=30,
    upgrades=((-1, 29),),
)


def services(heads: Heads | None = None) -> Services:
    """Services over an empty store in memory."""
    store = MemoryStore()
    objects = Objects(store)
    return Services(
        store=store,
        index=ChainIndex(store, objects, NETWORK),
        objects=objects,
        network=NETWORK,
        head_source=heads or Heads(),
    )
