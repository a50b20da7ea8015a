"""Miners, balances and supply read from states made here, so that no answer hangs on what a recording holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chain.actors  # noqa: F401  (registers the kinds)
from blockstore.cid import Cid, cid_of
from chain.actors.adt import NotAnId, id_key, read_int_key, read_uint_key, uint_key
from chain.actors.codes import bundle_of
from chain.actors.load import POWER, States, WrongKind
from chain.actors.methods import KINDS, OldActors
from chain.actors.miner_state import PROVING_PERIOD, Miner, MinerError, deadline_info, to_newest_json
from chain.actors.schema import to_cbor, type_of
from chain.address import Address, from_id
from chain.errors import ActorNotFound, BadObject
from chain.ipld import bitfield
from chain.ipld.amt import amt_build
from chain.ipld.bigint import encode_bigint
from chain.ipld.dag_cbor import encode
from chain.ipld.hamt import hamt_build
from chain.ipld.tree_nodes import Raw
from chain.state.state_tree import StateTree
from tests.chain.test_actors_economy import code_on
from tests.chain.tree_tools import Heap

MINER = from_id(1000)
WALLET = from_id(101)
SECTORS = (0, 1, 2, 5, 6, 40, 41, 1000, 70_000)


def made(version: int, name: str, **fields: Any) -> dict[str, Any]:
    """A value of a miner's type: zero but for `fields`."""
    value: dict[str, Any] = type_of("miner", name, version).zero()
    return value | {field: part for field, part in fields.items() if field in value}


class World(Heap):
    """A state tree with one miner, written object by object."""

    def object(self, data: bytes) -> Cid:
        cid = cid_of(data)
        self.put(cid, data)
        return cid

    def typed(self, version: int, name: str, value: Any) -> Cid:
        return self.object(to_cbor(type_of("miner", name, version), value))

    async def array(self, version: int, name: str, values: dict[int, Any], bits: int) -> Cid:
        kind = type_of("miner", name, version)
        items = {at: Raw(to_cbor(kind, value)) for at, value in values.items()}
        return await amt_build(self.put, items, version=3, bit_width=bits)

    def sector(self, version: int, number: int, **fields: Any) -> dict[str, Any]:
        sealed = cid_of(b"sealed %d" % number)
        return made(
            version, "SectorOnChainInfo", SectorNumber=number, SealedCID=sealed, Expiration=number * 10, **fields
        )

    async def expirations(self, version: int, sets: dict[int, tuple[list[int], list[int]]]) -> Cid:
        values = {
            epoch: made(
                version,
                "ExpirationSet",
                OnTimeSectors=bitfield.from_bits(on_time),
                EarlySectors=bitfield.from_bits(early),
            )
            for epoch, (on_time, early) in sets.items()
        }
        return await self.array(version, "ExpirationSet", values, 4)

    async def deadlines(self, version: int, partitions: dict[int, dict[int, dict[str, Any]]]) -> Cid:
        nothing = await amt_build(self.put, {}, version=3, bit_width=3)
        snapshot = await amt_build(self.put, {}, version=3, bit_width=2)
        due = []
        for index in range(48):
            root = (
                await self.array(version, "Partition", partitions.get(index, {}), 3) if index in partitions else nothing
            )
            links = {
                field: nothing for field, zero in type_of("miner", "Deadline", version).zero().items() if zero is None
            }
            value = made(version, "Deadline", **links) | {
                "Partitions": root,
                "OptimisticPoStSubmissionsSnapshot": snapshot,
            }
            due.append(self.typed(version, "Deadline", value))
        return self.typed(version, "Deadlines", {"Due": due})

    def partition(self, version: int, **fields: Any) -> dict[str, Any]:
        links = {
            field: cid_of(b"unread")
            for field, zero in type_of("miner", "Partition", version).zero().items()
            if zero is None
        }
        return made(version, "Partition", **(links | fields))


def bits(*numbers: int) -> bytes:
    return bitfield.from_bits(numbers)


