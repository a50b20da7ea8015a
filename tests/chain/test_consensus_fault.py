"""Consensus faults, by headers that this test signs with a key of its own as a recorded miner's worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import blspy
import pytest

from blockstore.cid import Cid, cid_of
from chain.actors.load import States
from chain.actors.miner_state import Miner
from chain.address import Address, bls, from_id
from chain.block import BlockHeader, encode_header
from chain.consensus.fault import DOUBLE_FORK_MINING, PARENT_GRINDING, TIME_OFFSET_MINING, find_fault
from chain.ipld.bigint import encode_bigint
from chain.ipld.dag_cbor import encode
from chain.signature import SIG_BLS
from chain.state.state_tree import StateTree
from chain.tipset import Tipset
from devnode.sim_hamt import LiveHamt
from rpc.services import Services
from tests.rpc.methods.test_recorded_chain import services_of

pytestmark = pytest.mark.recorded


@lru_cache(maxsize=2)
def _key(seed: int) -> Any:
    return blspy.BasicSchemeMPL.key_gen(bytes((seed,)) * 32)


def signed(header: BlockHeader, seed: int = 1) -> bytes:
    """The header's bytes, signed by the key of `seed`."""
    raw = encode_header(replace(header, block_sig=None))
    signature = bytes(blspy.BasicSchemeMPL.sign(_key(seed), raw))
    return encode_header(replace(header, block_sig=(SIG_BLS, signature)))


class Case:
    """A recorded chain, and a state in which the worker of the head's miner has the key of seed 1."""

    def __init__(self, services: Services, head: Tipset, root: Cid) -> None:
        self.services = services
        self.head = head
        self.root = root
        self.block = head.blocks[0]

    async def find(self, one: bytes, other: bytes, extra: bytes = b"", epoch: int | None = None) -> Any:
        found = await find_fault(
            self.services.objects, self.services.index, self.services.network, self.head, self.root,
            self.head.height if epoch is None else epoch, (one, other, extra),
        )  # fmt: skip
        return None if found is None else (found.miner, found.epoch, found.kind)


@pytest.fixture
async def case() -> Case:
    services = await services_of("devnet")
    head = (await services.head_source.current()).tipset
    block = head.blocks[0]
    tree = await StateTree.load(services.objects, head.parent_state_root)
    states = States(services.objects, tree, services.network.version_at(head.height))
    info = await Miner(services.objects, await states.load(Address(block.miner), "miner")).info()
    made: dict[bytes, bytes] = {}

    def put(cid: Cid, data: bytes) -> None:
        made[cid.multihash] = data

    def store(value: Any) -> Cid:
        data = encode(value)
        put(cid_of(data), data)
        return cid_of(data)

    records = {}
    for address in (from_id(0), Address(info["Worker"])):
        actor = await tree.get(address)
        head_cid = actor.head if address == from_id(0) else store([bls(bytes(_key(1).get_g1()))])
        records[bytes(address)] = encode([actor.code, head_cid, 0, encode_bigint(0), None])
    root = store([5, LiveHamt.build(put, records.items()).root, store([])])
    await services.store.put_many(list(made.items()), closed=False)
    return Case(services, head, root)


async def test_each_kind_of_fault(case: Case) -> None:
    block = case.block
    miner, height = block.miner, block.height
    other = replace(block, ticket=b"another ticket" * 2)
    assert await case.find(signed(block), signed(other)) == (miner, height, DOUBLE_FORK_MINING)
    earlier = replace(block, height=height - 1)
    assert await case.find(signed(earlier), signed(other)) == (miner, height, TIME_OFFSET_MINING)
    # a block that leaves out its miner's own sibling of one of its parents
    sibling = replace(block, height=height - 1, parents=(cid_of(b"grandparent"),))
    witness = replace(sibling, miner=from_id(77), ticket=b"of another miner")
    child = replace(block, parents=(cid_of(encode_header(witness)),))
    assert await case.find(signed(sibling), signed(child)) is None
    found = await case.find(signed(sibling), signed(child), encode_header(witness))
    assert found == (miner, height, PARENT_GRINDING)
    # a witness that shows nothing takes nothing away
    assert await case.find(signed(block), signed(other), encode_header(witness)) == (miner, height, DOUBLE_FORK_MINING)


def _height(by: int) -> Callable[[BlockHeader], BlockHeader]:
    return lambda header: replace(header, height=header.height + by)


@pytest.mark.parametrize(
    ("change", "seeds"),
    [
        pytest.param(lambda header: header, (1, 1), id="the same block"),
        pytest.param(lambda header: replace(header, ticket=b"x"), (2, 1), id="the first is signed by another"),
        pytest.param(lambda header: replace(header, ticket=b"x"), (1, 2), id="the second is signed by another"),
        pytest.param(lambda header: replace(header, miner=from_id(77)), (1, 1), id="another miner"),
        pytest.param(_height(-1), (1, 1), id="the first is the later one"),
        pytest.param(lambda header: replace(_height(1)(header), parents=()), (1, 1), id="no relation"),
        pytest.param(_height(10_000), (1, 1), id="look-back above the head"),
    ],
)
async def test_what_is_no_fault(
    change: Callable[[BlockHeader], BlockHeader], seeds: tuple[int, int], case: Case
) -> None:
    assert await case.find(signed(case.block, seeds[0]), signed(change(case.block), seeds[1])) is None


async def test_a_fault_counts_for_900_epochs(case: Case) -> None:
    pair = signed(case.block), signed(replace(case.block, ticket=b"x"))
    assert await case.find(*pair, epoch=case.block.height + 900) is not None
    assert await case.find(*pair, epoch=case.block.height + 901) is None


async def test_bytes_that_are_no_header(case: Case) -> None:
    good = signed(case.block)
    other = signed(replace(case.block, ticket=b"x"))
    bare = encode_header(replace(case.block, ticket=b"x", block_sig=None))
    for bad in (b"", b"\x80", b"\xff" * 40, good[:-1], good + b"\0", bare, encode([[]] * 16)):
        assert await case.find(bad, good) is None
        assert await case.find(good, bad) is None
    assert await case.find(good, other) is not None
    assert await case.find(good, other, b"\x80") is None


async def test_a_number_in_place_of_a_cid_takes_no_memory(case: Case) -> None:
    fields: list[Any] = [
        case.block.miner, None, None, [], [], [1 << 40], b"", case.block.height, case.block.parent_state_root,
        case.block.messages, case.block.messages, None, 0, None, 0, b"",
    ]  # fmt: skip
    assert await case.find(encode(fields), signed(case.block)) is None
