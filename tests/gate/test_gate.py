"""The limits that lotus-gateway has: rates, connections, look-backs, and the list of methods."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import aiohttp
import orjson
import pytest

from devnode.replay import ReplayNode, start_replay
from rpc.errors import CONFIDENCE_REFUSED, CONNECTIONS_REFUSED, LOOKBACK_REFUSED, METHOD_REFUSED, RATE_REFUSED
from rpc.methods import register_all
from rpc.registry import REGISTRY, V1
from rpc.server.dispatch import Dispatcher
from rpc.server.gate.gate import TOKENS, GateSettings
from rpc.server.gate.method_list import MethodList
from rpc.server.gate.token_bucket import TokenBucket
from rpc.server.limits import ServerSettings
from rpc.server.server import serve
from tests.support.http_raw import post
from tests.support.recorded import recorded
from tests.support.wire_server import call, node, soon

register_all()


def test_a_bucket_fills_at_its_rate() -> None:
    now = [0.0]
    bucket = TokenBucket(10, 20, lambda: now[0])
    assert bucket.wait_seconds(20) == 0
    bucket.take(20)
    assert bucket.wait_seconds(5) == pytest.approx(0.5)
    now[0] = 0.5
    assert bucket.wait_seconds(5) == 0
    now[0] = 1000.0
    assert bucket.wait_seconds(bucket.burst) == 0
    bucket.take(20)
    # what is dearer than all that can be saved up passes when all is there
    assert bucket.wait_seconds(100) == pytest.approx(2.0)


def test_lists_of_methods() -> None:
    named = REGISTRY.names(V1)
    head, call_, send = named["Filecoin.ChainHead"], named["eth_call"], named["eth_sendRawTransaction"]
    denied = MethodList.parse(["# executions", "!Filecoin.EthCall  # and its alias", ""])
    assert [denied.allows(method) for method in (head, call_, send)] == [True, False, True]
    allowed = MethodList.parse(["Filecoin.Chain*", "eth_*", "!Filecoin.EthSendRawTransaction"])
    assert [allowed.allows(method) for method in (head, call_, send)] == [True, True, False]
    assert not allowed.allows(named["Filecoin.StateGetActor"])
    with pytest.raises(ValueError, match="entry 2"):
        MethodList.parse(["Filecoin.ChainHead", "Filecoin.Chain Head"])


def test_each_cost_class_has_a_price() -> None:
    assert set(TOKENS) == {method.cost for method in REGISTRY} | set(TOKENS)
    assert min(TOKENS.values()) >= 1


@pytest.mark.parametrize(
    ("gate", "limit"),
    [
        (GateSettings(rate_limit=0.01), "rate_limit"),
        (GateSettings(rate_limit_per_client=0.01), "rate_limit_per_client"),
    ],
)
async def test_rates_of_all_and_of_an_address(gate: GateSettings, limit: str) -> None:
    # an address counts where a balancer names it
    async with node(gate=gate) as one:
        statuses = []
        for _ in range(12):
            answer = await soon(post(one.port, call("Test.Echo", 1), headers={"X-Forwarded-For": "203.0.113.7"}))
            statuses.append(answer.status)
        assert statuses == [200] * 10 + [429] * 2
        error = orjson.loads(answer.body)["error"]
        assert (error["code"], error["data"]["limit"]) == (RATE_REFUSED, limit)
        # a hundredth of a token a second: the bucket has room for one call in a hundred seconds, less what has passed
        again = float(error["data"]["retryAfterSeconds"])
        assert 50 < again <= 100
        assert int(answer.headers["retry-after"]) == math.ceil(again)
        other = await soon(post(one.port, call("Test.Echo", 1), headers={"X-Forwarded-For": "203.0.113.8"}))
        assert other.status == (429 if limit == "rate_limit" else 200)
        refused = one.server.dispatcher.refusals.counts[limit]
        assert refused >= 2
        assert f'follower_rpc_refused_total{{budget="{limit}"}} {refused:.1f}' in one.server.metrics.text().decode()


async def test_the_rate_of_a_connection() -> None:
    async with node(gate=GateSettings(per_conn_rate_limit=0.01)) as one, aiohttp.ClientSession() as session:
        for _ in range(2):  # each connection has a rate of its own
            async with session.ws_connect(one.server.url) as ws:
                codes = []
                for number in range(12):
                    await ws.send_json({"jsonrpc": "2.0", "id": number, "method": "Test.Echo", "params": [1]})
                    codes.append((await soon(ws.receive_json())).get("error", {}).get("code", 0))
                assert codes == [0] * 10 + [RATE_REFUSED] * 2


async def test_connections_a_minute() -> None:
    # no proxy is trusted: this address is a client's
    async with node(conn_per_minute=5, trusted_proxies=("192.0.2.0/24",)) as one:
        answers = [await soon(post(one.port, call("Test.Echo", 1))) for _ in range(7)]
        assert [answer.status for answer in answers] == [200] * 5 + [429] * 2
        error = orjson.loads(answers[-1].body)["error"]
        assert error["code"] == CONNECTIONS_REFUSED
        assert "conn_per_minute is 5; try again in " in error["message"]
        assert 0 < error["data"]["retryAfterSeconds"] <= 12
        assert int(answers[-1].headers["retry-after"]) == math.ceil(error["data"]["retryAfterSeconds"])


# --- how far back -------------------------------------------------------------------------------------------


@pytest.fixture
async def played() -> ReplayNode:
    found = await start_replay(recorded("devnet/chain.car.zst").parent, at_end=True)
    await found.stop()
    return found


async def _ask(node: ReplayNode, gate: GateSettings, method: str, *params: Any, version: int = 1) -> dict[str, Any]:
    dispatcher = Dispatcher(replace(node._services), settings=ServerSettings(gate=gate))
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    answer: dict[str, Any] = orjson.loads((await dispatcher.http(version, body))[1])
    return answer


def named_otherwise(epoch: int, block_hash: str, key: Any) -> list[tuple[str, list[Any]]]:
    """Calls that name an epoch in a range, a text, a filter, or among parameters that may be left out."""
    at, digest = hex(epoch), "0x" + block_hash
    sent = {"to": "0xff00000000000000000000000000000000000001"}
    return [
        ("eth_getBlockByNumber", [at, False]),
        ("eth_getBlockByHash", [digest, False]),
        ("eth_getBlockTransactionCountByNumber", [at]),
        ("eth_getTransactionByBlockNumberAndIndex", [at, "0x0"]),
        ("eth_getTransactionByBlockHashAndIndex", [digest, "0x0"]),
        ("eth_getBlockReceipts", [at]),
        ("trace_block", [at]),
        ("trace_replayBlockTransactions", [at, ["trace"]]),
        ("trace_filter", [{"fromBlock": at, "toBlock": "latest"}]),
        ("trace_filter", [{"fromBlock": "latest", "toBlock": at}]),
        ("eth_getLogs", [{"fromBlock": at, "toBlock": "latest"}]),
        ("eth_getLogs", [{"blockHash": digest}]),
        ("eth_newFilter", [{"fromBlock": at}]),
        ("Filecoin.GetActorEventsRaw", [{"fromHeight": epoch}]),
        ("Filecoin.GetActorEventsRaw", [{"tipsetKey": key}]),
        ("eth_feeHistory", ["0x1", hex(epoch + 1)]),
        ("eth_call", [sent, at]),
        ("eth_estimateGas", [sent, at]),
        ("debug_traceCall", [sent, at, {}]),
        ("trace_call", [sent, ["trace"], at]),
        ("Filecoin.MpoolPending", [key]),
        ("Filecoin.MinerGetBaseInfo", ["f01000", epoch, key]),
    ]


async def test_ranges_count_from_their_beginning(played: ReplayNode) -> None:
    gate = GateSettings(api_max_lookback_seconds=20 * played.network.block_delay)
    refused = [
        ("eth_feeHistory", ["0x32", "latest"]),
        ("eth_getLogs", [{"fromBlock": "earliest"}]),
        ("eth_newFilter", [{"fromBlock": "earliest"}]),
    ]
    passing = [
        ("eth_feeHistory", ["0x5", "latest"]),
        ("eth_getLogs", [{}]),
        ("Filecoin.GetActorEventsRaw", [{"fromHeight": -1}]),
        ("Filecoin.StateSearchMsg", [[], key_cid(played), 5000, True]),
    ]
    for calls, code in ((refused, LOOKBACK_REFUSED), (passing, None)):
        for method, params in calls:
            answer = await _ask(played, gate, method, *params)
            assert (answer.get("error", {}).get("code") == LOOKBACK_REFUSED) == (code is not None), (method, answer)
    # what makes no sense is for the method to refuse
    senseless = (("eth_getLogs", [{"fromBlock": "five"}]), ("eth_feeHistory", ["x"]), ("eth_estimateGas", []))
    for method, params in senseless:
        assert (await _ask(played, gate, method, *params))["error"]["code"] != LOOKBACK_REFUSED


def key_cid(node: ReplayNode) -> dict[str, str]:
    """A CID that is no message's."""
    return {"/": str(node.head.key.cids[0])}