async def world(version: int, balance: int = 1000, **fields: Any) -> tuple[World, States]:
    w = World()
    first = w.partition(
        version,
        Sectors=bits(0, 1, 2, 5),
        Faults=bits(1),
        Recoveries=bits(1),
        Unproven=bits(2),
        Terminated=bits(5),
        ExpirationsEpochs=await w.expirations(version, {100: ([], [1]), 500: ([0, 1, 2], [])}),
    )
    second = w.partition(
        version, Sectors=bits(40, 41), ExpirationsEpochs=await w.expirations(version, {900: ([40, 41], [])})
    )
    links = {
        field: cid_of(b"unread")
        for field, zero in type_of("miner", "State", version).zero().items()
        if zero is None and not (field == "VestingFunds" and version >= 16)
    }
    state = made(version, "State", **links) | {
        "Sectors": await w.array(version, "SectorOnChainInfo", {n: w.sector(version, n) for n in SECTORS}, 5),
        "Deadlines": await w.deadlines(version, {3: {0: first, 1: second}, 7: {0: second}}),
        "AllocatedSectors": w.object(encode(bits(*SECTORS, 77))),
        "ProvingPeriodStart": 4000,
        "CurrentDeadline": 5,
        **fields,
    }
    head = w.typed(version, "State", state)
    wallet = w.object(encode([Address(b"\1" + bytes(20))]))
    network = "mainnet"
    bundle_code = {name: code_at(network, version, name) for name in ("storageminer", "account")}
    actors = {
        bytes(MINER): [bundle_code["storageminer"], head, 0, encode_bigint(balance), None],
        bytes(WALLET): [bundle_code["account"], wallet, 0, b"", None],
    }
    root = w.object(encode([5, hamt_build(w.put, actors, 5), w.object(b"\xa0")]))
    return w, States(w, await StateTree.load(w, root), 25, "t")


def code_at(network: str, version: int, name: str) -> Cid:
    found = bundle_of(network, version)
    assert found is not None
    return found.actors[name]


async def miner_of(version: int, **options: Any) -> tuple[World, Miner]:
    w, states = await world(version, **options)
    return w, Miner(w, await states.load(MINER, "miner"))


@pytest.fixture(params=[9, 12, 15, 16, 19])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


async def test_sectors(version: int) -> None:
    _, miner = await miner_of(version)
    leaves = miner.sector_leaves(lambda cid: None)
    assert [sector["SectorNumber"] async for _, _, part in leaves for sector in part] == list(SECTORS)
    found = await miner.sector(41)
    assert found is not None
    assert found["Expiration"] == 410
    assert await miner.sector(42) is None
    with pytest.raises(MinerError):
        await miner.sector(1 << 63)


@given(st.sets(st.sampled_from(SECTORS)), st.sets(st.integers(0, 80_000), max_size=2))
async def test_some_sectors_are_all_there_or_the_first_missing_is_named(there: set[int], others: set[int]) -> None:
    _, miner = await miner_of(19)
    wanted = there | others
    missing = sorted(wanted - set(SECTORS))
    if missing:
        with pytest.raises(MinerError, match=f"can't find sector {missing[0]}$"):
            [part async for part in miner.some_sectors(bitfield.spans(bitfield.from_bits(wanted)))]
    else:
        found = [one async for part in miner.some_sectors(bitfield.spans(bitfield.from_bits(wanted))) for one in part]
        assert [sector["SectorNumber"] for sector in found] == sorted(wanted)


async def test_partitions_and_expirations(version: int) -> None:
    _, miner = await miner_of(version)
    where = [(d, p) async for d, p, _ in miner.all_partitions()]
    assert where == [(3, 0), (3, 1), (7, 0)]
    assert await miner.find_sector(41) == (3, 1)
    with pytest.raises(MinerError, match="sector 42 not due at any deadline"):
        await miner.find_sector(42)
    assert await miner.expiration(0) == (500, 0)
    assert await miner.expiration(1) == (500, 100)
    with pytest.raises(MinerError, match="failed to find sector 5"):  # terminated
        await miner.expiration(5)
    with pytest.raises(MinerError, match="invalid deadline 48"):
        await miner.deadline(48)
    assert await miner.disputable_proofs([await miner.deadline(3)] * 2) == [0, 0]
    assert bitfield.has(await miner.allocated(), 77)


async def test_few_round_trips_for_all_partitions() -> None:
    w, miner = await miner_of(19)
    before = w.trips
    assert [at async for at in miner.all_partitions()]
    assert w.peak >= 48
    assert w.trips - before == 3  # the list of deadlines, the deadlines, the roots of their partitions


async def test_others_go_on_after_each_partition() -> None:
    w, miner = await miner_of(19)
    turns = 0

    async def checkpoint() -> None:
        nonlocal turns
        turns += 1

    w.checkpoint = checkpoint  # type: ignore[attr-defined]
    seen = [turns async for _ in miner.all_partitions()]
    assert seen == [0, 1, 2]
    assert turns == 3


