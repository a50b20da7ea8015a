"""Lotus' JSON of headers, messages, receipts and events: complete, and null where Go's slices are nil."""

from __future__ import annotations

import base64
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from blockstore.cid import Cid, cid_of, parse
from chain.address import parse as parse_address
from chain.block import BlockHeader, decode_header, encode_header
from chain.message import (
    Event,
    EventEntry,
    Message,
    Receipt,
    SignedMessage,
    encode_message,
    encode_signed_message,
)
from chain.tipset import Tipset
from rpc import lotus_json
from rpc.json_wire import encoder
from rpc.lotus_json import JsonCache

ENCODE = encoder("f")


def on_wire(value: Any) -> Any:
    return orjson.loads(ENCODE(value))


CIDS = st.binary(min_size=1, max_size=8).map(cid_of)
BYTES = st.binary(max_size=12)
SIGNATURES = st.none() | st.tuples(st.sampled_from([1, 2, 3]), BYTES)
ADDRESSES = st.one_of(
    st.integers(0, 127).map(lambda n: bytes([0, n])),
    st.binary(min_size=20, max_size=20).map(lambda b: b"\1" + b),
    st.binary(min_size=20, max_size=20).map(lambda b: b"\2" + b),
    st.binary(min_size=48, max_size=48).map(lambda b: b"\3" + b),
    st.binary(min_size=20, max_size=20).map(lambda b: b"\4\x0a" + b),
)
AMOUNTS = st.integers(-(10**40), 10**40)
U64 = st.integers(0, 2**64 - 1)
HEADERS = st.builds(
    BlockHeader,
    cid=CIDS,
    miner=ADDRESSES,
    ticket=st.none() | BYTES,
    election_proof=st.none() | st.tuples(st.integers(-5, 10), BYTES),
    beacon_entries=st.lists(st.tuples(U64, BYTES), max_size=3).map(tuple),
    win_post=st.lists(st.tuples(st.integers(0, 20), BYTES), max_size=3).map(tuple),
    parents=st.lists(CIDS, max_size=3).map(tuple),
    parent_weight=AMOUNTS,
    height=st.integers(0, 2**40),
    parent_state_root=CIDS,
    parent_message_receipts=CIDS,
    messages=CIDS,
    bls_aggregate=SIGNATURES,
    timestamp=U64,
    block_sig=SIGNATURES,
    fork_signaling=U64,
    parent_base_fee=AMOUNTS,
)
MESSAGES = st.builds(
    Message,
    version=st.just(0),
    to=ADDRESSES,
    from_=ADDRESSES,
    nonce=U64,
    value=AMOUNTS,
    gas_limit=st.integers(-(2**63), 2**63 - 1),
    gas_fee_cap=AMOUNTS,
    gas_premium=AMOUNTS,
    method=U64,
    params=BYTES,
)


def cid_from(value: dict[str, str]) -> Cid:
    assert list(value) == ["/"]
    return parse(value["/"])


def bytes_from(value: str | None) -> bytes:
    assert value != "", "an empty slice is null"
    return b"" if value is None else base64.b64decode(value)


def signature_from(value: dict[str, Any] | None) -> tuple[int, bytes] | None:
    return None if value is None else (value["Type"], base64.b64decode(value["Data"]))


def header_from(value: dict[str, Any]) -> BlockHeader:
    """A header from its JSON: nothing may be lost on the way."""
    ticket, election = value["Ticket"], value["ElectionProof"]
    for name in ("BeaconEntries", "WinPoStProof", "Parents"):
        assert value[name] != [], f"{name}: an empty slice is null"
    return BlockHeader(
        cid=cid_of(b"\x80"),
        miner=parse_address(value["Miner"]),
        ticket=None if ticket is None else bytes_from(ticket["VRFProof"]),
        election_proof=election and (election["WinCount"], bytes_from(election["VRFProof"])),
        beacon_entries=tuple((e["Round"], bytes_from(e["Data"])) for e in value["BeaconEntries"] or ()),
        win_post=tuple((e["PoStProof"], bytes_from(e["ProofBytes"])) for e in value["WinPoStProof"] or ()),
        parents=tuple(cid_from(parent) for parent in value["Parents"] or ()),
        parent_weight=int(value["ParentWeight"]),
        height=value["Height"],
        parent_state_root=cid_from(value["ParentStateRoot"]),
        parent_message_receipts=cid_from(value["ParentMessageReceipts"]),
        messages=cid_from(value["Messages"]),
        bls_aggregate=signature_from(value["BLSAggregate"]),
        timestamp=value["Timestamp"],
        block_sig=signature_from(value["BlockSig"]),
        fork_signaling=value["ForkSignaling"],
        parent_base_fee=int(value["ParentBaseFee"]),
    )


