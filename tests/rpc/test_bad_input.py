"""Whatever comes in: a clear answer with the right code, a process that lives on, memory that stays bounded."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import rpc.methods.node.node  # noqa: F401
from blockstore.cid import cid_of
from blockstore.errors import Missing, StoreFull, StoreUnavailable
from chain.errors import NotHeld, NullRound
from chain.tipset import TipsetKey
from rpc.errors import wire_error
from rpc.json_wire import encode_id, encode_pieces, encoder, go_float, is_large
from rpc.node_errors import CallFailed, NodeUnavailable
from rpc.params import param_of
from rpc.server.dispatch import Dispatcher
from rpc.server.limits import ServerSettings
from tests.support.http_raw import RawClient, post, request
from tests.support.wire_methods import make_registry
from tests.support.wire_node import services
from tests.support.wire_server import ECHO, call, node, soon, until

MIB = 1 << 20

# --- one request at a time ---------------------------------------------------------------------------------

CID = {"/": "bafy2bzaced4jqxqwvw7xewb2bbv3wlmaywtbkk57sfon3qhzqd567u2qnreoy"}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 500, -32700),
        (b"\xff\xfe", 500, -32700),
        (b"\x00", 500, -32700),
        (b'{"id":1,"method":"Test.Echo","params":[1]', 500, -32700),
        (b'{"id":1,"method":"Test.Echo","params":[NaN]}', 500, -32700),
        (b'{"id":1,"method":"Test.Add","params":[1e999,1]}', 500, -32700),
        (b'{"id":1,"method":"Test.Echo","params":[01]}', 500, -32700),
        (b'{"id":1,"method":"Test.Echo","params":["\x01"]}', 500, -32700),
        (b'\xef\xbb\xbf{"id":1,"method":"Test.Echo","params":[1]}', 500, -32700),
        (b'{"id":1,"method":"Test.Echo","params":{"value":1}}', 500, -32700),
        (b'{"id":1,"method":"Test.Echo","params":[]}', 500, -32602),
        (b'{"id":1,"method":"Test.Echo","params":[1,2]}', 500, -32602),
        (b'{"id":1,"method":"Test.Add","params":["1",2]}', 500, -32700),
        (b'{"id":1,"method":"Test.Add","params":[1.5,2]}', 500, -32700),
        (b'{"id":1,"method":"Test.Add","params":[true,2]}', 500, -32700),
        (b'{"id":1,"method":"Test.Add","params":[9223372036854775808,2]}', 500, -32700),
        (b'{"id":1,"method":"Test.Nope","params":[]}', 500, -32601),
        (b'{"id":1,"method":"Filecoin.WalletSign","params":[]}', 200, -32004),
        (b'{"id":1,"method":"eth_call","params":[]}', 200, -32004),
        (b'{"id":1,"method":"Test.Fail","params":[]}', 500, -32603),
        (b'{"id":1,"method":"Test.NoJson","params":[]}', 500, -32603),
        (b'{"id":1,"method":"Test.NullRound","params":[]}', 200, 12),
        (b'{"id":1,"method":"Test.Revert","params":[]}', 200, 3),
        (b'{"id":1,"method":"Test.Count","params":[3]}', 500, -32601),
        (b'{"id":1,"method":"Test.Echo","params":[1],"meta":5}', 500, -32700),
        (b'{"id":1,"method":"Test.Echo","params":[1],"jsonrpc":2}', 500, -32700),
        (b"[]", 400, -32600),
        (b"", 400, -32600),
        (b"[" * 100_000, 500, -32700),
        (b'{"id":1,"method":"Test.Echo","params":' + b"[" * 5000 + b"]" * 5000 + b"}", 500, -32700),
    ],
)  # fmt: skip
async def test_each_fault_has_its_code(body: bytes, status: int, code: int) -> None:
    dispatcher = Dispatcher(services(), make_registry())
    got, answer = await dispatcher.http(1, body)
    error = json.loads(answer)["error"]
    assert (got, error["code"]) == (status, code)
    assert "passwd" not in answer.decode()


async def test_deep_nesting_is_refused_where_a_library_has_raised_the_recursion_limit() -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        _, answer = await Dispatcher(services(), make_registry()).http(1, b"[" * 100_000)
        assert json.loads(answer)["error"]["code"] == -32700
        assert sys.getrecursionlimit() == 100_000
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b'{"id":1,"method":"Test.Echo","params":["\xff"]}', "\ufffd"),
        (b'{"id":1,"method":"Test.Echo","params":["\\ud800x"]}', "\ufffdx"),
        (b'{"id":1,"method":"Test.Echo","params":["\\ud83d\\ude00"]}', "\U0001f600"),
        (b'{"id":1,"method":"Test.Echo","params":["<&>\xe2\x80\xa8"]}', "<&>\u2028"),
        (b' \n{"id":1,"method":"Test.Echo","params":[[1]]}garbage', [1]),
        (b'{"id":1,"method":"Test.Echo","params":[1],"params":[2]}', 2),
        (b'{"id":1,"METHOD":"Test.Echo","Params":[3],"more":4}', 3),
        (b'{"id":1,"method":"Test.Raw"}', None),
        (b'{"id":1,"method":"Test.Raw","params":{"a":1}}', {"a": 1}),
        (b'{"id":1,"method":"Test.Echo","params":' + b"[" * 500 + b"]" * 500 + b"}", None),
    ],
)
async def test_what_go_takes_is_taken(body: bytes, result: Any) -> None:
    dispatcher = Dispatcher(services(), make_registry())
    status, answer = await dispatcher.http(1, body)
    assert status == 200
    value = json.loads(answer)["result"]
    assert value == result or (result is None and isinstance(value, list))
    assert not any(byte in answer for byte in (b"<", b">", b"&", b"\xe2\x80\xa8"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"), (1.5, "1.5"), (-0.0, "-0"), (0.0, "0"), (1e20, "100000000000000000000"), (1e21, "1e+21"),
        (1.5e300, "1.5e+300"), (1e-6, "0.000001"), (1e-7, "1e-7"), (-2.5e-9, "-2.5e-9"), (123456.789, "123456.789"),
        (float(1152921504606846977), "1152921504606847000"), (5e-324, "5e-324"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_go_writes_them(value: float, text: str) -> None:
    assert go_float(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_written_numbers_read_back(value: float) -> None:
    assert float(go_float(value)) == value


@given(st.integers(-(1 << 70), 1 << 70))
def test_ids_are_float64s(value: int) -> None:
    assert float(encode_id(value)) == float(value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
_FIELDS = st.sampled_from(["id", "ID", "method", "params", "jsonrpc", "meta", "Method", "x"])


@given(
    st.binary(max_size=200)
    | st.dictionaries(_FIELDS, _JSON | st.just("Test.Echo") | st.just([1]), max_size=6).map(
        lambda value: json.dumps(value).encode("utf-8", "surrogatepass")
    )
    | st.lists(_JSON, max_size=4).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
)
@hypothesis_settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_get_a_well_formed_answer(body: bytes) -> None:
    async def run() -> tuple[int, bytes]:
        return await Dispatcher(services(), make_registry()).http(1, body)

    status, answer = asyncio.run(run())
    assert status in (200, 400, 500)
    if answer:
        value = orjson.loads(answer)
        for item in value if isinstance(value, list) else [value]:
            assert item["jsonrpc"] == "2.0"
            assert ("error" in item) != ("result" in item)
            assert "id" in item
    else:
        assert status == 200


async def test_unknown_objects_are_errors_of_the_method() -> None:
    dispatcher = Dispatcher(services())
    status, answer = await dispatcher.http(1, call("Filecoin.StateNetworkVersion", [CID]))
    assert status == 200
    assert json.loads(answer)["error"]["code"] == 1
    assert CID["/"] in json.loads(answer)["error"]["message"]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (NullRound(3), 12, "requested epoch was a null round (3)"),
        (NotHeld("receipts"), 1, "not held: receipts"),
        (Missing(cid_of(b"x")), 1, f"ipld: could not find {cid_of(b'x')}"),
        (StoreUnavailable("no quorum"), -32002, "the store does not answer now: no quorum"),
        (StoreFull("disk"), -32002, "the store cannot be written to now"),
        (CallFailed(3, "reverted", "0x00"), 3, "reverted"),
        (NodeUnavailable("10.0.0.7:1234: refused"), -32002, "the full node behind this follower does not answer now"),
        (TimeoutError(), -32002, "context deadline exceeded"),
        (ZeroDivisionError("secret"), -32603, "internal error"),
    ],
)
def test_each_error_has_one_form_on_the_wire(error: Exception, code: int, text: str) -> None:
    told = wire_error(error)
    assert (told.code, told.message) == (code, text)


# --- batches -------------------------------------------------------------------------------------------------


async def test_a_batch_of_ten_thousand() -> None:
    async with node() as n:
        body = b"[" + b",".join(ECHO % (i, i) for i in range(10_000)) + b"]"
        answers = json.loads((await soon(post(n.port, body))).body)
        assert [a["result"] for a in answers] == list(range(10_000))
        one_more = body[:-1] + b"," + ECHO % (1, 1) + b"]"
        answer = await soon(post(n.port, one_more))
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, -32600)


async def test_a_batch_does_not_run_all_at_once() -> None:
    async with node(batch_parallel=4) as n:
        body = b"[" + b",".join([call("Test.Wait")] * 40) + b"]"
        waiting = asyncio.create_task(post(n.port, body))
        for _ in range(4):
            await soon(n.gate.entered.acquire())
        assert n.gate.inside == 4
        n.gate.open.set()
        assert len(json.loads((await soon(waiting)).body)) == 40
        assert n.gate.most == 4


async def test_the_answers_to_a_batch_are_bounded() -> None:
    async with node(max_batch_answer_bytes=1 * MIB, batch_parallel=1) as n:
        body = b"[" + b",".join([call("Test.Big", MIB)] * 20) + b"]"
        answers = json.loads((await soon(post(n.port, body))).body)
        assert len(answers) == 20
        # the first is just over the limit, so it is the last
        assert [("result" in a) for a in answers] == [True] + [False] * 19
        assert {a["error"]["code"] for a in answers if "error" in a} == {-32005}


async def test_faults_inside_a_batch_stay_there() -> None:
    dispatcher = Dispatcher(services(), make_registry())
    parts = [ECHO % (1, 1), call("Test.Fail", id=2), call("Nope", id=3), b'{"id":{},"method":"Test.Echo"}',
             b"null", b'{"method":"Test.Echo","params":[1]}']  # fmt: skip
    status, answer = await dispatcher.http(1, b"[" + b",".join(parts) + b"]")
    codes = [(a["id"], a.get("error", {}).get("code")) for a in json.loads(answer)]
    assert status == 200
    assert codes == [(1, None), (2, -32603), (3, -32601), (None, -32700), (None, -32601)]


async def test_a_failed_request_leaves_no_cycle() -> None:
    """Cycles wait for the collector, which looks seldom: what they hold would add up."""
    dispatcher = Dispatcher(services(), make_registry(), settings=ServerSettings(batch_seconds=0.0))
    failing = [
        call("Test.Fail"), call("Test.NullRound"), call("Test.Echo"), call("Test.Add", "x", 1), call("Test.NoJson"),
        call("Nope"), b'{"id":{},"method":"Test.Echo"}', b"{", b"[" + b",".join([ECHO % (1, 1)] * 300) + b"]",
    ]  # fmt: skip
    for _ in range(2):
        gc.collect()
        gc.disable()
        try:
            for body in failing * 10:
                await dispatcher.http(1, body)
                await dispatcher.http(1, body, None, "x")
            found = gc.collect()
        finally:
            gc.enable()
    assert found < len(failing)


# --- numbers that are none -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1E+400"])
async def test_an_id_beyond_a_float64_is_a_parse_error_with_an_answer(number: bytes) -> None:
    async with node() as n, aiohttp.ClientSession() as session:
        body = b'{"jsonrpc":"2.0","id":%s,"method":"Test.Echo","params":[1]}' % number
        answer = await soon(post(n.port, body))
        told = json.loads(answer.body)
        assert (answer.status, told["id"], told["error"]["code"]) == (500, None, -32700)
        answer = await soon(post(n.port, b"[%s,%s]" % (ECHO % (1, 1), body)))
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (500, -32700)
        # a session drops what is no request, as go-jsonrpc does, and goes on
        async with session.ws_connect(n.server.url) as socket:
            await socket.send_bytes(body)
            await socket.send_bytes(ECHO % (2, 2))
            assert json.loads((await soon(socket.receive())).data)["id"] == 2


@pytest.mark.parametrize("number", [b"9" * 4000, b"0." + b"1" * 5000, b"1e308", b"-0.0"])
async def test_ids_that_are_long_come_back_as_a_float64(number: bytes) -> None:
    async with node() as n:
        answer = await soon(post(n.port, b'{"jsonrpc":"2.0","id":%s,"method":"Test.Echo","params":[1]}' % number))
        assert (answer.status, json.loads(answer.body)["result"]) == (200, 1)


@pytest.mark.parametrize("text", ["9" * 5000, "-1", "1.5", "x", "", "\u0661", "99999999999999999999"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_min_head_that_is_no_number_is_the_clients_fault(text: str, chunked: bool) -> None:
    async with node() as n:
        body = ECHO % (1, 1)
        client = await RawClient.connect(n.port)
        head = f"POST /rpc/v1 HTTP/1.1\r\nHost: x\r\nX-Filecoin-Min-Head: {text}\r\n".encode()
        if chunked:
            whole = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        else:
            whole = head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        await client.send(whole)
        answer = await soon(client.answer())
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, -32600)
        await client.close()


@pytest.mark.parametrize("path", ["POST /rpc/v1", "POST /elsewhere"])
async def test_a_length_of_thousands_of_digits_is_the_clients_fault(path: str) -> None:
    async with node() as n:
        client = await RawClient.connect(n.port)
        await client.send(f"{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {'9' * 5000}\r\n\r\n".encode())
        assert (await soon(client.answer())).status == 400
        await client.close()


def test_lists_of_parameters_are_bounded() -> None:
    key = param_of("key", TipsetKey)
    with pytest.raises(ValueError, match="too many items: 1001, max: 1000"):
        key.decode([None] * 1001)
    numbers = param_of("numbers", list[int])
    assert len(numbers.decode([1] * 10_000)) == 10_000
    with pytest.raises(ValueError, match="too many items"):
        numbers.decode([1] * 10_001)


def test_a_large_result_is_written_in_pieces_that_make_the_same_text() -> None:
    encode = encoder("f")
    row = {"a": [1, {"b": None}], "c": "<&>", "d": b"x"}
    values: list[Any] = [
        [], {}, [1], {"a": 1}, [row] * 1000, {f"k{n}": row for n in range(1000)}, {"a": [row] * 300, "b": 1, "c": {}},
        [[row] * 200, [], {"x": [1] * 500}] * 50, {"<": {"&": [2**70] * 129}}, [None] * 129, "x", [[]] * 128,
    ]  # fmt: skip
    for value in values:
        assert b"".join(encode_pieces(value, encode)) == encode(value)
    assert max(map(len, encode_pieces([row] * 10_000, encode))) < 20_000
    assert is_large([0] * 129)
    assert is_large({"a": [0] * 129})
    assert not is_large([0] * 128)


async def test_what_the_slower_reader_takes_is_bounded() -> None:
    dispatcher = Dispatcher(services(), make_registry())
    lone = b'{"jsonrpc":"2.0","id":1,"method":"Test.Echo","params":["%s"]}'
    _, answer = await dispatcher.http(1, lone % (b"\\ud800" * 10))
    assert json.loads(answer)["result"] == "\N{REPLACEMENT CHARACTER}" * 10
    _, answer = await dispatcher.http(1, lone % (b"\\ud800" * 50_000))
    assert json.loads(answer)["error"]["code"] == -32700


# --- sizes and times -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["POST /rpc/v1", "GET /livez"])
async def test_every_head_has_its_time(verb: str) -> None:
    async with node(head_timeout_seconds=0.1) as n:
        client = await RawClient.connect(n.port)
        await client.send(request(ECHO % (1, 1)) + f"{verb} HTTP/1.1\r\nHost: ".encode())
        assert (await soon(client.answer())).status == 200
        assert (await soon(client.answer())).status == 408
        await client.close()


async def test_a_body_beyond_the_limit() -> None:
    async with node(max_body_bytes=MIB) as n:
        # whether its length is told or not, and before all of it was sent
        answer = await soon(post(n.port, call("Test.Echo", "x" * MIB)))
        assert answer.status == 500
        assert json.loads(answer.body)["error"] == {
            "code": -32700,
            "message": "request bigger than maximum 1048576 allowed",
            "data": {"limit": "max_body_mb", "most": MIB},
        }
        client = await RawClient.connect(n.port)
        await client.send(b"POST /rpc/v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        for _ in range(20):
            await client.send(chunk)
        answer = await soon(client.answer())
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (500, -32700)
        await client.close()
        exactly = call("Test.Echo", "")
        fits = call("Test.Echo", "x" * (MIB - len(exactly)))
        assert (await soon(post(n.port, fits))).status == 200


async def test_too_many_values() -> None:
    async with node(max_values=100_000) as n:
        answer = await soon(post(n.port, b"[" + b"[],," * (1 << 20) + b"[]]"))
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (500, -32700)


async def test_heads_that_are_no_heads() -> None:
    async with node() as n:
        for data, status in (
            (b"POST /rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
            (b"POST /rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
            (b"POST /rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1x\r\n\r\n", 400),
            (b"POST /rpc/v1 HTTP/9.9\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 400),
            (b"POST /rpc/v1 HTTP/1.1\r\nno colon\r\n\r\n", 400),
            (b"POST /rpc/v1 HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
            (b"POST /rpc/v1 HTTP/1.1\r\nX: " + b"x" * 20_000, 431),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n", 400),
        ):
            client = await RawClient.connect(n.port)
            await client.send(data)
            answer = await soon(client.answer())
            assert answer.status == status, data[:60]
            await client.close()
        assert (await soon(post(n.port, ECHO % (1, 1)))).status == 200


async def test_peers_that_stop_in_the_middle() -> None:
    """Half a head, half a body, a trickle, nothing at all: each is let go when its time is over."""
    whole = request(call("Test.Echo", "x" * 1000))
    async with node(head_timeout_seconds=0.1, body_timeout_seconds=0.1, idle_timeout_seconds=0.1) as n:
        clients = []
        for part in (b"", b"P", whole[:30], whole[:200], whole[:-1]):
            client = await RawClient.connect(n.port)
            await client.send(part)
            clients.append(client)
        answers = [await soon(client.closed()) for client in clients]
        assert answers[0] == b""
        assert all(b"408" in answer[:20] for answer in answers[2:])
        await until(lambda: not n.server._shared.connections)
        for client in clients:
            await client.close()


async def test_a_trickled_body_earns_no_time() -> None:
    async with node(body_timeout_seconds=0.3) as n:
        client = await RawClient.connect(n.port)
        whole = request(call("Test.Echo", "x" * 100_000))
        await client.send(whole[:200])

        async def trickle() -> None:
            for at in range(200, len(whole)):
                await client.send(whole[at : at + 1])
                await asyncio.sleep(0.01)

        task = asyncio.create_task(trickle())
        assert (await soon(client.answer())).status == 408
        task.cancel()
        await client.close()
