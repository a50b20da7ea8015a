"""Small chains for tests of following: real headers, message and receipt AMTs, events and a state of a few
objects that changes a little from tipset to tipset; and the recorded chain with its head changes."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import orjson
import zstandard

from blockstore.cid import RAW, Cid, cid_of, parse, read_cid, read_uvarint
from chain.block import BlockHeader, decode_header, encode_header
from chain.ipld.dag_cbor import encode
from chain.message import Message, encode_message
from chain.tipset import Tipset, TipsetKey


class SmallChain:
    """Makes tipsets on any parent. `objects` by multihash holds all that was made."""

    def __init__(self, seed: int = 0) -> None:
        self.objects: dict[bytes, bytes] = {}
        self.tipsets: dict[bytes, Tipset] = {}
        self._salt = seed << 32
        self._state: dict[bytes, tuple[int, ...]] = {}
        header = self._header(0, (cid_of(b"before the genesis"),), 0, self._put([[], "genesis"]), self._receipts(0), 0)
        self.genesis = self._tipset([header])
        self._state[self.genesis.key] = ()

    def put(self, value: object) -> Cid:
        return self._put(value)

    def _put(self, value: object) -> Cid:
        raw = encode(value)
        cid = cid_of(raw)
        self.objects[cid.multihash] = raw
        return cid

    def _number(self) -> int:
        self._salt += 1
        return self._salt

    def _amt(self, values: list[object], bit_width: int | None) -> Cid:
        """An AMT of up to 8 (32 for width 5) values: one node."""
        slots = 1 << (bit_width or 3)
        assert len(values) <= slots
        bitmap = ((1 << len(values)) - 1).to_bytes(max(1, slots // 8), "little")
        head: list[object] = [] if bit_width is None else [bit_width]
        return self._put([*head, 0, len(values), [bitmap, [], values]])

    def _receipts(self, count: int) -> Cid:
        receipts: list[object] = []
        for number in range(count):
            events = self._amt([[1000 + number, [[3, "t1", 0x55, b"%d" % self._number()]]]], 5)
            receipts.append([0, b"", 1000, events if number % 2 else None])
        return self._amt(receipts, None)

    def _messages(self, count: int) -> Cid:
        cids: list[object] = []
        for _ in range(count):
            message = Message(0, b"\0\x65", b"\0\x66", self._number(), 1, 1000, 1, 1, 0, b"")
            raw = encode_message(message)
            cid = cid_of(raw)
            self.objects[cid.multihash] = raw
            cids.append(cid)
        return self._put([self._amt(cids, None), self._amt([], None)])

    def _header(
        self, height: int, parents: tuple[Cid, ...], weight: int, state: Cid, receipts: Cid, messages: int
    ) -> BlockHeader:
        header = BlockHeader(
            cid=Cid(),
            miner=b"\0\xe8\x07",
            ticket=self._number().to_bytes(32, "big"),
            election_proof=(1, b"proof"),
            beacon_entries=(),
            win_post=(),
            parents=parents,
            parent_weight=weight,
            height=height,
            parent_state_root=state,
            parent_message_receipts=receipts,
            messages=self._messages(messages),
            bls_aggregate=(2, b"\0"),
            timestamp=1_600_000_000 + 30 * height,
            block_sig=(2, b"\1"),
            fork_signaling=0,
            parent_base_fee=100,
        )
        raw = encode_header(header)
        cid = cid_of(raw)
        self.objects[cid.multihash] = raw
        return replace(header, cid=cid)

    def _tipset(self, blocks: list[BlockHeader]) -> Tipset:
        tipset = Tipset.of(blocks)
        self.tipsets[tipset.key] = tipset
        return tipset

    def _state_root(self, leaves: tuple[int, ...]) -> Cid:
        """A state of three levels in which most objects are shared with the one before."""
        rows = []
        for start in range(0, len(leaves), 4):
            code = self._code()
            actors: list[object] = [
                [code, self._put([leaf, "actor"]), leaf, b"\0"] for leaf in leaves[start : start + 4]
            ]
            rows.append(self._put([b"\xff", actors]))
        return self._put([5, self._put([b"\x01", list(rows)]), len(leaves)])

    def _code(self) -> Cid:
        """Code of a built-in actor: no node holds it, and a walk must not ask for it."""
        return cid_of(b"actor code", RAW)

    def extend(self, parent: Tipset, *, nulls: int = 0, blocks: int = 1, messages: int = 2) -> Tipset:
        """A tipset on `parent`, after `nulls` null rounds."""
        leaves = self._state[parent.key]
        number = self._number()
        leaves = (*leaves, number) if len(leaves) < 40 else (*leaves[1:20], number, *leaves[20:])
        state = self._state_root(leaves)
        receipts = self._receipts(messages)
        height = parent.height + 1 + nulls
        made = [
            self._header(height, parent.key.cids, parent.parent_weight + 10, state, receipts, messages)
            for _ in range(blocks)
        ]
        tipset = self._tipset(made)
        self._state[tipset.key] = leaves
        return tipset

    def line(self, start: Tipset, count: int) -> list[Tipset]:
        """`count` tipsets in a row on `start`, some with two blocks, some after null rounds."""
        found = []
        for number in range(count):
            start = self.extend(start, nulls=number % 5 == 3, blocks=1 + (number % 3 == 2))
            found.append(start)
        return found


def read_car(path: Path) -> dict[bytes, bytes]:
    """The objects of a zstd-compressed CARv1 by multihash."""
    data = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    size, at = read_uvarint(data, 0)
    at += size
    objects: dict[bytes, bytes] = {}
    while at < len(data):
        size, at = read_uvarint(data, at)
        cid, start = read_cid(data, at)
        objects[cid.multihash] = data[start : at + size]
        at += size
    return objects


def read_changes(path: Path) -> list[tuple[list[TipsetKey], list[TipsetKey]]]:
    """The recorded head changes; the first is `current`, as an apply."""
    changes: list[tuple[list[TipsetKey], list[TipsetKey]]] = []
    lines = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(path.open("rb")))
    for line in lines:
        frame = orjson.loads(line)["frame"]
        if frame.get("method") != "xrpc.ch.val":
            continue
        reverts: list[TipsetKey] = []
        applies: list[TipsetKey] = []
        for change in frame["params"][1]:
            key = TipsetKey.of([parse(cid["/"]) for cid in change["Val"]["Cids"]])
            (reverts if change["Type"] == "revert" else applies).append(key)
        changes.append((reverts, applies))
    return changes


def genesis_of(objects: dict[bytes, bytes], key: TipsetKey) -> TipsetKey:
    """The genesis below a tipset."""
    while True:
        header = decode_header(key.cids[0], objects[key.cids[0].multihash])
        if header.height == 0:
            return key
        key = TipsetKey.of(header.parents)