def message_from(value: dict[str, Any]) -> Message:
    return Message(
        version=value["Version"],
        to=parse_address(value["To"]),
        from_=parse_address(value["From"]),
        nonce=value["Nonce"],
        value=int(value["Value"]),
        gas_limit=value["GasLimit"],
        gas_fee_cap=int(value["GasFeeCap"]),
        gas_premium=int(value["GasPremium"]),
        method=value["Method"],
        params=bytes_from(value["Params"]),
    )


@given(HEADERS)
def test_a_header_comes_back_from_its_json(made: BlockHeader) -> None:
    raw = encode_header(made)
    block = decode_header(cid_of(raw), raw)
    back = header_from(on_wire(lotus_json.header(block)))
    assert encode_header(back) == raw
    assert orjson.loads(orjson.dumps(JsonCache("f").header(block))) == on_wire(lotus_json.header(block))


@given(MESSAGES)
def test_a_message_comes_back_with_its_cid(made: Message) -> None:
    value = on_wire(lotus_json.message(made))
    assert message_from(value) == made
    assert cid_from(value["CID"]) == cid_of(encode_message(made))


@given(MESSAGES, st.sampled_from([1, 2, 3]), st.integers(0, 300))
def test_a_signed_message_names_both_cids(made: Message, kind: int, size: int) -> None:
    signed = SignedMessage(made, (kind, b"s" * size))
    raw = encode_signed_message(signed)
    value = on_wire(lotus_json.signed_message(signed, signed.cid, raw))
    assert value == on_wire(lotus_json.signed_message(signed))
    assert cid_from(value["Message"]["CID"]) == made.cid
    assert cid_from(value["CID"]) == (made.cid if kind == 2 else cid_of(raw))
    assert value["Signature"] == {"Type": kind, "Data": base64.b64encode(b"s" * size).decode()}


@given(HEADERS, st.integers(1, 4))
def test_a_tipset_lists_its_blocks_in_order(made: BlockHeader, count: int) -> None:
    raws = [encode_header(made)] if count == 1 else []
    if not raws:
        fields = {name: getattr(made, name) for name in BlockHeader.__slots__}
        raws = [encode_header(BlockHeader(**{**fields, "ticket": bytes([at])})) for at in range(count)]
    tipset = Tipset.of([decode_header(cid_of(raw), raw) for raw in raws])
    value = on_wire(lotus_json.tipset(tipset))
    assert list(value) == ["Cids", "Blocks", "Height"]
    assert [cid_from(cid) for cid in value["Cids"]] == [block.cid for block in tipset.blocks]
    assert [cid_of(encode_header(header_from(block))) for block in value["Blocks"]] == list(tipset.key.cids)


def test_nil_slices_are_null_and_signatures_are_not() -> None:
    block = BlockHeader(
        cid_of(b"x"), b"\0\1", b"", (0, b""), (), (), (), 0, 0, cid_of(b"s"), cid_of(b"r"), cid_of(b"m"),
        (2, b""), 0, None, 0, 0,
    )  # fmt: skip
    value = on_wire(lotus_json.header(block))
    assert value["Ticket"] == {"VRFProof": None}
    assert value["ElectionProof"] == {"WinCount": 0, "VRFProof": None}
    assert value["BeaconEntries"] is value["WinPoStProof"] is value["Parents"] is None
    assert value["BLSAggregate"] == {"Type": 2, "Data": ""}
    assert value["BlockSig"] is None
    assert value["ParentWeight"] == value["ParentBaseFee"] == "0"


def test_receipts_and_events() -> None:
    root = cid_of(b"events")
    assert on_wire(lotus_json.receipt(Receipt(1, -1, b"", 7, root))) == {
        "ExitCode": -1, "Return": None, "GasUsed": 7, "EventsRoot": {"/": str(root)},
    }  # fmt: skip
    assert on_wire(lotus_json.event(Event(9, ()))) == {"Emitter": 9, "Entries": None}
    entry = EventEntry(3, "<&>", 0x55, b"")
    assert on_wire(lotus_json.event(Event(9, (entry,))))["Entries"] == [
        {"Flags": 3, "Key": "<&>", "Codec": 0x55, "Value": None}
    ]
