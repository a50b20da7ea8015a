"""What a large state holds beside accounts and miners: deals, allocations and claims of verified data, contracts.

Half of the deals, a third of the claims and all allocations are of one provider and one client, as the largest ones of
a network have very many; the first contract has most of the storage. Nothing of it changes with the epochs.
Sources: go-state-types `builtin/v16`, packages `market`, `verifreg`, `datacap`, `evm` (types, bit widths, keys).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from blockstore.cid import RAW, Cid, cid_of, uvarint
from chain.ipld.bigint import encode_bigint
from chain.ipld.dag_cbor import encode
from chain.ipld.hamt import hamt_build
from chain.ipld.kamt import kamt_build
from chain.ipld.tree_nodes import Put, Raw

MARKET, VERIFREG, DATACAP = (b"\0" + uvarint(at) for at in (5, 6, 7))
_BALANCE_BITS: Final = 6
_PROPOSAL_BITS: Final = 5
_STATE_BITS: Final = 6
_TOKEN_BITS: Final = 3
_PIECE_BYTES: Final = 32 << 30
#: of so many deals one waits for its sector
_PENDING: Final = 50
#: slots of a contract that is not the first, and different bytecodes
_SLOTS: Final = 8
_CODES: Final = 10


@dataclass(frozen=True, slots=True)
class Holdings:
    """How many deals, claims and allocations together, contracts, storage slots of the first contract there are.

    `sectors`: of the first miner; if 0, it has as few as the others.
    """

    deals: int = 0
    claims: int = 0
    contracts: int = 0
    slots: int = 0
    sectors: int = 0


@dataclass(frozen=True, slots=True)
class Parties:
    """Who holds: ID numbers by place. `write_amt` writes an array of a bit width."""

    client: Callable[[int], int]
    provider: Callable[[int], int]
    write_amt: Callable[[Put, Any, int], Cid]


def piece_cid(number: int) -> Cid:
    """A commitment to data (fil-commitment-unsealed, sha2-256-trunc254-padded): a link that leads to no object."""
    digest = blake2b(b"piece %d" % number, digest_size=31).digest() + b"\0"
    return Cid(b"\x01" + uvarint(0xF101) + uvarint(0x1012) + b"\x20" + digest)


def _owner(number: int) -> int:
    """Who holds the thing `number`: 0 for every second one."""
    return 0 if number % 2 else number // 2 + 1


def _id(number: int) -> bytes:
    return b"\0" + uvarint(number)


def market_state(put: Put, deals: int, parties: Parties) -> Cid:
    """The market with so many deals. `put` gets its objects."""
    fil = 10**18
    proposals: list[Raw] = []
    states: dict[int, Raw] = {}
    pending: dict[bytes, Any] = {}
    allocations: dict[bytes, Any] = {}
    balances: dict[bytes, int] = {}
    sectors: dict[int, dict[bytes, Any]] = {}
    for deal in range(deals):
        client, provider = parties.client(_owner(deal)), parties.provider(_owner(deal))
        terms = [100, 1_500_000, encode_bigint(1000), encode_bigint(fil // 100), b""]
        parts = [piece_cid(deal), _PIECE_BYTES, deal % 3 == 0, _id(client), _id(provider), f"deal {deal}"]
        raw = encode([*parts, *terms])
        proposals.append(Raw(raw))
        for one in (client, provider):
            balances[_id(one)] = balances.get(_id(one), 0) + fil // 50
        if deal % _PENDING:
            states[deal] = Raw(encode([deal % 8, 110, -1, -1]))
            sectors.setdefault(provider, {})[uvarint(deal)] = [deal]
        else:
            pending[bytes(cid_of(raw))] = None
            allocations[uvarint(deal)] = deal + 1
    by_provider = {uvarint(one): hamt_build(put, found) for one, found in sectors.items()}
    total = encode_bigint(deals * (fil // 100))
    empty = hamt_build(put, {})
    raw = encode(
        [
            parties.write_amt(put, proposals, _PROPOSAL_BITS),
            parties.write_amt(put, states, _STATE_BITS),
            hamt_build(put, pending),
            hamt_build(put, {key: encode_bigint(amount) for key, amount in balances.items()}, _BALANCE_BITS),
            hamt_build(put, {key: encode_bigint(amount // 2) for key, amount in balances.items()}, _BALANCE_BITS),
            deals,
            empty,
            0,
            b"",
            total,
            total,
            hamt_build(put, allocations),
            hamt_build(put, by_provider),
        ]
    )
    return stored(put, raw)


def registry_state(put: Put, claims: int, parties: Parties) -> Cid:
    """The verified registry with so many entries, every fourth an allocation of one client, the others claims."""
    waiting: dict[int, dict[bytes, Any]] = {}
    claimed: dict[int, dict[bytes, Any]] = {}
    for number in range(claims):
        client, provider = parties.client(_owner(number)), parties.provider(_owner(number))
        shared = [piece_cid(number), _PIECE_BYTES, 500_000, 1_500_000]
        if number % 4 != 1:
            entry = [provider, client, *shared, 120, number % 8]
            claimed.setdefault(provider, {})[uvarint(number)] = Raw(encode(entry))
        else:
            waiting.setdefault(client, {})[uvarint(number)] = Raw(encode([client, provider, *shared, 200_000]))
    roots = [
        hamt_build(put, {uvarint(one): hamt_build(put, found) for one, found in table.items()})
        for table in (waiting, claimed)
    ]
    verifiers = hamt_build(put, {_id(parties.client(at)): encode_bigint(1 << 50) for at in range(3)})
    root_key = _id(parties.client(0))
    return stored(put, encode([root_key, verifiers, hamt_build(put, {}), roots[0], claims, roots[1]]))


def datacap_state(put: Put, claims: int, parties: Parties) -> Cid:
    """The datacap token, of which each client that has entries in the registry holds some."""
    amount = encode_bigint(_PIECE_BYTES * 10**18)
    owners = {uvarint(parties.client(_owner(number))): amount for number in range(claims)}
    supply = encode_bigint(len(owners) * _PIECE_BYTES * 10**18)
    token = [supply, hamt_build(put, owners, _TOKEN_BITS), hamt_build(put, {}, _TOKEN_BITS), _TOKEN_BITS]
    return stored(put, encode([VERIFREG, token]))


def contract_address(number: int) -> bytes:
    """The f410 address of a contract."""
    return b"\x04\x0a" + blake2b(b"contract %d" % number, digest_size=20).digest()


def contract_states(put: Put, holdings: Holdings) -> Iterator[tuple[bytes, Cid]]:
    """(f410 address, state) of each contract."""
    codes = [bytes((0x60, at)) * 3000 for at in range(_CODES)]
    links = [cid_of(code, RAW) for code in codes]
    for link, code in zip(links[: holdings.contracts], codes, strict=False):
        put(link, code)
    for number in range(holdings.contracts):
        link, code = links[number % _CODES], codes[number % _CODES]
        count = _SLOTS if number else max(_SLOTS, holdings.slots)
        slots = {
            int.from_bytes(blake2b(b"slot %d %d" % (number % _CODES, at), digest_size=32).digest(), "big"): at + 1
            for at in range(1, count)
        }
        storage = kamt_build(put, {0: number + 1, **slots})
        digest = blake2b(code, digest_size=32).digest()
        yield contract_address(number), stored(put, encode([link, digest, storage, None, 1, None]))


def stored(put: Put, raw: bytes) -> Cid:
    """Give an object to `put`; its CID."""
    cid = cid_of(raw)
    put(cid, raw)
    return cid
