"""What clients are told of parameters that cannot be read, to the letter of Go's decoders and Lotus' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from chain.eth.types import cid_of_hash
from rpc.errors import InvalidParams, MethodError, ParseError, wire_error
from rpc.lookup.events.actor_event_filter import ActorEventFilterParam
from rpc.lookup.message_search import Replaced
from rpc.node_errors import CallFailed
from rpc.params import EthAddress, EthBytes, EthHash, EthUint64, param_of
from tests.support.event_chain import EventChain, follower_over, store_of

ADDRESS = "0x" + "11" * 20


def refusal(kind: Any, value: Any) -> str:
    with pytest.raises(ValueError) as caught:
        param_of("value", kind).decode(value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (EthAddress, "0x" + "zz" * 20, "cannot parse hex value: encoding/hex: invalid byte: U+007A 'z'"),
        (EthHash, "0x" + "0" * 63 + "\x00", "cannot parse hex value: encoding/hex: invalid byte: U+0000"),
        (EthBytes, "0xzz", "encoding/hex: invalid byte: U+007A 'z'"),
        # Go sees the bytes of a text, and counts them
        (EthBytes, "0xé", "encoding/hex: invalid byte: U+00C3 'Ã'"),
        (EthAddress, "0x" + "é" * 10, "expected hex string length sans prefix 40, got 20"),
        (EthHash, "0x1", "expected hex string length sans prefix 64, got 2"),
        (EthUint64, None, 'strconv.ParseUint: parsing "": invalid syntax'),
        (EthUint64, True, "cannot interpret true as a hex-encoded uint64, or a number"),
        (EthUint64, {"a": 1}, 'cannot interpret {"a":1} as a hex-encoded uint64, or a number'),
        (EthUint64, -1, "cannot interpret -1 as a hex-encoded uint64, or a number"),
        (EthUint64, "0x" + "f" * 17, f'strconv.ParseUint: parsing "{"f" * 17}": value out of range'),
    ],
)
def test_what_is_told_of_a_value(kind: Any, value: Any, text: str) -> None:
    assert refusal(kind, value) == text


@pytest.fixture
async def asked(tmp_path: Path) -> Any:
    """Asks a follower of a short chain; the error's code and text, and the HTTP status."""
    async with store_of("memory", tmp_path) as store:
        chain = EventChain(store)
        for _ in range(3):
            await chain.grow()
        follower = await follower_over(store)

        async def ask(version: int, name: str, *params: Any) -> tuple[int, int, str]:
            body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": name, "params": list(params)})
            status, answer = await follower.http(version, body)
            error = orjson.loads(answer)["error"]
            return status, error["code"], error["message"]

        ask.chain = chain  # type: ignore[attr-defined]
        ask.follower = follower  # type: ignore[attr-defined]
        yield ask


def selector_text(path: str, struct: str, kind: str, go: str) -> str:
    return f"json: cannot unmarshal {kind} into Go struct field {struct}.{path} of type {go}"


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        ({"height": {"at": "0x5"}}, selector_text("height.at", "TipSetHeight", "string", "abi.ChainEpoch")),
        ({"height": {"at": 1.5}}, selector_text("height.at", "TipSetHeight", "number 1.5", "abi.ChainEpoch")),
        ({"height": 5}, selector_text("height", "TipSetSelector", "number", "types.TipSetHeight")),
        ({"tag": 5}, selector_text("tag", "TipSetSelector", "number", "types.TipSetTag")),
        ({"key": "bafy"}, selector_text("key", "TipSetSelector", "string", "[]cid.Cid")),
        ({"height": {"at": 1, "previous": 1}}, selector_text("height.previous", "TipSetHeight", "number", "bool")),
        (
            {"height": {"at": 1, "anchor": "latest"}},
            selector_text("height.anchor", "TipSetHeight", "string", "types.TipSetAnchor"),
        ),
        (
            {"height": {"at": 1, "anchor": {"tag": True}}},
            selector_text("height.anchor.tag", "TipSetAnchor", "bool", "types.TipSetTag"),
        ),
        ([], "json: cannot unmarshal array into Go value of type types.TipSetSelector"),
    ],
)
async def test_a_selector_of_the_wrong_type_names_the_field(asked: Any, selector: Any, text: str) -> None:
    status, code, message = await asked(2, "Filecoin.ChainGetTipSet", selector)
    assert (status, code) == (500, -32700)
    assert message == f"unmarshaling params for 'Filecoin.ChainGetTipSet' (param: *types.TipSetSelector): {text}"


