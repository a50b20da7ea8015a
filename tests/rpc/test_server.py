"""The server as its peers see it: HTTP by the byte, WebSocket sessions, limits, health, the end."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.web_request import BaseRequest

from rpc.server.auth import make_token
from rpc.server.server import serve
from rpc.services import CheckResult
from tests.support.http_raw import RawClient, post, request
from tests.support.wire_methods import make_registry
from tests.support.wire_node import services
from tests.support.wire_server import ECHO, Node, call, node, soon, until

#: transports differ in when they write and what they report: all of this holds on both
pytestmark = pytest.mark.both_loops


# --- HTTP ------------------------------------------------------------------------------------------------


async def test_notes_are_headers_on_both_ways_to_answer() -> None:
    async with node() as n:
        one = call("Test.Note", "X-Why", "because")
        both = b"[" + b",".join([one, call("Test.Note", "X-Why", "so"), one, call("Test.Note", "X-Else", "1")]) + b"]"
        for query, verbose in (("", False), ("?verbose", True)):
            plain = await post(n.port, one, "/rpc/v1" + query)
            assert plain.headers["x-why"] == "because"
            assert orjson.loads(plain.body)["result"] is verbose
            many = await post(n.port, both, "/rpc/v1" + query)
            assert many.headers["x-why"] == "because, so"
            assert many.headers["x-else"] == "1"
            client = await RawClient.connect(n.port)
            head = f"POST /rpc/v1{query} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            await client.send(head.encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (len(both), both))
            other = await soon(client.answer())
            await client.close()
            assert other.headers["x-why"] == "because, so"
            assert orjson.loads(other.body)[0]["result"] is verbose
        assert "x-why" not in (await post(n.port, ECHO % (1, 1))).headers


async def test_a_note_cannot_break_out_of_its_header() -> None:
    async with node() as n:
        for name, value in (("X-Why", "a\r\nX-Other: b"), ("X: y", "z"), ("X-Why", "ü")):
            answer = await post(n.port, call("Test.Note", name, value))
            assert orjson.loads(answer.body)["error"]["code"] == -32603
            assert "x-other" not in answer.headers
            assert "x-why" not in answer.headers
        many = [call("Test.Note", "X-Many", str(number)) for number in range(100)]
        answer = await post(n.port, b"[" + b",".join(many) + b"]")
        assert answer.headers["x-many"] == ", ".join(map(str, range(16)))


async def test_keep_alive_and_pipelining_keep_the_order() -> None:
    async with node() as n:
        client = await RawClient.connect(n.port)
        # the first waits; those behind it are answered behind it
        await client.send(request(call("Test.Wait", id=0)))
        await client.send(b"".join(request(ECHO % (i, i)) for i in range(1, 100)))
        await soon(n.gate.entered.acquire())
        n.gate.open.set()
        ids = [json.loads((await soon(client.answer())).body)["id"] for _ in range(100)]
        assert ids == list(range(100))
        await client.close()


async def test_a_request_in_pieces() -> None:
    async with node() as n:
        client = await RawClient.connect(n.port)
        whole = request(ECHO % (1, 1)) + request(ECHO % (2, 2))
        for at in range(len(whole)):
            await client.send(whole[at : at + 1])
        for number in (1, 2):
            assert json.loads((await soon(client.answer())).body)["result"] == number
        await client.close()


async def test_chunked_bodies_and_expect_go_the_other_way() -> None:
    async with node() as n:
        client = await RawClient.connect(n.port)
        await client.send(request(ECHO % (1, 1)))
        await soon(client.answer())
        body = ECHO % (2, 2)
        await client.send(
            b"POST /rpc/v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:10], body[10:]))
            + b"0\r\n\r\n"
        )
        assert json.loads((await soon(client.answer())).body)["result"] == 2
        # the same connection, still with its length
        await client.send(request(ECHO % (3, 3)))
        assert json.loads((await soon(client.answer())).body)["result"] == 3
        await client.close()

        client = await RawClient.connect(n.port)
        head, _, rest = request(ECHO % (4, 4), headers={"Expect": "100-continue"}).partition(b"\r\n\r\n")
        await client.send(head + b"\r\n\r\n")
        assert (await soon(client.answer())).status == 100
        await client.send(rest)
        assert json.loads((await soon(client.answer())).body)["result"] == 4
        await client.close()


async def test_http_1_0_and_connection_close() -> None:
    async with node() as n:
        old = request(ECHO % (1, 1)).replace(b"HTTP/1.1", b"HTTP/1.0")
        client = await RawClient.connect(n.port)
        await client.send(old)
        assert (await soon(client.answer())).headers["connection"] == "close"
        assert await soon(client.closed()) == b""

        client = await RawClient.connect(n.port)
        for _ in range(2):
            await client.send(old.replace(b"\r\n\r\n", b"\r\nConnection: Keep-Alive\r\n\r\n", 1))
            answer = await soon(client.answer())
            assert (answer.status, answer.headers["connection"]) == (200, "keep-alive")
        await client.close()

        client = await RawClient.connect(n.port)
        await client.send(request(ECHO % (1, 1), headers={"Connection": "close"}))
        assert (await soon(client.answer())).status == 200
        assert await soon(client.closed()) == b""


async def test_a_peer_that_has_said_all_still_gets_its_answer() -> None:
    async with node() as n:
        for body in (ECHO % (1, 1), call("Test.Wait")):
            client = await RawClient.connect(n.port)
            await client.send(request(body))
            client.writer.write_eof()
            n.gate.open.set()
            assert (await soon(client.answer())).status == 200
            assert await soon(client.closed()) == b""


async def test_other_paths_on_a_connection_that_began_on_the_hot_path() -> None:
    async with node() as n:
        client = await RawClient.connect(n.port)
        # pipelined behind a request that is still under way
        await client.send(request(call("Test.Wait")) + request(method="GET", path="/health/livez"))
        await soon(n.gate.entered.acquire())
        n.gate.open.set()
        assert json.loads((await soon(client.answer())).body)["result"] == "done"
        assert (await soon(client.answer())).status == 200
        await client.send(request(method="HEAD", path="/rpc/v1"))
        assert (await soon(client.answer(head=True))).status == 400
        for path in ("/", "/rpc/v3", "/rpc/v10", "/rpc/v1/", "/rpc/"):
            await client.send(request(b"{}", path=path))
            answer = await soon(client.answer())
            assert (answer.status, answer.body) == (404, b"404 page not found\n"), path
        await client.close()


async def test_the_head_of_an_answer_and_a_head_waited_for() -> None:
    async with node() as n:
        plain = await soon(post(n.port, ECHO % (1, 1)))
        assert "x-filecoin-head" not in plain.headers
        answer = await soon(post(n.port, call("Test.Head")))
        key = n.heads.head.tipset.key.cid
        assert answer.headers["x-filecoin-head"] == f"1,1108,{key}"
        waiting = asyncio.create_task(post(n.port, call("Test.Head"), headers={"X-Filecoin-Min-Head": "2"}))
        await until(lambda: n.server.dispatcher.in_flight > 0)
        await n.heads.move(1109)
        later = await soon(waiting)
        assert json.loads(later.body)["result"] == 1109
        assert later.headers["x-filecoin-head"].startswith("2,1109,")
        bad = await soon(post(n.port, call("Test.Head"), headers={"X-Filecoin-Min-Head": "-1"}))
        assert bad.status == 400


async def test_a_head_that_does_not_come() -> None:
    async with node(min_head_wait_seconds=0.05) as n:
        answer = await soon(post(n.port, call("Test.Head"), headers={"X-Filecoin-Min-Head": "9"}))
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, -32002)


async def test_a_batch_is_answered_from_one_head() -> None:
    async with node() as n:
        body = b"[" + b",".join([call("Test.Head"), call("Test.Wait"), call("Test.Head")]) + b"]"
        waiting = asyncio.create_task(post(n.port, body))
        await soon(n.gate.entered.acquire())
        await n.heads.move(2000)
        n.gate.open.set()
        answers = json.loads((await soon(waiting)).body)
        assert [a["result"] for a in answers] == [1108, "done", 1108]


async def test_tokens() -> None:
    secret = b"0123456789abcdef0123456789abcdef"
    async with node(jwt_secret=secret) as n:
        good = make_token(secret, ["read", "write"])
        forged = make_token(secret[::-1], ["read", "write"])
        write = call("Test.Write")

        async def status(**headers: str) -> tuple[int, bytes]:
            answer = await soon(post(n.port, write, headers=headers))
            return answer.status, answer.body

        code, body = await status()
        assert code == 200
        assert json.loads(body)["error"] == {
            "code": 1,
            "message": "missing permission to invoke 'Write' (need 'write')",
        }
        assert (await status(Authorization=f"Bearer {good}"))[1].endswith(b'"result":true}\n')
        for bad in (f"Bearer {forged}", good, "Bearer ", "Basic eA=="):
            assert await status(Authorization=bad) == (401, b""), bad
        answer = await soon(post(n.port, write, path=f"/rpc/v1?token={good}"))
        assert answer.body.endswith(b'"result":true}\n')
        assert (await soon(post(n.port, write, path=f"/rpc/v1?token={forged}"))).status == 401
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(f"{n.server.url}?token={forged}")
            assert refused.value.status == 401


async def test_cors() -> None:
    preflight = request(method="OPTIONS", headers={"Origin": "http://x", "Access-Control-Request-Method": "POST"})
    for changes, status in (({}, 400), ({"cors_preflight": True}, 204)):
        async with node(**changes) as n:
            client = await RawClient.connect(n.port)
            await client.send(preflight)
            answer = await soon(client.answer())
            assert answer.status == status
            assert answer.headers["access-control-allow-origin"] == "*"
            await client.close()
            answer = await soon(post(n.port, ECHO % (1, 1)))
            assert answer.headers["access-control-allow-origin"] == "*"
    async with node(cors_origin="") as n:
        assert "access-control-allow-origin" not in (await soon(post(n.port, ECHO % (1, 1)))).headers


async def test_too_many_at_once() -> None:
    async with node(max_in_flight=2, heavy_parallel=1) as n:
        waiting = [asyncio.create_task(post(n.port, call("Test.Wait"))) for _ in range(2)]
        for _ in waiting:
            await soon(n.gate.entered.acquire())
        refused = await soon(post(n.port, call("Test.Wait")))
        assert (refused.status, json.loads(refused.body)["error"]["code"]) == (503, -32002)
        n.gate.open.set()
        assert [(await soon(task)).status for task in waiting] == [200, 200]


async def test_heavy_answers_have_a_lane() -> None:
    async with node(heavy_parallel=1, lane_calls=2) as n:
        waiting = [asyncio.create_task(post(n.port, call("Test.Heavy"))) for _ in range(2)]
        await soon(n.gate.entered.acquire())
        await until(lambda: n.server.dispatcher.in_flight == 2)
        third = await soon(post(n.port, call("Test.Heavy")))
        assert (third.status, json.loads(third.body)["error"]["code"]) == (503, -32002)
        assert third.headers["retry-after"] == "1"
        # what is not heavy passes by
        assert (await soon(post(n.port, ECHO % (1, 1)))).status == 200
        n.gate.open.set()
        assert [json.loads((await soon(task)).body)["result"] for task in waiting] == ["done", "done"]
        assert n.gate.most == 1


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_peer_that_leaves_takes_its_call_along(chunked: bool) -> None:
    async with node(eof_timeout_seconds=0.05) as n:
        client = await RawClient.connect(n.port)
        body = call("Test.Wait")
        if chunked:
            await client.send(b"POST /rpc/v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            await client.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        else:
            await client.send(request(body))
        await soon(n.gate.entered.acquire())
        client.writer.transport.abort()
        await soon(n.gate.cancelled.wait())
        await until(lambda: n.server.dispatcher.in_flight == 0)


async def test_two_servers_share_a_port() -> None:
    async with node() as n:
        other = await serve(services(), "127.0.0.1", n.port, registry=make_registry())
        for _ in range(20):
            assert (await soon(post(n.port, ECHO % (1, 1)))).status == 200
        await other.stop(0)
        with pytest.raises(OSError):
            await serve(services(), "127.0.0.1", n.port, registry=make_registry(), reuse_port=False)
        assert (await soon(post(n.port, ECHO % (1, 1)))).status == 200


async def test_a_page_that_takes_for_ever_does_not_hold_a_server_up() -> None:
    entered = asyncio.Event()

    async def pages(asked: BaseRequest) -> None:
        entered.set()
        await asyncio.Event().wait()

    server = await serve(services(), "127.0.0.1", 0, registry=make_registry())
    server.add_pages(pages)
    client = await RawClient.connect(server.port)
    await client.send(request(method="GET", path="/slow"))
    await soon(entered.wait())
    await soon(server.stop(0))


async def test_too_many_connections() -> None:
    async with node(max_connections=2) as n:
        kept = [await RawClient.connect(n.port) for _ in range(2)]
        for client, data in zip(kept, (request(ECHO % (1, 1)), request(method="GET", path="/livez")), strict=True):
            await client.send(data)
            assert (await soon(client.answer())).status == 200
        third = await RawClient.connect(n.port)
        assert (await soon(third.answer())).status == 503
        assert await soon(third.closed()) == b""
        for client in kept:
            await client.close()
        await until(lambda: not n.server.dispatcher.admission.connections.used)
        assert (await soon(post(n.port, ECHO % (1, 1)))).status == 200


async def test_a_time_out_inside_a_method_that_began_at_once() -> None:
    async with node() as n:
        answer = await soon(post(n.port, call("Test.TimedWait")))
        assert json.loads(answer.body)["result"] == "timed out"


@pytest.mark.parametrize("later", [False, True])
async def test_what_another_request_gave_up(later: bool) -> None:
    async with node() as n:
        answer = await soon(post(n.port, call("Test.Abandoned", later)))
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (200, -32002)


async def test_thousands_of_pipelined_requests() -> None:
    """Each turn of the loop takes some; what lies behind them is bounded by the sockets' buffers."""
    count = 5000
    async with node() as n:
        client = await RawClient.connect(n.port)
        sending = asyncio.create_task(client.send(b"".join(request(ECHO % (i, i)) for i in range(count))))
        most = 0
        for number in range(count):
            assert json.loads((await soon(client.answer())).body)["result"] == number
            most = max(most, *(len(c._rest) for c in n.server._shared.connections))
        await sending
        assert most <= 1 << 20
        await client.close()


