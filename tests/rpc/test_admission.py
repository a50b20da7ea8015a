"""What a process takes on: budgets for work, waiting, channels and memory, with a share for each client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from rpc.admission import Admission, Budget
from rpc.context import Context
from rpc.errors import ClientLimit, ServerBusy
from rpc.server.limits import ServerSettings, make_admission
from rpc.server.server_state import TURN_REQUESTS, ServerState
from tests.support.http_raw import Answer, RawClient, post, request
from tests.support.wire_server import ECHO, Node, call, node, soon, until

MIB = 1 << 20
ATTACKER = {"X-Forwarded-For": "203.0.113.7"}
OTHER = {"X-Forwarded-For": "203.0.113.8"}


def nothing_is_held(admission: Admission) -> bool:
    """Whether everything was given back, connections aside."""
    kept = (admission.connections, admission.websockets)
    return all(not b.used and not any(b.by_client.values()) for b in admission.budgets() if b not in kept)


def error_of(answer: Answer) -> tuple[int, int, str]:
    """(HTTP status, JSON-RPC code, Retry-After)"""
    return answer.status, json.loads(answer.body)["error"]["code"], answer.headers.get("retry-after", "")


def test_a_budget_has_a_cap_and_a_share() -> None:
    refused: list[tuple[str, str]] = []
    budget = Budget("work", "requests", 4, 2, lambda *what: refused.append(what))
    for _ in range(2):
        budget.take("a")
    with pytest.raises(ClientLimit):
        budget.take("a")
    # who is not known has no share, and is bounded by the cap alone
    budget.take("")
    budget.take("b")
    for client in ("b", "c", ""):
        with pytest.raises(ServerBusy):
            budget.take(client)
    assert refused == [("work", "a"), ("work", "b"), ("work", "c"), ("work", "")]
    for client in ("a", "a", "", "b"):
        budget.give(client)
    assert budget.used == 0
    assert not any(budget.by_client.values())


def test_clients_that_use_nothing_are_forgotten() -> None:
    budget = Budget("work", "requests", 10_000, 2)
    budget.take("stays")
    for number in range(5000):
        budget.take(str(number))
        budget.give(str(number))
    assert len(budget.by_client) <= 1025
    assert budget.by_client["stays"] == budget.used == 1


async def test_a_client_beyond_its_share_of_work_is_refused_alone() -> None:
    async with node(max_in_flight_per_client=2) as n:
        waiting = [asyncio.create_task(post(n.port, call("Test.Wait"), headers=ATTACKER)) for _ in range(2)]
        for _ in waiting:
            await soon(n.gate.entered.acquire())
        refused = await soon(post(n.port, ECHO % (1, 1), headers=ATTACKER))
        assert error_of(refused) == (429, -32005, "1")
        assert (await soon(post(n.port, ECHO % (1, 1), headers=OTHER))).status == 200
        n.gate.open.set()
        assert [(await soon(task)).status for task in waiting] == [200, 200]
        assert nothing_is_held(n.server.dispatcher.admission)


async def test_who_waits_keeps_no_worker() -> None:
    async with node(max_in_flight=2, max_waiting=6, max_waiting_per_client=4) as n:
        far = ATTACKER | {"X-Filecoin-Min-Head": "2"}
        waiting = [asyncio.create_task(post(n.port, call("Test.Head"), headers=far)) for _ in range(4)]
        admission = n.server.dispatcher.admission
        await until(lambda: admission.waiting.used == 4)
        assert admission.working.used == 0
        assert error_of(await soon(post(n.port, call("Test.Head"), headers=far))) == (429, -32005, "1")
        near = OTHER | {"X-Filecoin-Min-Head": "2"}
        more = [asyncio.create_task(post(n.port, call("Test.Head"), headers=near)) for _ in range(2)]
        await until(lambda: admission.waiting.used == 6)
        assert error_of(await soon(post(n.port, call("Test.Head"), headers=near))) == (503, -32002, "1")
        # who does not wait is answered all the same
        assert (await soon(post(n.port, ECHO % (1, 1), headers=ATTACKER))).status == 200
        await n.heads.move(2000)
        for task in (*waiting, *more):
            assert json.loads((await soon(task)).body)["result"] == 2000
        assert nothing_is_held(admission)


async def test_who_waits_and_leaves_waits_no_more() -> None:
    async with node(eof_timeout_seconds=0.05) as n:
        client = await RawClient.connect(n.port)
        await client.send(request(call("Test.Head"), headers={"X-Filecoin-Min-Head": "9"}))
        admission = n.server.dispatcher.admission
        await until(lambda: admission.waiting.used == 1)
        client.writer.transport.abort()
        await until(lambda: nothing_is_held(admission))


async def _open_channels(n: Node, count: int, headers: dict[str, str], session: aiohttp.ClientSession) -> Any:
    socket = await session.ws_connect(n.server.url, headers=headers)
    for number in range(count):
        await socket.send_bytes(call("Test.Silent", id=number))
    return socket


async def test_open_channels_keep_no_worker_and_have_shares() -> None:
    async with (
        node(max_in_flight=2, max_channels=8, max_channels_per_client=6, ws_max_channels=8) as n,
        aiohttp.ClientSession() as session,
    ):
        admission = n.server.dispatcher.admission
        socket = await _open_channels(n, 6, ATTACKER, session)
        await until(lambda: admission.channels.used == 6 and not admission.working.used)
        assert (await soon(post(n.port, ECHO % (1, 1)))).status == 200
        again = await _open_channels(n, 1, ATTACKER, session)
        assert json.loads((await soon(again.receive())).data)["error"]["code"] == -32005
        other = await _open_channels(n, 2, OTHER, session)
        assert "result" in json.loads((await soon(other.receive())).data)
        await until(lambda: admission.channels.used == 8)
        third = await _open_channels(n, 1, {"X-Forwarded-For": "203.0.113.9"}, session)
        assert json.loads((await soon(third.receive())).data)["error"]["code"] == -32002
        for one in (socket, again, other, third):
            await one.close()
        await until(lambda: nothing_is_held(admission) and not admission.websockets.used)


async def test_websocket_calls_are_work_too() -> None:
    async with node(max_in_flight_per_client=2) as n, aiohttp.ClientSession() as session:
        socket = await session.ws_connect(n.server.url, headers=ATTACKER)
        for number in range(3):
            await socket.send_bytes(call("Test.Wait", id=number))
        refused = json.loads((await soon(socket.receive())).data)
        assert (refused["id"], refused["error"]["code"]) == (2, -32005)
        assert error_of(await soon(post(n.port, ECHO % (1, 1), headers=ATTACKER)))[0] == 429
        assert (await soon(post(n.port, ECHO % (1, 1), headers=OTHER))).status == 200
        n.gate.open.set()
        answered = {json.loads((await soon(socket.receive())).data)["id"] for _ in range(2)}
        assert answered == {0, 1}
        await socket.close()
        await until(lambda: nothing_is_held(n.server.dispatcher.admission))


async def test_a_client_beyond_its_share_of_connections_is_refused_alone() -> None:
    # nobody is a balancer here: this machine's addresses are clients
    async with node(max_connections_per_client=2, trusted_proxies=()) as n:
        kept = [await RawClient.connect(n.port) for _ in range(2)]
        for client in kept:
            await client.send(request(ECHO % (1, 1)))
            assert (await soon(client.answer())).status == 200
        third = await RawClient.connect(n.port)
        assert error_of(await soon(third.answer())) == (429, -32005, "1")
        assert await soon(third.closed()) == b""
        reader, writer = await asyncio.open_connection("127.0.0.1", n.port, local_addr=("127.0.0.5", 0))
        writer.write(request(ECHO % (1, 1)))
        assert b" 200 " in await soon(reader.readline())
        writer.close()
        for client in kept:
            await client.close()
        await until(lambda: not n.server.dispatcher.admission.connections.used)


async def test_a_balancer_is_not_a_client() -> None:
    async with node(max_connections_per_client=2, max_in_flight_per_client=2) as n:
        kept = [await RawClient.connect(n.port) for _ in range(5)]
        for client in kept:
            await client.send(request(call("Test.Wait")))
        for _ in kept:
            await soon(n.gate.entered.acquire())
        n.gate.open.set()
        for client in kept:
            assert (await soon(client.answer())).status == 200
            await client.close()


# --- lanes ---------------------------------------------------------------------------------------------------


async def test_a_lane_has_a_share_for_each_client_and_an_end_to_waiting() -> None:
    async with node(heavy_parallel=1, lane_calls=8, lane_calls_per_client=2, lane_wait_seconds=0.05) as n:
        first = asyncio.create_task(post(n.port, call("Test.Heavy"), headers=ATTACKER))
        await soon(n.gate.entered.acquire())
        second = await soon(post(n.port, call("Test.Heavy"), headers=ATTACKER))
        assert error_of(second) == (503, -32002, "1"), "its turn did not come"
        n.gate.open.set()
        assert (await soon(first)).status == 200
        assert nothing_is_held(n.server.dispatcher.admission)


async def test_a_batch_does_not_fill_a_lane() -> None:
    async with node(heavy_parallel=2, lane_calls=4, lane_calls_per_client=2) as n:
        batch = b"[" + b",".join([call("Test.Heavy")] * 30) + b"]"
        running = asyncio.create_task(post(n.port, batch, headers=ATTACKER))
        await soon(n.gate.entered.acquire())
        heavy = n.server.dispatcher.admission.lanes["heavy"]
        assert heavy.calls.used == 1
        other = asyncio.create_task(post(n.port, call("Test.Heavy"), headers=OTHER))
        await soon(n.gate.entered.acquire())
        n.gate.open.set()
        assert json.loads((await soon(other)).body)["result"] == "done"
        answers = json.loads((await soon(running)).body)
        assert [answer["result"] for answer in answers] == ["done"] * 30
        assert nothing_is_held(n.server.dispatcher.admission)


async def test_a_batch_beyond_its_time_says_so_for_the_rest() -> None:
    async with node(batch_seconds=0.0, batch_parallel=1) as n:
        answers = json.loads((await soon(post(n.port, b"[" + b",".join([ECHO % (1, 1)] * 2000) + b"]"))).body)
        assert len(answers) == 2000
        codes = [answer.get("error", {}).get("code") for answer in answers]
        assert codes[-1] == -32005
        assert sorted(codes, key=lambda code: code is not None) == codes, "once over, it stays over"


# --- memory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_counts_as_it_comes(chunked: bool) -> None:
    async with node(memory_budget_bytes=MIB, memory_budget_bytes_per_client=MIB // 2) as n:
        memory = n.server.dispatcher.admission.memory
        head = f"POST /rpc/v1 HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {ATTACKER['X-Forwarded-For']}\r\n"
        if chunked:
            head += "Transfer-Encoding: chunked\r\n\r\n40000\r\n"
        else:
            # what is said to come takes nothing yet
            head += f"Content-Length: {4 * MIB}\r\n\r\n"
        client = await RawClient.connect(n.port)
        await client.send(head.encode() + b" " * 100_000)
        await until(lambda: 50_000 < memory.used <= 100_000)
        await client.send(b" " * (0x40000 - 100_000) + b"\r\n80000\r\n" + b" " * 0x80000)
        assert error_of(await soon(client.answer()))[:2] == (429, -32005)
        await until(lambda: not memory.used)
        assert (await soon(post(n.port, call("Test.Echo", "x" * 100_000), headers=OTHER))).status == 200
        await client.close()
        assert nothing_is_held(n.server.dispatcher.admission)


async def test_an_unfinished_message_counts_as_it_comes() -> None:
    async with node(memory_budget_bytes_per_client=MIB) as n:
        memory = n.server.dispatcher.admission.memory
        client = await RawClient.connect(n.port)
        upgrade = (
            "GET /rpc/v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "X-Forwarded-For: 9.9.9.9\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await client.send(upgrade.encode())
        await soon(client.reader.readuntil(b"\r\n\r\n"))
        # a text frame of 3 MiB, its mask zero
        await client.send(b"\x81\xff" + (3 * MIB).to_bytes(8, "big") + bytes(4) + b" " * 500_000)
        await until(lambda: 400_000 < memory.used <= 510_000)
        assert list(memory.by_client) == ["9.9.9.9"]
        await client.send(b" " * MIB)
        await soon(client.closed())
        await until(lambda: nothing_is_held(n.server.dispatcher.admission))


async def test_a_long_answer_counts_until_it_was_read() -> None:
    async with node(max_answer_bytes=8 * MIB) as n:
        memory = n.server.dispatcher.admission.memory
        client = await RawClient.connect(n.port)
        await client.send(request(call("Test.Big", 6 * MIB)))
        await until(lambda: memory.used >= 6 * MIB)
        answer = await soon(client.answer())
        assert len(json.loads(answer.body)["result"]) == 6 * MIB
        await until(lambda: not memory.used)
        refused = await soon(post(n.port, call("Test.Big", 9 * MIB)))
        assert json.loads(refused.body)["error"]["code"] == -32005
        # who leaves without reading gives it back too
        await client.send(request(call("Test.Big", 6 * MIB)))
        await until(lambda: memory.used >= 6 * MIB)
        client.writer.transport.abort()
        await until(lambda: nothing_is_held(n.server.dispatcher.admission))


async def test_answers_of_a_batch_count_while_they_are_made() -> None:
    async with node(memory_budget_bytes_per_client=MIB, batch_parallel=4) as n:
        batch = b"[" + b",".join([call("Test.Big", 50_000)] * 100) + b"]"
        answers = json.loads((await soon(post(n.port, batch, headers=ATTACKER))).body)
        assert len(answers) == 100
        given = [answer for answer in answers if "result" in answer]
        assert MIB // 2 < 50_000 * len(given) <= 2 * MIB
        assert answers[-1]["error"]["code"] == -32005
        await until(lambda: nothing_is_held(n.server.dispatcher.admission))


async def test_an_upload_below_the_least_rate_is_ended() -> None:
    async with node(body_timeout_seconds=0.2, min_transfer_rate=1 << 20) as n:
        client = await RawClient.connect(n.port)
        await client.send(f"POST /rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: {MIB}\r\n\r\n".encode() + b" " * 100)

        async def trickle() -> None:
            while True:
                await client.send(b" ")
                await asyncio.sleep(0.02)

        sending = asyncio.create_task(trickle())
        assert (await soon(client.answer())).status == 408
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await client.close()


# --- the context ---------------------------------------------------------------------------------------------


async def test_what_waits_several_times_is_one_request() -> None:
    from tests.support.wire_node import services

    admission = make_admission(ServerSettings())
    ctx = Context(services())
    ctx.admission, ctx.account = admission, "a"
    admission.working.take("a")
    with ctx.waiting():
        with ctx.waiting():
            assert (admission.working.used, admission.waiting.used) == (0, 2)
        assert (admission.working.used, admission.waiting.used) == (0, 1)
    assert (admission.working.used, admission.waiting.used) == (1, 0)
    admission.working.give("a")
    assert nothing_is_held(admission)


# --- turns of the loop ---------------------------------------------------------------------------------------


async def test_a_client_with_many_connections_has_its_share_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    most: list[int] = []
    flush = ServerState.flush

    def flush_and_look(state: ServerState) -> None:
        most.append(max(state.turn_counts.values(), default=0))
        flush(state)

    monkeypatch.setattr(ServerState, "flush", flush_and_look)
    async with node() as n:
        state = n.server._shared
        clients = [await RawClient.connect(n.port) for _ in range(5 * TURN_REQUESTS)]
        # two requests behind each other on every connection: the order within one stays
        for number, client in enumerate(clients):
            pair = [request(ECHO % (at, at), headers=ATTACKER) for at in (number, -number)]
            client.writer.write(b"".join(pair))
        for number, client in enumerate(clients):
            for wanted in (number, -number):
                assert json.loads((await soon(client.answer())).body)["result"] == wanted
        assert max(most) == TURN_REQUESTS
        assert not state._deferred
        # who leaves while a request waits for its turn leaves nothing behind
        for client in clients:
            client.writer.write(request(ECHO % (1, 1), headers=ATTACKER))
            client.writer.transport.abort()
        await until(lambda: not state.connections and nothing_is_held(n.server.dispatcher.admission))


# --- the client has gone -------------------------------------------------------------------------------------


@pytest.mark.parametrize("websocket", [False, True])
async def test_a_walk_ends_when_its_client_has_gone(websocket: bool) -> None:
    async with node(eof_timeout_seconds=0.05) as n, aiohttp.ClientSession() as session:
        admission = n.server.dispatcher.admission
        if websocket:
            socket = await session.ws_connect(n.server.url)
            await socket.send_bytes(call("Test.Walk"))
            await until(lambda: admission.lanes["scan"].calls.used == 1)
            await socket.close()
        else:
            client = await RawClient.connect(n.port)
            await client.send(request(call("Test.Walk")))
            await until(lambda: admission.lanes["scan"].calls.used == 1)
            client.writer.close()
        await soon(n.gate.cancelled.wait())
        await until(lambda: nothing_is_held(admission))


async def test_a_walk_beyond_its_time_ends_and_says_so() -> None:
    async with node(request_seconds=0.05) as n:
        answer = await soon(post(n.port, call("Test.Walk")))
        assert json.loads(answer.body)["error"]["code"] == -32005
        assert nothing_is_held(n.server.dispatcher.admission)


async def test_what_does_not_walk_is_answered_beside_walks() -> None:
    async with node(eof_timeout_seconds=0.05) as n:
        walks = [await RawClient.connect(n.port) for _ in range(8)]
        for client in walks:
            await client.send(request(call("Test.Walk")))
        await until(lambda: n.server.dispatcher.admission.lanes["scan"].calls.used == 8)
        pacer = n.server.dispatcher.services.pacer
        before = pacer.turns
        for _ in range(50):
            assert (await soon(post(n.port, ECHO % (1, 1)))).status == 200
        # between two answers lie a few turns of the loop, with one slice of a walk each, however many walks there are
        assert 0 < pacer.turns - before < 50 * 20
        for client in walks:
            await client.close()
