"""The state of a simulated chain: a real state tree (actors version 19), what messages and an epoch change in it.

Held are the system actor with its manifest, init with the address map, reward, cron, power with a claim a
miner, the burnt funds, miners (info, sectors, a deadline with its partition), accounts of three kinds
(secp256k1, BLS, delegated) and, where they are asked for, what `sim_holdings.py` adds. Nothing is
proven or priced as the real network would; every structure is real.
Sources: go-state-types `builtin/v16` (state types and bit widths), Lotus `chain/types/state_types.go`.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any, Final, TypeVar

from blockstore.cid import RAW, Cid, cid_of, read_uvarint, uvarint
from chain.actors.miner_state import DEADLINES
from chain.eth.transaction import INVOKE_CONTRACT
from chain.ipld.amt import amt_build
from chain.ipld.bigint import decode_bigint, encode_bigint
from chain.ipld.dag_cbor import decode, encode
from chain.ipld.tree_nodes import Put
from chain.message import BLS, DELEGATED, SECP256K1, Message
from devnode.sim_hamt import LiveHamt, link
from devnode.sim_holdings import (
    DATACAP,
    MARKET,
    VERIFREG,
    Holdings,
    Parties,
    contract_address,
    contract_states,
    datacap_state,
    market_state,
    registry_state,
    stored,
)
from devnode.sim_sectors import SECTOR_BYTES, large_miner, sector, working_sectors

T = TypeVar("T")

FIL: Final = 10**18
#: what a state root is, from actors version 14 on
STATE_VERSION: Final = 5
#: the first miner's ID; accounts follow the miners
FIRST_ID: Final = 1000
SYSTEM, INIT, REWARD, CRON, POWER, RESERVE, BURNT = (b"\0" + uvarint(at) for at in (0, 1, 2, 3, 4, 90, 99))
NAMES: Final = (
    "system", "init", "cron", "account", "storagepower", "storageminer", "storagemarket", "paymentchannel",
    "multisig", "reward", "verifiedregistry", "datacap", "placeholder", "evm", "eam", "ethaccount",
)  # fmt: skip
#: ProveCommitSectors3, which makes a miner emit events
PROVE_COMMIT: Final = 34
#: log2 of the power of the network, by which tipsets are weighed
POWER_LOG2: Final = 64
_TOTAL_POWER: Final = 1 << POWER_LOG2
_SECTORS: Final = 8
#: sectors 0 to 7 as an RLE+ bit field
_EIGHT: Final = b"\x14\x01"
#: of a miner's info: what stands between the peer and the beneficiary, and what comes last
_INFO: Final = b"\x80" + b"".join(map(encode, (13, SECTOR_BYTES, 2349, -1, None)))
_TERM: Final = encode([b"", b"", 0]) + b"\xf6"
#: how many events a miner emits for one message
_EVENTS: Final = 3


def run_without_waiting(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, as tree writers do that only call `put`. Its result."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]
    coroutine.close()
    raise RuntimeError("a tree writer had to wait")


def write_amt(put: Put, values: Sequence[Any] | Mapping[int, Any], version: int = 3, bit_width: int = 3) -> Cid:
    """Write an AMT at once."""
    return run_without_waiting(amt_build(put, values, version, bit_width))


def _octets(data: bytes) -> bytes:
    """A byte string of under 256 bytes."""
    size = len(data)
    return (bytes((0x40 + size,)) if size < 24 else bytes((0x58, size))) + data


def _big(value: int) -> bytes:
    return _octets(encode_bigint(value))


def _sealed(digest: bytes) -> Cid:
    """A commitment to a sector (fil-commitment-sealed, poseidon): a link that leads to no object."""
    return Cid(b"\x01" + uvarint(0xF102) + uvarint(0xB401) + b"\x20" + digest)


@dataclass(frozen=True, slots=True)
class State:
    """One state: its actors, and the root that headers name."""

    actors: LiveHamt
    root: Cid


_NOTHING_HELD: Final = Holdings()


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many accounts and miners there are, and how many miners change their sectors in an epoch, least and most."""

    accounts: int
    miners: int
    miner_updates: int
    most_miner_updates: int = 0
    holdings: Holdings = _NOTHING_HELD
    #: the share of calls of contracts that emit a log
    logging_calls: float = 0.0