async def test_what_a_selector_cannot_find_is_told_with_the_way_to_it(asked: Any) -> None:
    for tag in ("foo", ""):
        _, _, message = await asked(2, "Filecoin.ChainGetTipSet", {"height": {"at": 1, "anchor": {"tag": tag}}})
        assert message == f"getting anchor from tipset: unknown tipset tag: {tag}"
    unknown = {"/": "bafy2bzacea3wsdh6y3a36tb3skempjoxqpuyompjbmfeyf34fi3uy6uue42v4"}
    _, code, message = await asked(2, "Filecoin.StateGetActor", "f01", {"key": [unknown]})
    assert code == 1
    assert message.startswith("getting tipset: ") and unknown["/"] in message
    _, _, message = await asked(2, "Filecoin.ChainGetTipSet", {"height": {"at": 1, "anchor": {"key": [unknown]}}})
    assert message.startswith("getting anchor from tipset: ")


async def test_blocks_that_are_none(asked: Any) -> None:
    # an epoch is signed there, and a text's number is not
    _, _, message = await asked(1, "eth_getBalance", ADDRESS, "0xffffffffffffffff")
    assert message == "failed to get tipset at height: -1"
    _, _, message = await asked(1, "eth_getBlockByNumber", "0xffffffffffffffff", False)
    assert message == f"failed to get tipset at height: {(1 << 64) - 1}"
    # the digest of an object that is there, and no tipset
    head = asked.chain.canonical()[-1]
    digest = "0x" + head.blocks[0].cid[-32:].hex()
    _, code, message = await asked(1, "eth_getBlockByHash", digest, False)
    assert code == 1
    assert message == "failed to get tipset by hash: cannot unmarshal block into tipset key: expected byte array"
    _, _, message = await asked(1, "eth_getBlockByHash", "0x" + "12" * 32, False)
    assert "ipld: could not find" in message


async def test_methods_that_decode_their_parameters_themselves(asked: Any) -> None:
    for name, least, most in (("eth_feeHistory", 2, 3), ("eth_estimateGas", 1, 2), ("eth_subscribe", 1, 2)):
        _, code, message = await asked(1, name)
        assert (code, message) == (1, f"decoding params: expected {least} or {most} params, got 0")
        for given, told in (
            ({}, "unexpected end of JSON input"),
            ({"params": None}, f"expected {least} or {most} params, got 0"),
            ({"params": {}}, "json: cannot unmarshal object into Go value of type []json.RawMessage"),
        ):
            body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": name, **given})
            _, answer = await asked.follower.http(1, body)
            assert orjson.loads(answer)["error"]["message"] == f"decoding params: {told}"
    status, code, message = await asked(1, "eth_sendRawTransaction", "0xzz")
    assert (status, code) == (500, -32700)
    assert message == (
        "unmarshaling params for 'eth_sendRawTransaction' (param: *ethtypes.EthBytes): "
        "encoding/hex: invalid byte: U+007A 'z'"
    )
    assert (await asked(1, "eth_sendRawTransaction"))[1] == -32602


def test_a_nodes_protocol_error_names_what_the_client_called() -> None:
    text = "unmarshaling params for 'Filecoin.EthCall' (param: *ethtypes.EthCall): 'Filecoin.Other'"
    shown = wire_error(CallFailed(-32700, text), "eth_call")
    assert isinstance(shown, ParseError)
    assert shown.protocol
    assert str(shown) == text.replace("Filecoin.EthCall", "eth_call")
    counted = wire_error(CallFailed(-32602, "wrong param count (method 'Filecoin.EthCall'): 0 != 2"), "eth_call")
    assert isinstance(counted, InvalidParams)
    assert str(counted) == "wrong param count (method 'eth_call'): 0 != 2"
    own = wire_error(CallFailed(3, "'Filecoin.EthCall' reverted", "0x"), "eth_call")
    assert isinstance(own, MethodError)
    assert (own.code, str(own), own.data) == (3, "'Filecoin.EthCall' reverted", "0x")


async def test_a_chain_of_its_genesis_alone_has_no_latest(tmp_path: Path) -> None:
    async with store_of("memory", tmp_path) as store:
        chain = EventChain(store)
        assert (await chain.grow()).height == 0
        follower = await follower_over(store)
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_getBalance", "params": [ADDRESS, "latest"]})
        error = orjson.loads((await follower.http(1, body))[1])["error"]
        assert error["message"] == "failed to get parent tipset"


def field(path: str, kind: str, go: str) -> str:
    return f"json: cannot unmarshal {kind} into Go struct field {path} of type {go}"


