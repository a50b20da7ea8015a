"""A small chain made by a test, with messages, receipts and forks of its own, in a memory store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson

from blockstore.cid import Cid, cid_of
from blockstore.memory import MemoryStore
from blockstore.store import Batch, HeadEntry, TipsetRef
from chain.block import BlockHeader, decode_header, encode_header
from chain.index.chain_index import HELD_ALL, ChainIndex, TipsetRow, index_rows
from chain.ipld.amt import amt_build
from chain.ipld.dag_cbor import encode
from chain.ipld.objects import Objects
from chain.message import Message, SignedMessage, encode_message, encode_signed_message
from chain.network import NetworkRecord
from chain.tipset import Tipset, TipsetKey
from rpc.server.dispatch import Dispatcher
from rpc.services import Head, Services

NOWHERE = cid_of(b"\x80")


class Log:
    """A head source whose entries a test appends; it ends a subscription that has seen them all."""

    def __init__(self) -> None:
        self.entries: list[HeadEntry] = []
        self.tipsets: dict[bytes, Tipset] = {}
        self.trimmed = 0
        #: whether a subscription waits for more at its end
        self.live = False
        self._grew = asyncio.Event()

    def publish(self, reverts: Sequence[Tipset], applies: Sequence[Tipset]) -> None:
        for tipset in (*reverts, *applies):
            self.tipsets[tipset.key] = tipset
        refs = [tuple(TipsetRef(t.height, t.key) for t in some) for some in (reverts, applies)]
        self.entries.append(HeadEntry(len(self.entries) + 1, 1, refs[0], refs[1], refs[1][-1]))
        self._grew.set()

    async def current(self) -> Head:
        last = self.entries[-1]
        return Head(last.seq, last, self.tipsets[last.head.key])

    async def subscribe(self, after: int | None = None) -> AsyncIterator[HeadEntry]:
        at = max(len(self.entries) if after is None else after, self.trimmed)
        while True:
            while at < len(self.entries):
                yield self.entries[at]
                at += 1
            if not self.live:
                return
            self._grew.clear()
            await self._grew.wait()


class MadeChain:
    """Tipsets one by one; every object goes into `store`, every tipset gets its rows."""

    def __init__(self, upgrades: tuple[tuple[int, int], ...] = ((-1, 25),)) -> None:
        self.store = MemoryStore()
        self.rows: dict[TipsetKey, TipsetRow] = {}
        self.log = Log()
        self.upgrades = upgrades
        self.genesis: Tipset | None = None

    async def put(self, raw: bytes) -> Cid:
        cid = cid_of(raw)
        await self.store.put_many([(cid.multihash, raw)], closed=True)
        return cid

    async def amt(self, values: Sequence[Any], version: int = 0, bit_width: int = 3) -> Cid:
        made: list[tuple[bytes, bytes]] = []
        root = await amt_build(lambda cid, raw: made.append((cid.multihash, raw)), values, version, bit_width)
        await self.store.put_many(made, closed=True)
        return root

    async def put_message(self, message: Message) -> Cid:
        return await self.put(encode_message(message))

    async def message_meta(self, bls: Sequence[Message], signed: Sequence[SignedMessage]) -> Cid:
        roots = [
            await self.amt([await self.put(encode_message(one)) for one in bls]),
            await self.amt([await self.put(encode_signed_message(one)) for one in signed]),
        ]
        return await self.put(encode(roots))

    async def add(
        self,
        parent: Tipset | None,
        height: int,
        blocks: Sequence[tuple[Sequence[Message], Sequence[SignedMessage]]] = (((), ()),),
        *,
        receipts: Cid = NOWHERE,
        state: Cid = NOWHERE,
        salt: int = 0,
    ) -> Tipset:
        """A tipset of one block for each (BLS, signed) pair, in an order that the tickets make."""
        headers: list[BlockHeader] = []
        for at, (bls, signed) in enumerate(blocks):
            header = BlockHeader(
                cid=NOWHERE, miner=b"\0" + bytes([at + 1]), ticket=bytes([salt, at]), election_proof=(1, b"e"),
                beacon_entries=((height, b"b"),), win_post=(), parents=parent.key.cids if parent else (NOWHERE,),
                parent_weight=height, height=height, parent_state_root=state, parent_message_receipts=receipts,
                messages=await self.message_meta(bls, signed), bls_aggregate=(2, b""), timestamp=height * 30,
                block_sig=(2, b"s"), fork_signaling=0, parent_base_fee=100,
            )  # fmt: skip
            raw = encode_header(header)
            headers.append(decode_header(await self.put(raw), raw))
        tipset = Tipset.of(headers)
        batch = Batch()
        above = self.rows.get(parent.key) if parent else None
        self.rows[tipset.key] = index_rows(batch, tipset, above, HELD_ALL)
        await self.store.write(batch)
        if self.genesis is None:
            self.genesis = tipset
        return tipset

    def services(self) -> Services:
        assert self.genesis is not None
        network = NetworkRecord("made", self.genesis.blocks[0].cid, "t", 31415926, 30, self.upgrades)
        objects = Objects(self.store)
        return Services(
            store=self.store,
            index=ChainIndex(self.store, objects, network),
            objects=objects,
            network=network,
            head_source=self.log,
        )


async def ask(dispatcher: Dispatcher, method: str, *params: Any, version: int = 1) -> Any:
    """The whole answer to one call over HTTP."""
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "Filecoin." + method, "params": list(params)})
    return orjson.loads((await dispatcher.http(version, body))[1])


def links(key: TipsetKey) -> list[dict[str, str]]:
    """A tipset key as JSON."""
    return [{"/": str(cid)} for cid in key.cids]


def link(cid: Cid) -> dict[str, str]:
    """A CID as JSON."""
    return {"/": str(cid)}