async def test_a_peer_that_does_not_take_its_answers() -> None:
    """Reading stops while the peer does not read, and the connection is closed in the end."""
    async with node(write_timeout_seconds=0.2) as n:
        client = await RawClient.connect(n.port)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        big = request(call("Test.Big", 4 << 20))
        for _ in range(8):
            client.writer.write(big)
        connection = next(iter(n.server._shared.connections))
        await until(lambda: not connection._writable)
        buffered = connection.transport.get_write_buffer_size()
        assert buffered <= 3 * (4 << 20)
        await until(lambda: not n.server._shared.connections)
        client.writer.transport.abort()


async def test_a_peer_that_does_not_take_a_page() -> None:
    """What others add to a server's paths is not kept for who does not read it either."""
    async with node(write_timeout_seconds=0.2, min_transfer_rate=1 << 30) as n:
        asked = asyncio.Event()

        async def page(request: BaseRequest) -> web.StreamResponse:
            asked.set()
            return web.Response(body=bytes(32 << 20))

        n.server.add_pages(page)
        client = await RawClient.connect(n.port)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await soon(asked.wait())
        await until(lambda: not n.server.dispatcher.admission.connections.used)
        client.writer.transport.abort()


async def test_drain() -> None:
    async with node() as n:
        idle = await RawClient.connect(n.port)
        await idle.send(request(ECHO % (1, 1)))
        await soon(idle.answer())
        busy = await RawClient.connect(n.port)
        await busy.send(request(call("Test.Wait")))
        await soon(n.gate.entered.acquire())
        async with aiohttp.ClientSession() as session:
            ws = await session.ws_connect(n.server.url)
            stopping = asyncio.create_task(n.server.stop(10))
            message = await soon(ws.receive())
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
        assert await soon(idle.closed()) == b""
        with pytest.raises(OSError):
            await RawClient.connect(n.port)
        n.gate.open.set()
        answer = await soon(busy.answer())
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        await soon(stopping)
        assert not n.server._shared.connections