@pytest.mark.parametrize(
    ("name", "wanted", "text"),
    [
        ("eth_getLogs", {"topics": "0x"}, field("EthFilterSpec.topics", "string", "ethtypes.EthTopicSpec")),
        ("eth_getLogs", {"topics": [5]}, field("EthFilterSpec.topics", "number", "string")),
        ("eth_getLogs", {"topics": [[True]]}, field("EthFilterSpec.topics", "bool", "string")),
        ("eth_getLogs", {"address": {}}, field("EthFilterSpec.address", "object", "string")),
        ("eth_newFilter", {"blockHash": 1}, field("EthFilterSpec.blockHash", "number", "string")),
        ("eth_getLogs", {"fromBlock": 1}, field("EthFilterSpec.fromBlock", "number", "string")),
        ("trace_filter", {"toAddress": 5}, field("EthTraceFilterCriteria.toAddress", "number", "string")),
        ("trace_filter", {"fromBlock": 5}, field("EthTraceFilterCriteria.fromBlock", "number", "string")),
    ],
)
async def test_a_filter_of_the_wrong_type_names_the_field(asked: Any, name: str, wanted: Any, text: str) -> None:
    status, code, message = await asked(1, name, wanted)
    assert (status, code) == (500, -32700)
    assert message.endswith(f"): {text}")


_BLOCKS = "map[string][]types.ActorEventBlock"


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"addresses": "x"}, field("ActorEventFilter.addresses", "string", "[]address.Address")),
        ({"addresses": [5]}, field("ActorEventFilter.addresses", "number", "string")),
        ({"fields": []}, field("ActorEventFilter.fields", "array", _BLOCKS)),
        ({"fields": {"a": 0}}, field("ActorEventFilter.fields", "number", "[]types.ActorEventBlock")),
        ({"fields": {"a": ["x"]}}, field("ActorEventFilter.fields", "string", "types.ActorEventBlock")),
        ({"fields": {"a": [{"codec": "x"}]}}, field("ActorEventBlock.fields.codec", "string", "uint64")),
        ({"fields": {"a": [{"codec": -1}]}}, field("ActorEventBlock.fields.codec", "number -1", "uint64")),
        ({"fields": {"a": [{"value": 5}]}}, field("ActorEventBlock.fields.value", "number", "[]uint8")),
        ({"fromHeight": "5"}, field("ActorEventFilter.fromHeight", "string", "abi.ChainEpoch")),
        ({"fromHeight": 1.5}, field("ActorEventFilter.fromHeight", "number 1.5", "abi.ChainEpoch")),
        ({"tipsetKey": 5}, field("ActorEventFilter.tipsetKey", "number", "[]cid.Cid")),
    ],
)
def test_a_filter_of_actor_events_names_the_field(wanted: Any, text: str) -> None:
    assert refusal(ActorEventFilterParam, wanted) == text


def test_what_go_takes_for_the_parts_of_a_filter() -> None:
    decoded = param_of("wanted", ActorEventFilterParam).decode(
        {"fields": {"a": [None, {"codec": 85, "value": [1, 2]}], "b": None}, "addresses": None}
    )
    assert decoded.keys == {"a": frozenset({(0, b""), (85, b"\x01\x02")}), "b": frozenset()}


async def test_hashes_of_what_is_no_transaction(asked: Any) -> None:
    _, parent, head = asked.chain.canonical()
    lost = "%!w(*errors.errorString=&{failed to load message})"
    for digest, told in (
        (head.blocks[0].cid[-32:], "cbor input had wrong number of fields"),
        (head.blocks[0].messages[-32:], "unmarshaling t.Message: cbor input should be of type array"),
        (parent.key.block_hash, "cbor input should be of type array"),
    ):
        text = "0x" + digest.hex()
        _, code, message = await asked(1, "eth_getTransactionReceipt", text)
        assert (code, message) == (1, f"could not find transaction {text}: {lost}: {told}")
        assert await result(asked, "eth_getTransactionByHash", text) is None
        _, code, message = await asked(1, "Filecoin.StateSearchMsg", [], {"/": str(cid_of_hash(digest))}, -1, True)
        assert (code, message) == (1, f"{lost}: {told}")
    unknown = "0x" + "12" * 32
    assert await result(asked, "eth_getTransactionReceipt", unknown) is None
    assert await result(asked, "eth_getTransactionByHash", unknown) is None
    assert await result(asked, "Filecoin.EthGetTransactionHashByCid", None) is None


async def result(asked: Any, name: str, *params: Any) -> Any:
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": name, "params": list(params)})
    return orjson.loads((await asked.follower.http(1, body))[1])["result"]


async def test_a_reason_that_is_told_twice(asked: Any) -> None:
    assert str(Replaced("found x", "way: ")) == "way: message was replaced: found x: message was replaced"
    _, _, message = await asked(1, "Filecoin.StateWaitMsg", {"/": str(cid_of_hash(bytes(32)))}, 901, -1, True)
    assert message == "message confidence exceeds maximum: 901 > 900: message confidence exceeds maximum"