async def test_lookbacks(played: ReplayNode) -> None:
    head = played.head
    delay = played.network.block_delay
    gate = GateSettings(api_max_lookback_seconds=20 * delay)
    for epochs, passes in ((5, True), (19, True), (40, False)):
        epoch = head.height - epochs
        tipset = await played.index.at_height(head, epoch)
        key = [{"/": str(cid)} for cid in tipset.key.cids]
        address = "0x" + "ff" + "00" * 18 + "01"
        for method, params in (
            ("Filecoin.StateGetActor", ["f01", key]),
            ("Filecoin.ChainGetTipSet", [key]),
            ("Filecoin.ChainGetTipSetByHeight", [epoch, []]),
            ("eth_getBalance", [address, hex(epoch)]),
            ("eth_getBalance", [address, {"blockHash": "0x" + tipset.key.block_hash.hex()}]),
            *named_otherwise(epoch, tipset.key.block_hash.hex(), key),
        ):
            answer = await _ask(played, gate, method, *params)
            refused = answer.get("error", {}).get("code") == LOOKBACK_REFUSED
            assert refused != passes, (method, epochs, answer)
            # without the limit, or at the head, it is no question
            assert (await _ask(played, GateSettings(), method, *params)).get("error", {}).get(
                "code"
            ) != LOOKBACK_REFUSED
    answer = await _ask(played, gate, "Filecoin.ChainGetTipSetByHeight", head.height - 40, [])
    assert answer["error"]["message"] == (
        f"lookbacks of more than {20 * delay} s are disallowed: ask of epoch {head.height - 20} or later"
    )
    assert "error" not in await _ask(played, gate, "Filecoin.StateGetActor", "f01", [])


