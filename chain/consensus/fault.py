"""Consensus faults: two signed block headers of one miner that may not both be.

The headers are not checked as blocks of a chain: whatever their miner signed counts. Source: Lotus `chain/vm/fvm.go`
(`VerifyConsensusFault`), `chain/stmgr/utils.go` (`GetLookbackTipSetForRound`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Final

from blockstore.cid import Cid, cid_of
from chain.actors.load import States, WrongKind
from chain.actors.miner_state import Miner
from chain.address import Address
from chain.block import BlockHeader, decode_header, encode_header
from chain.errors import ActorNotFound, BadAddress, BadObject
from chain.index.chain_index import ChainIndex
from chain.ipld.dag_cbor import decode
from chain.ipld.objects import ObjectReader
from chain.known_networks import CALIBNET
from chain.network import NetworkRecord
from chain.signature import verify_signature
from chain.state.state_tree import StateTree, UnresolvedAddress
from chain.tipset import Tipset

log = logging.getLogger(__name__)

DOUBLE_FORK_MINING: Final = 1
PARENT_GRINDING: Final = 2
TIME_OFFSET_MINING: Final = 3
_FINALITY: Final = 900
#: around this epoch of calibnet faults do not count: its chain had halted there
_CALIBNET_HALT: Final = 1070494
_NONE: Final = type(None)
#: of the 16 fields of a header
_TYPES: Final[tuple[type | tuple[type, ...], ...]] = (
    bytes, (list, _NONE), (list, _NONE), list, list, list, bytes, int,
    bytes, bytes, bytes, (bytes, _NONE), int, (bytes, _NONE), int, bytes,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """A proven fault: the miner's ID address, the epoch of the later block, the kind as built-in actors number it."""

    miner: bytes
    epoch: int
    kind: int


async def find_fault(
    reader: ObjectReader,
    index: ChainIndex,
    network: NetworkRecord,
    anchor: Tipset,
    root: Cid,
    epoch: int,
    headers: tuple[bytes, bytes, bytes],
) -> Fault | None:
    """The fault that two headers prove (the third may be empty); None where they prove none.

    `anchor` is the tipset that is executed at `epoch`, `root` the state that its messages meet.
    Errors: NotHeld, Missing.
    """
    try:
        one, other = _decode(headers[0]), _decode(headers[1])
        witness = _decode(headers[2]) if headers[2] else None
    except BadObject as error:
        log.info("no consensus fault: %s", error)
        return None
    kind = _kind(one, other, witness, network)
    if kind is None:
        return None
    for header in (one, other):
        if not await _is_signed(reader, index, network, anchor, root, epoch, header):
            return None
    return Fault(one.miner, other.height, kind)


def _decode(raw: bytes) -> BlockHeader:
    """A header, and its CID: that of its own encoding, whatever follows it in `raw`. Errors: BadObject."""
    fields = decode(raw)
    if not isinstance(fields, list) or len(fields) != len(_TYPES):
        raise BadObject("not a block header")
    # anybody may send these bytes, so the types are checked before anything is made of them
    if not all(isinstance(value, kind) for value, kind in zip(fields, _TYPES, strict=True)):
        raise BadObject("a field of a block header has another type")
    if not all(isinstance(parent, bytes) for parent in fields[5]):
        raise BadObject("a parent of a block header is no CID")
    try:
        header = decode_header(cid_of(raw), raw)
    except (TypeError, ValueError) as error:
        raise BadObject(f"not a block header: {error}") from None
    return replace(header, cid=cid_of(encode_header(header)))


def _kind(one: BlockHeader, other: BlockHeader, witness: BlockHeader | None, network: NetworkRecord) -> int | None:
    """Which fault the headers show, signatures aside."""
    if one.cid == other.cid or one.miner != other.miner or other.height < one.height:
        return None
    halted = _CALIBNET_HALT if network.genesis == CALIBNET.genesis else None
    if halted is not None and any(abs(header.height - halted) < _FINALITY for header in (one, other)):
        return None
    if (
        witness is not None
        and one.parents == witness.parents
        and one.height == witness.height
        and witness.cid in other.parents
        and one.cid not in other.parents
    ):
        return PARENT_GRINDING
    if one.height == other.height:
        return DOUBLE_FORK_MINING
    return TIME_OFFSET_MINING if one.parents == other.parents else None


async def _is_signed(
    reader: ObjectReader,
    index: ChainIndex,
    network: NetworkRecord,
    anchor: Tipset,
    root: Cid,
    epoch: int,
    header: BlockHeader,
) -> bool:
    """Whether the worker key that the miner had 900 epochs before a block signed it."""
    if header.block_sig is None or header.height < epoch - _FINALITY:
        return False
    lookback = max(header.height - _FINALITY, 0)
    if lookback >= anchor.height:
        return False
    after = await index.at_height(anchor, lookback + 1, previous=False)
    try:
        tree = await StateTree.load(reader, after.parent_state_root)
        states = States(reader, tree, network.version_at(after.height), network.address_prefix)
        info = await Miner(reader, await states.load(Address(header.miner), "miner")).info()
        worker = await (await StateTree.load(reader, root)).account_key(Address(info["Worker"]))
    except (ActorNotFound, WrongKind, UnresolvedAddress, BadObject, BadAddress) as error:
        log.info("no consensus fault: %s", error)
        return False
    signed = encode_header(replace(header, block_sig=None))
    return verify_signature(*header.block_sig, worker, signed)
