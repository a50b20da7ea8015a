"""Block headers. Source: Lotus `chain/types/blockheader.go`; 16 fields, a CBOR array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from blockstore.cid import Cid
from chain.errors import BadObject
from chain.ipld.bigint import decode_bigint, encode_bigint
from chain.ipld.dag_cbor import decode, encode

_FIELDS: Final = 16


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """A block header. Signatures are (type, bytes) as Lotus' `crypto.Signature`: 1 secp256k1, 2 BLS.

    `timestamp`: seconds since 1970; `parent_base_fee`: attoFIL; `fork_signaling`: as the miner set it.
    """

    cid: Cid
    miner: bytes
    ticket: bytes | None
    election_proof: tuple[int, bytes] | None
    beacon_entries: tuple[tuple[int, bytes], ...]
    win_post: tuple[tuple[int, bytes], ...]
    parents: tuple[Cid, ...]
    parent_weight: int
    height: int
    parent_state_root: Cid
    parent_message_receipts: Cid
    messages: Cid
    bls_aggregate: tuple[int, bytes] | None
    timestamp: int
    block_sig: tuple[int, bytes] | None
    fork_signaling: int
    parent_base_fee: int


def _pair(value: Any, what: str) -> tuple[int, bytes]:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], int) and type(value[1]) is bytes:
        return value[0], value[1]
    raise BadObject(f"{what} of a block header is malformed")


def decode_signature(value: Any) -> tuple[int, bytes] | None:
    """(type, bytes) of a signature as Lotus stores it: one type byte and the data. Errors: BadObject."""
    if value is None:
        return None
    if type(value) is not bytes or not value:
        raise BadObject("signature is malformed")
    return value[0], value[1:]


def encode_signature(value: tuple[int, bytes] | None) -> bytes | None:
    """The stored form of a signature."""
    return None if value is None else bytes((value[0],)) + value[1]


def decode_header(cid: Cid, raw: bytes) -> BlockHeader:
    """The block header that `raw` holds. Errors: BadObject."""
    f = decode(raw)
    if not isinstance(f, list) or len(f) != _FIELDS:
        raise BadObject(f"{cid} is not a block header")
    try:
        ticket = f[1]
        if ticket is not None and (len(ticket) != 1 or type(ticket[0]) is not bytes):
            raise BadObject(f"ticket of {cid} is malformed")
        header = BlockHeader(
            cid=cid,
            miner=f[0],
            ticket=None if ticket is None else ticket[0],
            election_proof=None if f[2] is None else _pair(f[2], "election proof"),
            beacon_entries=tuple(_pair(entry, "beacon entry") for entry in f[3]),
            win_post=tuple(_pair(proof, "winning PoSt proof") for proof in f[4]),
            parents=tuple(Cid(parent) for parent in f[5]),
            parent_weight=decode_bigint(f[6]),
            height=f[7],
            parent_state_root=Cid(f[8]),
            parent_message_receipts=Cid(f[9]),
            messages=Cid(f[10]),
            bls_aggregate=decode_signature(f[11]),
            timestamp=f[12],
            block_sig=decode_signature(f[13]),
            fork_signaling=f[14],
            parent_base_fee=decode_bigint(f[15]),
        )
    except TypeError as error:
        raise BadObject(f"{cid} is not a block header: {error}") from None
    if not isinstance(header.height, int) or not isinstance(header.timestamp, int):
        raise BadObject(f"{cid} is not a block header")
    return header


def encode_header(h: BlockHeader) -> bytes:
    """The stored form of a header. Ignores `h.cid`."""
    return encode(
        [
            h.miner,
            None if h.ticket is None else [h.ticket],
            None if h.election_proof is None else list(h.election_proof),
            [list(entry) for entry in h.beacon_entries],
            [list(proof) for proof in h.win_post],
            list(h.parents),
            encode_bigint(h.parent_weight),
            h.height,
            h.parent_state_root,
            h.parent_message_receipts,
            h.messages,
            encode_signature(h.bls_aggregate),
            h.timestamp,
            encode_signature(h.block_sig),
            h.fork_signaling,
            encode_bigint(h.parent_base_fee),
        ]
    )
