"""How Filecoin's addresses, CIDs and events look to Ethereum: addresses, hashes, blooms, logs.

An address of 20 bytes is the delegated address f410 of the same bytes, but for *masked IDs*: 0xff, eleven
zeros and an actor ID, which stand for actors that have no such address. A block's hash is the digest of its
tipset key's CID, a native message's that of its own CID. Source: Lotus `chain/types/ethtypes/eth_types.go`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from blockstore.cid import RAW, Cid
from chain.address import DELEGATED, EAM_ID, Address, delegated, from_id
from chain.errors import BadAddress, ChainError
from chain.message import EventEntry
from chain.signature import keccak256

ADDRESS_LENGTH: Final = 20
HASH_LENGTH: Final = 32
#: bytes of a bloom filter
BLOOM_LENGTH: Final = 256
NO_HASH: Final = bytes(HASH_LENGTH)
#: the bloom that says nothing: everything may be in it
FULL_BLOOM: Final = b"\xff" * BLOOM_LENGTH

#: stands for the receiver of a message where the state has no such actor
REVERTED_ADDRESS: Final = b"\xff" + bytes(11) + b"\xff" * 8

_MASK: Final = b"\xff" + bytes(11)
_CID_PREFIX: Final = b"\x01\x71\xa0\xe4\x02\x20"
_BLOOM_BITS: Final = 8 * BLOOM_LENGTH
_TOPICS: Final = {"t1": 0, "t2": 1, "t3": 2, "t4": 3}


class EthAddressError(ChainError):
    """A Filecoin address that has no Ethereum form."""


class NoEthAddress(EthAddressError):
    """An address that has no Ethereum form without a look at the state."""

    def __init__(self, text: str = "invalid Filecoin Eth address") -> None:
        super().__init__(text)


class NotEthHash(ChainError):
    """A CID that has no Ethereum form."""


def is_masked(address: bytes) -> bool:
    """Whether an Ethereum address stands for an actor ID."""
    return address[:12] == _MASK


def masked_id(actor_id: int) -> bytes:
    """The Ethereum address that stands for an actor ID."""
    return _MASK + actor_id.to_bytes(8, "big")


def filecoin_address(address: bytes) -> Address:
    """The Filecoin address of an Ethereum one. Errors: BadAddress (a masked ID of 2^63 and more)."""
    if is_masked(address):
        return from_id(int.from_bytes(address[12:], "big"))
    return delegated(EAM_ID, address)


def eth_address(address: Address) -> bytes:
    """The Ethereum address of an ID or f410 address.

    Errors: NoEthAddress; EthAddressError (the payload of an f410 address has another length, or is a masked ID).
    """
    if address.is_id:
        return masked_id(address.id)
    if address.protocol != DELEGATED:
        raise NoEthAddress
    try:
        namespace, payload = address.namespace, address.subaddress
    except BadAddress:
        raise EthAddressError(f"invalid delegated address namespace in: {address.hex()}") from None
    if namespace != EAM_ID:
        raise NoEthAddress
    if len(payload) != ADDRESS_LENGTH:
        raise EthAddressError("cannot parse bytes into an EthAddress: incorrect input length")
    if is_masked(payload):
        raise EthAddressError(f"f410f addresses cannot embed masked-ID payloads: 0x{payload.hex()}")
    return payload


def own_eth_address(address: Address) -> bytes | None:
    """The Ethereum address that an address is in itself: of f410 addresses, else None."""
    if address.protocol != DELEGATED:
        return None
    try:
        return eth_address(address)
    except EthAddressError:
        return None


def hash_of(cid: Cid) -> bytes:
    """The digest of a DAG-CBOR, blake2b-256 CID. Errors: NotEthHash."""
    if cid[:6] != _CID_PREFIX or len(cid) != 38:
        raise NotEthHash("CID does not have the expected prefix")
    return bytes(cid[6:])


def cid_of_hash(digest: bytes) -> Cid:
    """The CID of the tipset key or native message with this hash."""
    return Cid(_CID_PREFIX + digest)


def bloom_of(items: Iterable[bytes]) -> bytes:
    """The bloom filter of these addresses and topics: three bits each."""
    bits = 0
    for item in set(items):
        bits |= bloom_bits(item)
    return bits.to_bytes(BLOOM_LENGTH, "big")


def bloom_bits(item: bytes) -> int:
    """The three bits that an address or topic sets in a bloom filter, as a big-endian number."""
    digest = keccak256(item)
    bits = 0
    for at in (0, 2, 4):
        bits |= 1 << int.from_bytes(digest[at : at + 2], "big") % _BLOOM_BITS
    return bits


def log_of(entries: Iterable[EventEntry]) -> tuple[bytes, list[bytes]] | None:
    """(data, topics) of an event in the form that contracts emit; None for any other event."""
    topics: dict[int, bytes] = {}
    data: bytes | None = None
    for entry in entries:
        if entry.codec != RAW:
            return None
        place = _TOPICS.get(entry.key)
        if place is not None:
            if len(entry.value) != HASH_LENGTH or place in topics:
                return None
            topics[place] = entry.value
        elif entry.key == "d":
            if data is not None:
                return None
            data = entry.value
    if any(place not in topics for place in range(len(topics))):
        return None
    return data or b"", [topics[place] for place in range(len(topics))]