# --- health and metrics ------------------------------------------------------------------------------------


async def get(n: Node, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{n.port}{path}") as response:
        return response.status, await response.text()


async def test_health_is_a_loop_over_the_checks() -> None:
    async with node() as n:
        state = {"ok": True}

        async def head() -> CheckResult:
            return CheckResult(state["ok"], "3 epochs behind")

        async def broken() -> CheckResult:
            raise ValueError("not for clients")

        checks = n.server._services.checks
        checks.ready["head"] = head
        assert await get(n, "/health/readyz") == (200, "")
        assert await get(n, "/readyz?verbose") == (200, "[+] head: 3 epochs behind\nreadyz check passed\n")
        state["ok"] = False
        assert await get(n, "/health/readyz") == (503, "")
        assert await get(n, "/health/livez") == (200, "")
        assert await get(n, "/livez") == (200, "livez check passed\n")
        assert await get(n, "/healthz?verbose") == (503, "[!] head: 3 epochs behind\nhealthz check failed\n")
        state["ok"] = True
        checks.ready["other"] = broken
        status, text = await get(n, "/readyz?verbose")
        assert status == 503
        assert "[!] other: the check itself failed" in text
        assert "not for clients" not in text
        del checks.ready["other"]
        n.server.health.draining = True
        assert (await get(n, "/health/readyz"))[0] == 503
        assert (await get(n, "/health/livez"))[0] == 200


async def test_metrics() -> None:
    async with node() as n:
        await soon(post(n.port, b"[%s,%s]" % (ECHO % (1, 1), ECHO % (2, 2))))
        await soon(post(n.port, call("Test.NullRound")))
        await soon(post(n.port, call("no_such_method_of_this_name")))
        status, text = await get(n, "/metrics")
        assert status == 200
        assert 'follower_rpc_requests_total{code="0",method="Test.Echo"} 2.0' in text
        assert 'follower_rpc_requests_total{code="12",method="Test.NullRound"} 1.0' in text
        assert 'follower_rpc_requests_total{code="-32601",method="unknown"} 1.0' in text
        assert "no_such_method_of_this_name" not in text
        assert 'follower_rpc_seconds_bucket{le="+Inf",method="Test.Echo"} 2.0' in text
        assert "follower_head_height 1108.0" in text
        assert "follower_head_seq 1.0" in text
        assert "follower_rpc_in_flight 0.0" in text
        assert (await get(n, "/debug/metrics"))[0] == 200


async def test_a_peer_that_is_gone_takes_no_others_answer_with_it() -> None:
    """Answers of one turn of the loop are written together; the first of them is for a connection that was reset."""
    async with node() as served:
        first, second = [await RawClient.connect(served.port) for _ in range(2)]
        for client in (first, second):
            await client.send(request(ECHO % (1, 1)))
            await client.answer()
        state = served.server._shared
        address = first.writer.get_extra_info("sockname")
        gone = next(one for one in state.connections if one.transport.get_extra_info("peername") == address)
        there = next(one for one in state.connections if one is not gone)
        gone.transport.abort()
        while gone in state.connections:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        state.send(gone.transport, b"lost")
        state.send(there.transport, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        assert (await asyncio.wait_for(second.answer(), 20)).body == b"hi"
        await first.close()
        await second.close()
