"""The simulated chain: whole, deterministic, and its head changes tell the same story as its blocks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.cid import DAG_CBOR, RAW, Cid, verify
from blockstore.errors import Missing
from chain.block import decode_header
from chain.errors import BadRequest
from chain.ipld.amt import Amt
from chain.ipld.bigint import decode_bigint
from chain.ipld.dag_cbor import decode, encode, links
from chain.ipld.hamt import Hamt, hamt_build
from chain.ipld.tree_nodes import Raw
from chain.message import receipt_from_fields
from chain.tipset import Tipset, TipsetKey
from chain.tipset_messages import load_tipset_messages
from devnode.sim_chain import Change, SimSettings, SimulatedChain
from devnode.sim_hamt import LiveHamt
from devnode.sim_holdings import contract_address
from devnode.sim_state import BURNT, INIT, SYSTEM
from devnode.simulate import SimulatedNode, start_simulated
from rpc.server.dispatch import Dispatcher

SMALL = SimSettings(accounts=20, miners=5, miner_updates=2, messages=3)


class Made:
    """A chain and all its objects: an ObjectReader over them."""

    def __init__(self, sim: SimSettings = SMALL) -> None:
        self.objects: dict[Cid, bytes] = {}
        self.chain = SimulatedChain(sim, self.objects.__setitem__)

    async def get(self, cid: bytes) -> bytes:
        try:
            return self.objects[Cid(cid)]
        except KeyError:
            raise Missing(Cid(cid)) from None

    async def get_many(self, cids: Any) -> list[bytes]:
        return [await self.get(cid) for cid in cids]

    def tipset(self, key: TipsetKey) -> Tipset:
        return Tipset.of([decode_header(cid, self.objects[cid]) for cid in key.cids])

    def down(self, tipset: Tipset) -> list[Tipset]:
        """A tipset and its ancestors, read from the blocks; genesis last."""
        found = [self.tipset(tipset.key)]
        while found[-1].height:
            found.append(self.tipset(found[-1].parents))
        return found

    def missing(self, roots: list[Cid]) -> set[Cid]:
        """What is linked to and not there, all of it verified on the way."""
        seen: set[Cid] = set()
        lost = set()
        while roots:
            cid = roots.pop()
            if cid in seen or cid.codec not in (DAG_CBOR, RAW):
                continue
            seen.add(cid)
            if cid not in self.objects:
                lost.add(cid)
                continue
            verify(cid.multihash, self.objects[cid])
            if cid.codec == DAG_CBOR:
                roots += links(self.objects[cid])
        return lost


def test_a_walk_from_every_head_misses_nothing_but_what_was_before_genesis() -> None:
    made = Made(SimSettings(accounts=20, miners=5, miner_updates=2, messages=3, reorg_rate=0.2, late_rate=0.2))
    heads = [made.chain.genesis]
    for _ in range(60):
        heads += made.chain.advance().applies
    before = made.chain.genesis.blocks[0].parents[0]
    assert made.missing([block.cid for tipset in heads for block in tipset.blocks]) == {before}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("extend"), st.integers(0, 3)),
        st.tuples(st.just("reorg"), st.integers(1, 4)),
        st.tuples(st.just("late"), st.just(0)),
        st.tuples(st.just("advance"), st.just(0)),
    ),
    max_size=15,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 1000))
def test_applying_the_changes_gives_the_chain(steps: list[tuple[str, int]], seed: int) -> None:
    made = Made(SimSettings(seed=seed, accounts=6, miners=2, miner_updates=1, messages=2, reorg_depth=4))
    chain = made.chain
    held = [chain.genesis.key]
    for step, number in steps:
        before = chain.head
        change: Change
        if step == "extend":
            change = chain.extend(nulls=number)
            assert change.applies[0].height == before.height + 1 + number
        elif step == "reorg":
            if number >= len(held):
                continue
            change = chain.reorg(number)
            assert len(change.reverts) == number
            assert len(change.applies) > number
            assert chain.weight(chain.head) > chain.weight(before)
        elif step == "late":
            if before.height == 0:
                continue
            change = chain.late_block()
            assert set(before.key.cids) < set(change.applies[0].key.cids)
        else:
            change = chain.advance()
        for tipset in change.reverts:
            assert held.pop() == tipset.key
        for tipset in change.applies:
            assert tipset.parents == held[-1]
            held.append(tipset.key)
        assert held[-1] == chain.head.key
    assert [tipset.key for tipset in made.down(chain.head)] == held[::-1]


def test_the_same_seed_makes_the_same_objects_and_another_seed_others() -> None:
    runs = []
    for seed in (7, 7, 8):
        made = Made(SimSettings(seed=seed, accounts=20, miners=5, miner_updates=2, messages=3))
        for _ in range(30):
            made.chain.advance()
        runs.append((made.chain.head.key, made.objects))
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]


async def test_receipts_nonces_and_balances_follow_from_the_messages() -> None:
    made = Made(SimSettings(accounts=12, miners=3, miner_updates=1, messages=5, late_rate=0.3, max_blocks=3))

    async def no_id(root: Cid, address: bytes) -> bytes:
        raise AssertionError("no sender is given by ID")

    async def actors(root: Cid) -> dict[bytes, list[Any]]:
        version, tree, _ = decode(made.objects[root])
        assert version == 5
        return {key: value async for key, value in Hamt.load(made, tree).items()}

    for _ in range(25):
        made.chain.advance()
    chain = made.down(made.chain.head)
    total = None
    doubled = events = 0
    for child, tipset in pairwise(chain):
        messages = await load_tipset_messages(made, tipset, made.chain.network, no_id)
        listed = sum([len(await _listed(made, block.messages)) for block in tipset.blocks])
        doubled += listed - len(messages)
        array = Amt.load(made, child.parent_message_receipts, version=0)
        receipts = [receipt_from_fields(value) async for _, value in array.items()]
        assert len(receipts) == len(messages)
        events += sum(receipt.events_root is not None for receipt in receipts)
        before, after = await actors(tipset.parent_state_root), await actors(child.parent_state_root)
        init = decode(made.objects[Cid(before[INIT][1])])
        ids = {key: b"\0" + _uvarint(number) async for key, number in Hamt.load(made, init[0]).items()}
        sent: dict[bytes, int] = {}
        for one in messages:
            sender = ids[one.message.from_]
            assert one.message.nonce == before[sender][2] + sent.get(sender, 0)
            sent[sender] = sent.get(sender, 0) + 1
        assert {key: after[key][2] - before[key][2] for key in sent} == sent
        sums = [sum(decode_bigint(actor[3]) for actor in some.values()) for some in (before, after)]
        assert sums[0] == sums[1] == (total or sums[0])
        total = sums[0]
        assert decode_bigint(after[BURNT][3]) >= decode_bigint(before[BURNT][3])
        assert child.parent_weight == made.chain.weight(tipset)
    assert doubled > 0
    assert events > 0


def _uvarint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out += bytes((number & 0x7F | 0x80,))
        number >>= 7
    return out + bytes((number,))


async def _listed(made: Made, meta: Cid) -> list[bytes]:
    found = []
    for root in decode(made.objects[meta]):
        found += [value async for _, value in Amt.load(made, root, version=0).items()]
    return found


async def test_the_manifest_names_the_code_of_every_actor() -> None:
    made = Made()
    _, tree, _ = decode(made.objects[made.chain.genesis.parent_state_root])
    actors = Hamt.load(made, tree)
    system = await actors.get(SYSTEM)
    manifest = decode(made.objects[Cid(decode(made.objects[Cid(system[1])])[0])])
    codes = {code: name for name, code in manifest}
    kinds = [codes[value[0]] async for _, value in actors.items()]
    assert kinds.count("storageminer") == SMALL.miners
    assert kinds.count("account") + kinds.count("ethaccount") == SMALL.accounts + 1
    assert {"system", "init", "reward", "cron", "storagepower"} <= set(kinds)


@settings(max_examples=60, deadline=None)
@given(
    items=st.dictionaries(st.binary(min_size=1, max_size=60), st.integers(0, 1 << 40), max_size=150),
    changes=st.dictionaries(st.binary(min_size=1, max_size=60), st.integers(0, 1 << 40), max_size=60),
)
def test_the_live_map_has_the_roots_of_the_plain_writer(items: dict[bytes, int], changes: dict[bytes, int]) -> None:
    stored: dict[Cid, bytes] = {}
    first = LiveHamt.build(stored.__setitem__, ((key, encode(value)) for key, value in items.items()))
    root = first.root
    second = first.set(stored.__setitem__, {key: encode(value) for key, value in changes.items()})
    for live, content in ((first, items), (second, {**items, **changes})):
        plain: dict[Cid, bytes] = {}
        assert live.root == hamt_build(plain.__setitem__, {k: Raw(encode(v)) for k, v in content.items()})
        assert plain.keys() <= stored.keys()
        assert all(live.get(key) == encode(value) for key, value in content.items())
    assert first.root == root
    assert first.get(b"") is None


def test_a_size_is_kept_to() -> None:
    sim = SimSettings.for_size(3000, 600)
    made = Made(sim)
    assert abs(sim.accounts + sim.miners - 3000) <= 1
    counts = []
    for _ in range(8):
        before = len(made.objects)
        made.chain.extend()
        counts.append(len(made.objects) - before)
    assert 0.7 * 600 < sum(counts[1:]) / 7 < 1.3 * 600


@pytest.mark.parametrize(
    ("name", "value"), [("null_rate", 1.0), ("reorg_rate", -0.1), ("accounts", 0), ("max_blocks", 0), ("miners", 0)]
)
def test_a_setting_that_makes_no_sense_is_named(name: str, value: float) -> None:
    with pytest.raises(BadRequest, match=name):
        SimSettings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [0, 2, 4])
def test_a_reorg_deeper_than_the_chain_or_the_setting_is_refused(depth: int) -> None:
    made = Made()
    made.chain.extend()
    with pytest.raises(BadRequest, match="reorg"):
        made.chain.reorg(depth)


HOLDINGS = SimSettings(accounts=20, miners=5, miner_updates=2, messages=3, deals=400, contracts=12)


async def _asked(made: SimulatedNode, method: str, *params: Any) -> Any:
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": [*params]})
    answer = orjson.loads((await Dispatcher(made._services).http(1, body))[1])
    assert "error" not in answer, answer
    return answer["result"]


async def test_a_miner_with_many_sectors_has_what_its_deadlines_tell() -> None:
    sectors = 10_000
    made = await start_simulated(replace(HOLDINGS, sectors=sectors, miner_updates=5), epochs=3)
    ask = partial(_asked, made)
    try:
        gone = sum(number % 100 < 2 for number in range(sectors))
        faulty = sum(number % 10 < 2 and number % 100 >= 2 for number in range(sectors))
        count = await ask("Filecoin.StateMinerSectorCount", "t01000", [])
        assert count == {"Live": sectors - gone, "Active": sectors - gone - faulty, "Faulty": faulty}
        assert len(await ask("Filecoin.StateMinerSectors", "t01000", None, [])) == sectors
        assert len(await ask("Filecoin.StateMinerActiveSectors", "t01000", [])) == sectors - gone - faulty
        assert await ask("Filecoin.StateMinerAllocated", "t01000", []) == [0, sectors]
        where = await ask("Filecoin.StateSectorPartition", "t01000", 2349 * 2 + 1, [])
        assert where == {"Deadline": 3, "Partition": 0}
        assert await ask("Filecoin.StateSectorExpiration", "t01000", 7, []) == {"OnTime": 1_500_000, "Early": 0}
        power = await ask("Filecoin.StateMinerPower", "t01000", [])
        assert int(power["MinerPower"]["RawBytePower"]) == (sectors - gone - faulty) * (32 << 30)
        other = await ask("Filecoin.StateMinerSectorCount", "t01001", [])
        assert other == {"Live": 8, "Active": 8, "Faulty": 0}
    finally:
        await made.stop()


async def test_holdings_are_what_they_are_on_a_real_network() -> None:
    made = await start_simulated(HOLDINGS, epochs=3)
    ask = partial(_asked, made)
    try:
        deals = await ask("Filecoin.StateMarketDeals", [])
        assert len(deals) == 400
        assert deals["7"]["Proposal"]["Provider"] == "t01000"
        assert deals["7"]["State"]["SectorStartEpoch"] == 110
        assert deals["50"]["State"]["SectorStartEpoch"] == -1
        assert await ask("Filecoin.StateGetAllocationIdForPendingDeal", 50, []) == 51
        first = "t0" + str(made.chain._maker.first_account)
        assert set(await ask("Filecoin.StateMarketBalance", first, [])) == {"Escrow", "Locked"}
        assert len(await ask("Filecoin.StateMarketParticipants", [])) == 25
        allocations = await ask("Filecoin.StateGetAllocations", first, [])
        assert len(allocations) == 100 == len(await ask("Filecoin.StateGetAllAllocations", []))
        assert len(await ask("Filecoin.StateGetAllClaims", [])) == 300
        assert len(await ask("Filecoin.StateGetClaims", "t01000", [])) >= 100
        assert int(await ask("Filecoin.StateVerifiedClientStatus", first, [])) > 0
        assert int(await ask("Filecoin.StateVerifierStatus", first, [])) == 1 << 50
        assert int((await ask("Filecoin.StateVMCirculatingSupplyInternal", []))["FilLocked"]) > 0
        for number in (0, 11):
            contract = "0x" + contract_address(number)[2:].hex()
            assert len(await ask("eth_getCode", contract, "latest")) == 2 + 2 * 6000
            assert int(await ask("eth_getStorageAt", contract, "0x0", "latest"), 16) == number + 1
    finally:
        await made.stop()
    reader = Made(HOLDINGS)
    assert reader.missing([reader.chain.genesis.parent_state_root]) == set()
