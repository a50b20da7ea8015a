"""A chain whose only content is events: a million of them, of 1,000 contracts, over a day of epochs."""

from __future__ import annotations

import random
from typing import Final

from blockstore.cid import RAW, Cid, cid_of
from blockstore.store import Batch, HeadEntry, Store, TipsetRef
from chain.address import Address, delegated, from_id
from chain.block import BlockHeader, decode_header, encode_header
from chain.index.chain_index import HELD_ALL, INDEXED_EVENTS, TipsetRow, index_rows
from chain.index.event_rows import IndexedEvent, put_events
from chain.ipld.dag_cbor import encode
from chain.message import EventEntry
from chain.network import NetworkRecord, save_network
from chain.signature import keccak256
from chain.state.tipset_events import TipsetEvent
from chain.tipset import Tipset

EPOCHS: Final = 2880
CONTRACTS: Final = 1000
TRANSFER: Final = keccak256(b"Transfer(address,address,uint256)")
_FIRST_ID: Final = 5000
_NOTHING: Final = cid_of(encode([]))


def contract(number: int) -> bytes:
    """The Ethereum address of a contract."""
    return number.to_bytes(20, "big")


def account(number: int) -> bytes:
    """An account's address as a topic."""
    return (1 << 64 | number).to_bytes(32, "big")


async def fill_events(store: Store, events: int, *, epochs: int = EPOCHS, contracts: int = CONTRACTS) -> None:
    """Write the chain, its events' rows, and its head. The network's record too."""
    rng = random.Random(1)
    await store.put_many([(_NOTHING.multihash, encode([]))], closed=True)
    addresses = [Address(delegated(10, contract(number))) for number in range(contracts)]
    parents: tuple[Cid, ...] = ()
    row: TipsetRow | None = None
    batch = Batch()
    tipset: Tipset | None = None
    for height in range(epochs + 1):
        made = BlockHeader(
            _NOTHING, from_id(1000), b"t%d" % height, (1, b"proof"), (), (), parents, height, height, _NOTHING,
            _NOTHING, _NOTHING, (2, b"bls"), 1_700_000_000 + 30 * height, (2, b"signature"), 0, 100,
        )  # fmt: skip
        raw = encode_header(made)
        header = decode_header(cid_of(raw), raw)
        await store.put_many([(header.cid.multihash, raw)], closed=True)
        if not height:
            save_network(batch, NetworkRecord("made", header.cid, "f", 314, 30, ((-1, 29),)))
        tipset = Tipset.of([header])
        row = index_rows(batch, tipset, row, HELD_ALL | INDEXED_EVENTS)
        count = events * (height + 1) // epochs - events * height // epochs
        if height < epochs:
            put_events(batch, height, tipset.key.block_hash, _events(rng, addresses, height, count))
        parents = (header.cid,)
        if height % 32 == 31 or height == epochs:
            await store.write(batch)
            batch = Batch()
    assert tipset is not None
    ref = TipsetRef(tipset.height, tipset.key)
    await store.append_head(HeadEntry(1, await store.new_term("bench"), (), (ref,), ref))


def _events(rng: random.Random, addresses: list[Address], height: int, count: int) -> list[IndexedEvent]:
    found: list[IndexedEvent] = []
    for index in range(count):
        number = rng.randrange(len(addresses))
        entries = (
            EventEntry(3, "t1", RAW, TRANSFER),
            EventEntry(3, "t2", RAW, account(rng.randrange(20_000))),
            EventEntry(3, "t3", RAW, account(rng.randrange(20_000))),
            EventEntry(3, "d", RAW, rng.randbytes(32)),
        )
        message = index // 3
        event = TipsetEvent(index, message, _FIRST_ID + number, addresses[number], entries)
        digest = height.to_bytes(8, "big") + message.to_bytes(8, "big")
        found.append(IndexedEvent(event, cid_of(digest), keccak256(digest)))
    return found