async def test_searches_waits_and_denied_methods(played: ReplayNode) -> None:
    height = played.head.height
    while True:
        tipset = await played.index.at_height(played.head, height)
        key = [{"/": str(cid)} for cid in tipset.key.cids]
        messages = (await _ask(played, GateSettings(), "Filecoin.ChainGetMessagesInTipset", key))["result"]
        if messages and height < played.head.height - 10:
            break
        height = tipset.height - 1
    asked = [[], messages[0]["Cid"], -1, True]
    assert (await _ask(played, GateSettings(), "Filecoin.StateSearchMsg", *asked))["result"]
    near = GateSettings(api_wait_lookback_limit=3)
    assert (await _ask(played, near, "Filecoin.StateSearchMsg", *asked))["result"] is None
    far = GateSettings(api_wait_lookback_limit=100_000)
    assert (await _ask(played, far, "Filecoin.StateSearchMsg", *asked))["result"]
    # the forms of v0 take no limit: they are cut to it as well
    old: list[tuple[str, list[Any]]] = [
        ("StateSearchMsg", [messages[0]["Cid"]]),
        ("StateSearchMsgLimited", [messages[0]["Cid"], -1]),
        ("StateGetReceipt", [messages[0]["Cid"], []]),
    ]
    for name, given in old:
        assert (await _ask(played, near, f"Filecoin.{name}", *given, version=0))["result"] is None, name
        for wide in (far, GateSettings(max_wait_confidence=20), GateSettings()):
            assert (await _ask(played, wide, f"Filecoin.{name}", *given, version=0))["result"], name
    for name, given in (("StateWaitMsg", []), ("StateWaitMsgLimited", [-1])):
        params = [messages[0]["Cid"], 1, *given]
        assert (await _ask(played, far, f"Filecoin.{name}", *params, version=0))["result"], name
        with pytest.raises(TimeoutError):
            # it waits for the message to come again
            async with asyncio.timeout(0.5):
                await _ask(played, near, f"Filecoin.{name}", *params, version=0)
    patient = GateSettings(max_wait_confidence=20)
    error = (await _ask(played, patient, "Filecoin.StateWaitMsg", messages[0]["Cid"], 21, -1, True))["error"]
    assert (error["code"], error["data"]) == (CONFIDENCE_REFUSED, {"limit": "max_wait_confidence", "epochs": 20})

    denying = GateSettings(methods=MethodList.parse(["!Filecoin.StateListActors"]))
    assert (await _ask(played, denying, "Filecoin.StateListActors", []))["error"]["code"] == METHOD_REFUSED
    assert "error" not in await _ask(played, denying, "Filecoin.ChainHead")


async def test_kept_answers_take_tokens_and_obey_the_list() -> None:
    """An answer from memory is no way around the gate, over HTTP or a WebSocket."""
    node_ = await start_replay(recorded("devnet/chain.car.zst").parent, at_end=True)
    key = [{"/": str(cid)} for cid in node_.head.key.cids]
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "Filecoin.ChainGetTipSet", "params": [key]})
    for gate, code in (
        (GateSettings(rate_limit=0.01), RATE_REFUSED),
        (GateSettings(methods=MethodList.parse(["!Filecoin.ChainGetTipSet"])), METHOD_REFUSED),
    ):
        server = await serve(replace(node_._services), "127.0.0.1", 0, settings=ServerSettings(gate=gate))
        assert server.dispatcher.answers is not None
        answers = [orjson.loads((await soon(post(server.port, body))).body) for _ in range(12)]
        assert answers[-1]["error"]["code"] == code
        if code == RATE_REFUSED:
            assert ["error" in answer for answer in answers] == [False] * 10 + [True] * 2
            assert server.dispatcher.answers.count, "nothing was kept: this test shows nothing"
        await server.stop(0)
    await node_.stop()