async def test_funds_before_they_moved_into_the_state() -> None:
    w = World()
    table = {"Funds": [{"Epoch": 10, "Amount": 1}, {"Epoch": 20, "Amount": 2}, {"Epoch": 30, "Amount": 4}]}
    held = w.typed(15, "VestingFunds", table)
    both, miner = await miner_of(15, VestingFunds=held)
    both.objects |= w.objects
    assert [await miner.vested(epoch) for epoch in (10, 11, 20, 21, 31)] == [0, 1, 1, 3, 7]


async def test_funds_in_the_state() -> None:
    tail = World()
    rest = tail.object(encode([[20, encode_bigint(2)], [30, encode_bigint(4)]]))
    funds = {"Head": {"Epoch": 10, "Amount": 1}, "Tail": rest}
    both, miner = await miner_of(19, VestingFunds=funds)
    both.objects |= tail.objects
    assert [await miner.vested(epoch) for epoch in (10, 11, 20, 21, 31)] == [0, 1, 1, 3, 7]
    _, without = await miner_of(19)
    assert await without.vested(1000) == 0


async def test_available_balance() -> None:
    _, miner = await miner_of(19, balance=100, LockedFunds=20, PreCommitDeposits=30, InitialPledge=10, FeeDebt=50)
    assert miner.available() == -10
    _, broken = await miner_of(19, balance=50, LockedFunds=20, PreCommitDeposits=30, InitialPledge=10)
    with pytest.raises(MinerError, match="negative unlocked balance -10"):
        broken.available()


async def test_wrong_kinds_and_missing_actors() -> None:
    _, states = await world(19)
    with pytest.raises(WrongKind, match="actor code is not miner: account"):
        await states.load(WALLET, "miner")
    with pytest.raises(ActorNotFound, match="actor not found"):
        await states.load(POWER, "power")


async def test_actors_before_those_decoded() -> None:
    _, states = await world(9)
    actor = await states.actor(MINER)
    old = type(actor)(code_at("mainnet", 8, "storageminer"), actor.head, 0, 0)
    with pytest.raises(OldActors, match="storageminer of actors version 8"):
        await states.state_of(old, "miner")
    unknown = type(actor)(cid_of(b"unknown"), actor.head, 0, 0)
    with pytest.raises(ActorNotFound):  # no system actor here to ask for the manifest
        await states.kind_of(unknown)


def test_old_sectors_have_the_newest_fields() -> None:
    w = World()
    old = w.sector(9, 5, ReplacedDayReward=7)
    newest = to_newest_json("SectorOnChainInfo", old)
    assert newest["ReplacedDayReward"] is None
    assert newest["DailyFee"] == "0"
    assert "ReplacedSectorAge" not in newest
    since = to_newest_json("SectorOnChainInfo", w.sector(12, 5, ReplacedDayReward=7))
    assert since["ReplacedDayReward"] == "7"
    assert list(newest) == list(since)


@given(st.integers(-5000, 10_000), st.integers(0, 60), st.integers(0, 30_000))
async def test_a_deadline_that_has_not_elapsed(start: int, index: int, epoch: int) -> None:
    _, miner = await miner_of(19, ProvingPeriodStart=start, CurrentDeadline=index)
    found = miner.proving_deadline(epoch)
    assert found["Index"] == index
    assert found["CurrentEpoch"] == epoch
    if index < 48:
        assert found["Close"] - found["Open"] == 60
        assert (found["PeriodStart"] - start) % PROVING_PERIOD == 0
        own = deadline_info(start, index, epoch)
        assert found["Close"] > epoch
        assert found == own or own["Close"] <= epoch
    else:
        assert found["Open"] == found["Close"]


@given(st.integers(0, (1 << 63) - 1))
def test_keys(number: int) -> None:
    assert read_uint_key(uint_key(number)) == number
    assert id_key(from_id(number)) == uint_key(number)
    assert read_int_key(uint_key(number)) == (number // 2 if number % 2 == 0 else -(number + 1) // 2)


def test_bad_keys() -> None:
    with pytest.raises(NotAnId):
        id_key(Address(b"\1" + bytes(20)))
    for bad in (b"", b"\x80", b"\x01\x01"):
        with pytest.raises(BadObject):
            read_uint_key(bad)


def test_codes_used_here_are_those_of_the_kinds() -> None:
    assert code_on("mainnet", "storageminer") == code_at("mainnet", 16, "storageminer")
    assert {kind.manifest for kind in KINDS.values()} >= {"storageminer", "account"}