@dataclass(frozen=True, slots=True)
class SimMessage:
    """A message with the ID addresses of its sender and receiver; `raw` as stored; `kind` of its signature."""

    cid: Cid
    raw: bytes
    message: Message
    kind: int
    sender: bytes
    receiver: bytes


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be executed: messages in order, and the blocks' miners with what they won."""

    epoch: int
    base_fee: int
    messages: Sequence[SimMessage]
    winners: Sequence[tuple[bytes, int]]


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it: the next state, the receipts' root, the gas used."""

    state: State
    receipts: Cid
    gas: int


class StateMaker:
    """Makes the genesis state and, of a state and messages, the next one. `put` gets every new object."""

    _claims: Cid

    def __init__(self, seed: int, network: str, sizes: Sizes) -> None:
        self.seed = seed
        self.network = network
        self.sizes = sizes
        self.first_account = FIRST_ID + sizes.miners
        self.first_contract = self.first_account + sizes.accounts
        self._objects: dict[Cid, bytes] = {}
        put = self._objects.__setitem__
        self.codes: dict[str, Cid] = {}
        for name in NAMES:
            raw = f"simulated code of {name}".encode()
            self.codes[name] = cid_of(raw, RAW)
            put(self.codes[name], raw)
        self._code = {name: link(cid) for name, cid in self.codes.items()}
        self.manifest = self._store(put, [[name, code] for name, code in self.codes.items()])
        self.empty = self._store(put, [])
        self._empty_map = LiveHamt.build(put, ())
        self.empty_array = write_amt(put, [], version=0)
        self._miner_parts(put)

    @staticmethod
    def _store(put: Put, value: Any) -> Cid:
        return stored(put, encode(value))

    def _miner_parts(self, put: Put) -> None:
        """What miners have in common, and the encoded pieces around what changes."""
        arrays = {width: write_amt(put, [], 3, width) for width in (2, 3, 4, 5, 6)}
        self._sectors = [sector(number, _sealed(bytes((number,)) * 32)) for number in range(_SECTORS)]
        power = [encode_bigint(_SECTORS * SECTOR_BYTES)] * 2
        none = [b"", b""]
        self._partition = [_EIGHT, b"", b"", b"", b"", arrays[4], arrays[3], power, none, none, none]
        partitions = write_amt(put, [self._partition], 3, 3)
        sectors = self._sectors_root(put, self._sectors)
        idle = [arrays[3], arrays[5], b"", b"", 0, 0, none, arrays[2], arrays[5], arrays[3], arrays[2], none, b""]
        self._idle = link(self._store(put, idle))
        self._partitions = link(partitions)
        tail = [b"", b"", _SECTORS, _SECTORS, none, arrays[2]]
        self._deadline = (
            link(arrays[5]) + b"".join(map(encode, tail)),
            b"".join(map(encode, [arrays[3], arrays[2], power, encode_bigint(10**12)])),
        )
        self._first_sectors = sectors
        self._first_deadlines = self._deadlines(put, 0, sectors)
        self._allocated = link(self._store(put, _EIGHT))
        self._cleanup = link(arrays[6])

    @staticmethod
    def _sectors_root(put: Put, sectors: Sequence[bytes]) -> Cid:
        """An AMT of width 5 whose values fit in its root."""
        bitmap = ((1 << len(sectors)) - 1).to_bytes(4, "little")
        raw = b"\x84\x05\x00" + encode(len(sectors)) + b"\x83" + encode(bitmap) + b"\x80"
        raw += bytes((0x80 + len(sectors),)) + b"".join(sectors)
        return stored(put, raw)

    def _deadlines(self, put: Put, due: int, sectors: Cid) -> Cid:
        """48 deadlines of which one has the miner's partition."""
        raw = b"\x8d" + self._partitions + self._deadline[0] + link(sectors) + self._deadline[1]
        cid = stored(put, raw)
        raw = b"\x81\x98\x30" + self._idle * due + link(cid) + self._idle * (DEADLINES - 1 - due)
        return stored(put, raw)

    # --- addresses -----------------------------------------------------------------------------------------

    def account_key(self, number: int) -> tuple[int, bytes]:
        """(signature type, robust address) of the account `number` (0 and up)."""
        kind = number % 3
        digest = blake2b(b"account %d %d" % (self.seed, number), digest_size=48).digest()
        if kind == 0:
            return SECP256K1, b"\x01" + digest[:20]
        if kind == 1:
            return BLS, b"\x03" + digest
        return DELEGATED, b"\x04\x0a" + digest[:20]

    def account_id(self, number: int) -> bytes:
        """The ID address of an account."""
        return b"\0" + uvarint(self.first_account + number)

    def miner_id(self, number: int) -> bytes:
        """The ID address of a miner."""
        return b"\0" + uvarint(FIRST_ID + number)

    # --- genesis -------------------------------------------------------------------------------------------

    def genesis(self, put: Put) -> State:
        """The state that the chain begins with; everything that never changes is put here too."""
        for cid, raw in self._objects.items():
            put(cid, raw)
        self._objects.clear()
        claims = ((self.miner_id(number), self._claim(number)) for number in range(self.sizes.miners))
        self._claims = LiveHamt.build(put, claims).root
        addresses = LiveHamt.build(put, self._addresses()).root
        init = self._store(put, [addresses, self.first_contract + self.sizes.holdings.contracts, self.network])
        reward, power = self._epoch(put, 0)
        singletons = {
            SYSTEM: self._actor("system", self._store(put, [self.manifest]), 0),
            INIT: self._actor("init", init, 0),
            REWARD: self._actor("reward", reward, 1_100_000_000 * FIL),
            CRON: self._actor("cron", self._store(put, [[[POWER, 5]]]), 0),
            POWER: self._actor("storagepower", power, 0),
            BURNT: self._actor("account", self._store(put, [BURNT]), 0),
            **self._holders(put),
        }

        def actors() -> Iterator[tuple[bytes, bytes]]:
            yield from singletons.items()
            for number in range(self.sizes.miners):
                put(*self._info(number))
                head = self._first_state(put, number)
                yield self.miner_id(number), self._actor("storageminer", head, 10 * FIL)
            for number in range(self.sizes.accounts):
                yield self.account_id(number), self._account(put, number)
            for number, (address, head) in enumerate(contract_states(put, self.sizes.holdings)):
                record = b"\x85" + self._code["evm"] + link(head) + b"\1" + _big(FIL) + encode(address)
                yield b"\0" + uvarint(self.first_contract + number), record

        return self._state(put, LiveHamt.build(put, actors()))

    def _claim(self, number: int) -> bytes:
        """What a miner has in the power actor: raw and quality-adjusted bytes."""
        many = working_sectors(self.sizes.holdings.sectors) if number == 0 else 0
        return encode([8, *[encode_bigint((many or _SECTORS) * SECTOR_BYTES)] * 2])

    def _first_state(self, put: Put, number: int) -> Cid:
        """A miner's state of the genesis. The first one's has many sectors where it is asked for."""
        many = self.sizes.holdings.sectors
        if number or not many:
            return self._miner(put, number, 0, self._first_sectors, self._first_deadlines, 0)
        sectors, deadlines, used = large_miner(
            put,
            many,
            lambda put, values, bits: write_amt(put, values, 3, bits),
            lambda one: _sealed(blake2b(b"sector %d" % one, digest_size=32).digest()),
        )
        return self._miner(put, number, 0, sectors, deadlines, 0, link(used))

    def _holders(self, put: Put) -> dict[bytes, bytes]:
        """The market, the registry, the datacap token and the reserve, where something is held in them."""
        holdings, sizes = self.sizes.holdings, self.sizes
        parties = Parties(
            client=lambda at: self.first_account + at % sizes.accounts,
            provider=lambda at: FIRST_ID + at % sizes.miners,
            write_amt=lambda put, values, bits: write_amt(put, values, 3, bits),
        )
        found: dict[bytes, bytes] = {}
        if holdings.deals:
            escrow = holdings.deals * (FIL // 25)
            # what circulates is the total without the reserve
            found[RESERVE] = self._actor("account", self._store(put, [RESERVE]), 300_000_000 * FIL)
            found[MARKET] = self._actor("storagemarket", market_state(put, holdings.deals, parties), escrow)
        if holdings.claims:
            registry, token = (make(put, holdings.claims, parties) for make in (registry_state, datacap_state))
            found[VERIFREG] = self._actor("verifiedregistry", registry, 0)
            found[DATACAP] = self._actor("datacap", token, 0)
        return found

    def _addresses(self) -> Iterator[tuple[bytes, bytes]]:
        for number in range(self.sizes.miners):
            digest = blake2b(b"miner %d %d" % (self.seed, number), digest_size=20).digest()
            yield b"\x02" + digest, encode(FIRST_ID + number)
        for number in range(self.sizes.accounts):
            yield self.account_key(number)[1], encode(self.first_account + number)
        for number in range(self.sizes.holdings.contracts):
            yield contract_address(number), encode(self.first_contract + number)

    def _state(self, put: Put, actors: LiveHamt) -> State:
        return State(actors, self._store(put, [STATE_VERSION, actors.root, self.empty]))

    def _actor(self, name: str, head: Cid, balance: int) -> bytes:
        return b"\x85" + self._code[name] + link(head) + b"\0" + _big(balance) + b"\xf6"

    def _account(self, put: Put, number: int) -> bytes:
        kind, address = self.account_key(number)
        balance = 1_000_000 * FIL
        if kind == DELEGATED:
            return b"\x85" + self._code["ethaccount"] + link(self.empty) + b"\0" + _big(balance) + encode(address)
        return self._actor("account", self._store(put, [address]), balance)

    def _info(self, number: int) -> tuple[Cid, bytes]:
        """A miner's info, which never changes."""
        owner = _octets(self.account_id(number % self.sizes.accounts))
        peer = blake2b(b"peer %d %d" % (self.seed, number), digest_size=32).digest()
        raw = b"\x8e" + owner * 2 + b"\x80\xf6" + _octets(b"\0\x24\x08\x01\x12\x20" + peer) + _INFO + owner + _TERM
        return cid_of(raw), raw

    def _miner(
        self, put: Put, number: int, epoch: int, sectors: Cid, deadlines: Cid, locked: int, allocated: bytes = b""
    ) -> Cid:
        """A miner's state. `allocated`: the link to the sector numbers ever used; those of a small miner if empty."""
        raw = (
            b"\x8f"
            + link(self._info(number)[0])
            + b"\x40"
            + _big(locked)
            + b"\xf6\x40"
            + _big(_SECTORS * FIL // 5)
            + link(self._empty_map.root)
            + self._cleanup
            + (allocated or self._allocated)
            + link(sectors)
            + encode(epoch // 2880 * 2880)
            + encode(epoch % 2880 // 60)
            + link(deadlines)
            + b"\x40\xf5"
        )
        return stored(put, raw)

    # --- an epoch ------------------------------------------------------------------------------------------

    def _epoch(self, put: Put, epoch: int) -> tuple[Cid, Cid]:
        """The states of the reward and the power actor at an epoch."""
        smoothed = [encode_bigint(100 * FIL << 128), b""]
        minted = encode_bigint(epoch * 100 * FIL)
        totals = [encode_bigint(330_000_000 * FIL), encode_bigint(770_000_000 * FIL)]
        baseline = encode_bigint(1 << 61)
        reward = [
            minted, minted, epoch, baseline, encode_bigint(100 * FIL), smoothed, baseline, epoch, minted, *totals,
        ]  # fmt: skip
        raw = encode_bigint(_TOTAL_POWER)
        pledge = encode_bigint(self.sizes.miners * FIL)
        estimate = [encode_bigint(_TOTAL_POWER << 128), b""]
        power = [
            raw, raw, raw, raw, pledge, raw, raw, pledge, estimate, self.sizes.miners, self.sizes.miners, 0, 0,
            self._empty_map.root, epoch, self._claims, None,
        ]  # fmt: skip
        return self._store(put, reward), self._store(put, power)

    def execute(self, put: Put, random: Random, state: State, work: Work) -> Done:
        """What comes after the messages of a tipset; `random` decides what they do."""
        ledger = _Ledger(state.actors)
        receipts: list[Any] = []
        total = 0
        for one in work.messages:
            message = one.message
            gas = message.gas_limit * 4 // 5
            total += gas
            ledger.charge(one, gas, work.base_fee)
            if random.random() < 0.03:
                receipts.append([random.choice((16, 18, 33)), b"", gas, None])
                continue
            ledger.move(one.sender, one.receiver, message.value)
            events = self._events(put, random, one.receiver) if message.method == PROVE_COMMIT else None
            share = self.sizes.logging_calls
            if message.method == INVOKE_CONTRACT and share and random.random() < share:
                events = self._log(put, random, one.receiver)
            receipts.append([0, b"\x80" if message.method else b"", gas, events])
        for miner, wins in work.winners:
            ledger.move(REWARD, miner, wins * 20 * FIL)
        reward, power = self._epoch(put, work.epoch + 1)
        ledger.set_head(REWARD, reward)
        ledger.set_head(POWER, power)
        miners, updates, most = self.sizes.miners, self.sizes.miner_updates, self.sizes.most_miner_updates
        if most > updates:
            updates = random.randint(updates, most)
        # what a miner with many sectors has never changes
        first = 1 if self.sizes.holdings.sectors else 0
        for number in random.sample(range(first, miners), min(updates, miners - first)):
            head = self._new_sectors(put, random, number, work.epoch)
            ledger.set_head(self.miner_id(number), head)
        actors = state.actors.set(put, ledger.records())
        return Done(self._state(put, actors), write_amt(put, receipts, version=0), total)

    def _new_sectors(self, put: Put, random: Random, number: int, epoch: int) -> Cid:
        """A miner's state after one of its sectors was sealed anew."""
        sectors = list(self._sectors)
        at = random.randrange(_SECTORS)
        sectors[at] = sectors[at].replace(bytes((at,)) * 32, random.randbytes(32))
        root = self._sectors_root(put, sectors)
        deadlines = self._deadlines(put, random.randrange(DEADLINES), root)
        return self._miner(put, number, epoch, root, deadlines, random.randrange(FIL))

    def _events(self, put: Put, random: Random, miner: bytes) -> Cid:
        """Events such as a miner emits for sectors that become active (FIP-0083)."""
        emitter = read_uvarint(miner, 1)[0]
        found = []
        for _ in range(_EVENTS):
            sector = encode(random.randrange(1 << 20))
            found.append([emitter, [[3, "$type", 0x51, encode("sector-activated")], [3, "sector", 0x51, sector]]])
        return write_amt(put, found, 3, 5)

    @staticmethod
    def _log(put: Put, random: Random, contract: bytes) -> Cid:
        """One event as the EVM actor emits it: a topic and a word of data."""
        entries = [[3, key, RAW, random.randbytes(32)] for key in ("t1", "d")]
        return write_amt(put, [[read_uvarint(contract, 1)[0], entries]], 3, 5)


class _Ledger:
    """Records of actors while a tipset is executed: each is read once and written once."""

    def __init__(self, actors: LiveHamt) -> None:
        self._actors = actors
        self._found: dict[bytes, list[Any]] = {}

    def _record(self, address: bytes) -> list[Any]:
        found = self._found.get(address)
        if found is None:
            raw = self._actors.get(address)
            if raw is None:
                raise KeyError(f"no actor {address.hex()}")
            found = self._found[address] = decode(raw)
        return found

    def charge(self, one: SimMessage, gas: int, base_fee: int) -> None:
        """The sender's nonce and the gas it pays: the base fee is burnt, the premium goes to the rewards."""
        premium = one.message.gas_premium
        self._record(one.sender)[2] += 1
        self._add(one.sender, -gas * (base_fee + premium))
        self._add(BURNT, gas * base_fee)
        self._add(REWARD, gas * premium)

    def move(self, sender: bytes, receiver: bytes, value: int) -> None:
        """Move attoFIL."""
        self._add(sender, -value)
        self._add(receiver, value)

    def set_head(self, address: bytes, head: Cid) -> None:
        """Give an actor another state."""
        self._record(address)[1] = head

    def _add(self, address: bytes, value: int) -> None:
        record = self._record(address)
        record[3] = encode_bigint(decode_bigint(record[3]) + value)

    def records(self) -> dict[bytes, bytes]:
        """What changed, encoded."""
        return {
            address: b"\x85" + link(code) + link(head) + encode(nonce) + _octets(balance) + encode(delegated)
            for address, (code, head, nonce, balance, delegated) in self._found.items()
        }
