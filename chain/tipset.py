"""Tipsets and their keys. Source: Lotus `chain/types/tipset.go`, `tipset_key.go`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from blockstore.cid import Cid, cid_of, read_cid
from chain.block import BlockHeader
from chain.errors import BadObject
from chain.ipld.dag_cbor import encode


class TipsetKey(bytes):
    """The CIDs of a tipset's blocks in order, concatenated. The empty key means the head."""

    __slots__ = ()

    @classmethod
    def of(cls, cids: Iterable[bytes]) -> TipsetKey:
        """The key of these blocks, in this order."""
        return cls(b"".join(cids))

    @property
    def cids(self) -> tuple[Cid, ...]:
        """Errors: BadCid, when the bytes are no CIDs."""
        if len(self) == 38:
            return (Cid(self),)
        found = []
        at = 0
        while at < len(self):
            cid, at = read_cid(self, at)
            found.append(cid)
        return tuple(found)

    @property
    def cid(self) -> Cid:
        """The CID of the key, as Lotus' `TipSetKey.Cid`."""
        return _key_cid(self)

    @property
    def block_hash(self) -> bytes:
        """The Ethereum block hash of the tipset: the 32-byte digest of the key's CID."""
        return bytes(_key_cid(self)[-32:])

    def __str__(self) -> str:
        return "{" + ",".join(str(cid) for cid in self.cids) + "}"

    def __repr__(self) -> str:
        return f"TipsetKey({self})"


@lru_cache(maxsize=16384)
def _key_cid(key: bytes) -> Cid:
    return cid_of(encode(bytes(key)))


EMPTY_KEY = TipsetKey()


def ticket_digest(header: BlockHeader) -> bytes:
    """The blake2b-256 of the block's ticket. Blocks of a tipset are ordered by it."""
    return hashlib.blake2b(header.ticket or b"", digest_size=32).digest()


@dataclass(frozen=True, slots=True)
class Tipset:
    """Blocks of one epoch with the same parents, in the order of their tickets."""

    key: TipsetKey
    blocks: tuple[BlockHeader, ...]

    @classmethod
    def of(cls, blocks: Sequence[BlockHeader]) -> Tipset:
        """The tipset of these blocks, sorted by ticket. Errors: BadObject (no block, or blocks of several tipsets)."""
        if not blocks:
            raise BadObject("NewTipSet called with zero length array of blocks")
        first = blocks[0]
        for other in blocks[1:]:
            if other.height != first.height:
                raise BadObject("cannot create tipset with mismatching heights")
            if other.parents != first.parents:
                raise BadObject("cannot create tipset with mismatching parents")
        ordered = sorted(blocks, key=lambda block: (ticket_digest(block), block.cid))
        return cls(TipsetKey.of(block.cid for block in ordered), tuple(ordered))

    @property
    def height(self) -> int:
        """The epoch."""
        return self.blocks[0].height

    @property
    def parents(self) -> TipsetKey:
        """The parent tipset's key. The genesis block names a parent that is no block."""
        return TipsetKey.of(self.blocks[0].parents)

    @property
    def parent_state_root(self) -> Cid:
        """The state root after the parent tipset's messages: the state that this tipset's messages start from."""
        return self.blocks[0].parent_state_root

    @property
    def parent_message_receipts(self) -> Cid:
        """The receipts of the parent tipset's messages."""
        return self.blocks[0].parent_message_receipts

    @property
    def parent_weight(self) -> int:
        """The weight of the chain below this tipset."""
        return self.blocks[0].parent_weight

    @property
    def parent_base_fee(self) -> int:
        """In attoFIL for one unit of gas."""
        return self.blocks[0].parent_base_fee

    @property
    def min_timestamp(self) -> int:
        """The earliest timestamp of the blocks, in seconds since 1970."""
        return min(block.timestamp for block in self.blocks)
