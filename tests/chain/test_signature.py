"""Signatures: made by the Go libraries, found on a real chain, changed, and malformed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rpc.methods.node.wallet  # noqa: F401  (declares)
from chain.address import Address, bls, from_id, parse
from chain.ipld.dag_cbor import decode
from chain.ipld.tree_nodes import RawCborReader
from chain.signature import SIG_BLS, keccak256, recover_public_key, verify_signature
from chain.state.state_tree import StateTree
from rpc.server.dispatch import Dispatcher
from tests.chain.state_data import head_of, heap_of
from tests.rpc.methods.test_recorded_chain import ask, services_of
from tests.support.paths import VECTORS

SIGNED: list[dict[str, Any]] = json.loads((VECTORS / "signatures.json").read_text())["signed"]


def test_keccak() -> None:
    assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak256(b"\xfe").hex() == "bcc90f2d6dada5b18e155c17a1c0a55920aae94f39857d39d0d8ed07ae8f228b"


@pytest.mark.parametrize("case", SIGNED, ids=lambda case: str(case["address"])[:8])
def test_signatures_made_by_go(case: dict[str, Any]) -> None:
    kind, signer = case["type"], parse(case["address"])
    message, signature = bytes.fromhex(case["message"]), bytes.fromhex(case["signature"])
    assert verify_signature(kind, signature, signer, message)
    assert not verify_signature(kind, signature, signer, message + b"\0")
    assert not verify_signature(kind, signature[:-1] + bytes((signature[-1] ^ 1,)), signer, message)
    assert not verify_signature(kind, bytes((signature[0] ^ 1,)) + signature[1:], signer, message)
    assert not verify_signature(4 - kind, signature, signer, message)
    assert not verify_signature(SIG_BLS, signature, signer, message)
    assert not verify_signature(kind, signature, bls(bytes(48)), message)


def signed_part(block: bytes) -> bytes:
    """A header as it was signed: with null in the place of the block's signature."""
    read = RawCborReader(block)
    parts = [bytes(read.raw()) for _ in range(read.list_length())]
    parts[13] = b"\xf6"
    return bytes((0x80 | len(parts),)) + b"".join(parts)


@pytest.mark.recorded
async def test_a_block_of_a_real_chain_is_signed_by_its_miner_s_worker() -> None:
    heap = heap_of("devnet/chain.car.zst")
    head = head_of("devnet")
    data = heap.objects[head.cid]
    tree = await StateTree.load(heap, head.parent_state_root)
    miner = await tree.get(Address(head.miner))
    info = decode(heap.objects[decode(heap.objects[miner.head])[0]])
    worker = await tree.account_key(Address(info[1]))
    kind_and_signature = decode(data)[13]
    kind, signature = kind_and_signature[0], kind_and_signature[1:]
    assert kind == SIG_BLS
    message = signed_part(data)
    assert verify_signature(kind, signature, worker, message)
    assert not verify_signature(kind, signature, worker, message + b"\0")
    assert not verify_signature(kind, signature[:-1] + b"\0", worker, message)
    assert not verify_signature(kind, bytes(96), worker, message)


@given(st.integers(0, 4), st.binary(max_size=100) | st.binary(min_size=65, max_size=65), st.binary(max_size=50))
@settings(max_examples=60, deadline=None)
def test_malformed_signatures_are_a_no(kind: int, signature: bytes, message: bytes) -> None:
    for case in SIGNED[:2]:
        assert not verify_signature(kind, signature, parse(case["address"]), message)
    assert not verify_signature(kind, signature, from_id(7), message)
    assert not verify_signature(kind, signature, bls(bytes(48)), message)


def test_numbers_out_of_range_recover_nothing() -> None:
    one = (1).to_bytes(32, "big")
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    for r, s, v in ((0, 1, 0), (1, 0, 0), (order, 1, 0), (1, order, 0), (5, 1, 0), (order - 1, 1, 2), (1, 1, 4)):
        assert recover_public_key(one, r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes((v,))) is None
    assert recover_public_key(b"short", bytes(65)) is None


@pytest.mark.recorded
async def test_the_method() -> None:
    dispatcher = Dispatcher(await services_of("devnet"))
    from base64 import b64encode

    for case in SIGNED[:2]:
        message = b64encode(bytes.fromhex(case["message"])).decode()
        good = {"Type": case["type"], "Data": b64encode(bytes.fromhex(case["signature"])).decode()}
        for signature, wanted in ((good, True), ({**good, "Type": 9}, False), (None, False), ({}, False)):
            answer = await ask(dispatcher, "/rpc/v1", "Filecoin.WalletVerify", [case["address"], message, signature])
            assert answer["result"] is wanted
        bad = await ask(dispatcher, "/rpc/v1", "Filecoin.WalletVerify", [case["address"], message, 7])
        assert bad["error"]["code"] == -32700
