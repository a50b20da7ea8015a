"""What real HAProxy and nginx make of the configurations: who is asked, what is passed on, what is sent twice."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import orjson
import pytest

from blockstore.memory import MemoryStore
from loadbalancer.agent import AgentCheck, Condition
from loadbalancer.control import BadConfiguration
from loadbalancer.fleet import Member
from loadbalancer.haproxy import haproxy_config
from loadbalancer.nginx import nginx_config
from loadbalancer.settings import BadAddress, BalancerSettings
from rpc.server.server import Server, serve
from tests.fleet.fleet_processes import HEAD, fill
from tests.support.proxies import KINDS, Proxy
from tests.support.served import served, services_over

Answer = Callable[[bytes, bytes], Awaitable[bytes | None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"


class Backend:
    """Takes requests as a follower's port does, keeps them, and answers what the test wants: bytes, or nothing."""

    def __init__(self, answer: Answer | None = None) -> None:
        self._answer = answer
        self.requests: list[tuple[bytes, bytes]] = []
        self.ready = True
        self.port = 0

    async def __aenter__(self) -> Backend:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    @property
    def member(self) -> Member:
        return Member(f"127.0.0.1:{self.port}")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET /readyz"):
                    writer.write(OK if self.ready else b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
                    continue
                sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(sizes[0][15:]) if sizes else 0)
                self.requests.append((head, body))
                answer = OK if self._answer is None else await self._answer(head, body)
                if answer is None:
                    break
                writer.write(answer)
        writer.close()


@contextlib.asynccontextmanager
async def proxied(kind: str, *members: Member) -> AsyncIterator[Proxy]:
    proxy = Proxy(kind)
    try:
        proxy.file.write_text(proxy.balancer.config(members, ()))
        await proxy.balancer.check(proxy.file)
        await asyncio.to_thread(proxy.start)
        yield proxy
    finally:
        await asyncio.to_thread(proxy.stop)


def call(method: str) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": []})


@pytest.fixture
async def store() -> MemoryStore:
    store = MemoryStore("balanced")
    await fill(store)
    return store


# --- the whole way -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_followers_are_asked_in_turn_over_http_and_websocket(kind: str, store: MemoryStore) -> None:
    async with contextlib.AsyncExitStack() as stack:
        servers: list[Server] = [await stack.enter_async_context(served(store)) for _ in range(3)]
        members = [Member(f"127.0.0.1:{server.port}") for server in servers]
        proxy = await stack.enter_async_context(proxied(kind, *members))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        asked: collections.Counter[int] = collections.Counter()
        for server in servers:
            original = server.dispatcher.answer_http

            def counting(*arguments, port=server.port, original=original):  # type: ignore[no-untyped-def]
                asked[port] += 1
                return original(*arguments)

            # kept answers do not come so far
            server.dispatcher.answers = None
            server.dispatcher.answer_http = counting
        for _ in range(30):
            async with session.post(proxy.url, data=HEAD) as response:
                assert response.status == 200
                assert response.headers["X-Filecoin-Head"].startswith("1,0,")
                assert b'"result"' in await response.read()
        assert sorted(asked.values()) == [10, 10, 10]

        sockets = [await session.ws_connect(proxy.url.replace("/v1", "/v0")) for _ in range(3)]
        assert [len(server._sockets) for server in servers] == [1, 1, 1]
        for ws in sockets:
            await ws.send_str(call("Filecoin.ChainNotify").decode())
            opened = [orjson.loads((await ws.receive(10)).data) for _ in range(2)]
            assert opened[0]["result"] == 1
            assert opened[1]["method"] == "xrpc.ch.val"
            assert opened[1]["params"][1][0]["Type"] == "current"
        # one that drains takes no new ones: they go to the others
        servers[0].drain()
        sockets += [await session.ws_connect(proxy.url) for _ in range(3)]
        assert len(servers[0]._sockets) == 1
        assert sum(len(server._sockets) for server in servers) == 6
        # each is told to go when its follower stops
        for server in servers:
            await server.stop(5)
        for ws in sockets:
            messages = [await ws.receive(10)]
            while messages[-1].type is aiohttp.WSMsgType.TEXT:
                messages.append(await ws.receive(10))
            assert (messages[-1].type, messages[-1].data) == (aiohttp.WSMsgType.CLOSE, 1001)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_passed_on_and_what_is_not(kind: str) -> None:
    async with Backend() as backend, aiohttp.ClientSession() as session:
        small = Member(backend.member.address, max_body=3000)
        async with proxied(kind, small) as proxy:
            base = proxy.url.removesuffix("/rpc/v1")
            # the client's own address, whatever it says itself; everything else as it came
            headers = {"X-Forwarded-For": "6.6.6.6", "X-Filecoin-Min-Head": "7", "Authorization": "Bearer x"}
            async with session.post(base + "/rpc/v2?token=abc", data=HEAD, headers=headers) as response:
                assert response.status == 200
            head, body = backend.requests.pop()
            lines = head.decode().lower().split("\r\n")
            assert body == HEAD
            assert lines[0] == "post /rpc/v2?token=abc http/1.1"
            assert "x-forwarded-for: 127.0.0.1" in lines
            assert "6.6.6.6" not in head.decode()
            assert {"x-filecoin-min-head: 7", "authorization: bearer x"} <= set(lines)
            # bodies up to the smallest limit of the members
            async with session.post(proxy.url, data=b" " * 3000) as response:
                assert response.status == 200
            async with session.post(proxy.url, data=b" " * 3001) as response:
                assert response.status == 500
                assert (await response.json())["error"] == {
                    "code": -32700,
                    "message": "request bigger than maximum 3000 allowed",
                    "data": {"limit": "max_body_mb", "most": 3000},
                }
            backend.requests.clear()
            for path in ("/", "/metrics", "/debug/metrics", "/rpc/v3", "/rpc/v1/x"):
                async with session.get(base + path) as response:
                    assert (response.status, await response.text()) == (404, "404 page not found\n")
            for path, status in (("/readyz", 200), ("/balancer/healthz", 200)):
                async with session.get(base + path) as response:
                    assert response.status == status
            assert backend.requests == []
        # larger than any buffer
        async with proxied(kind, backend.member) as proxy:
            async with session.post(proxy.url, data=b"7" * (3 << 20)) as response:
                assert response.status == 200
            assert backend.requests.pop()[1] == b"7" * (3 << 20)


# --- what goes wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_read_without_an_answer_goes_to_another_follower(kind: str) -> None:
    async def hang_up(head: bytes, body: bytes) -> None:
        return None

    async def unavailable(head: bytes, body: bytes) -> bytes:
        return b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}"

    async with (
        Backend(hang_up) as dead,
        Backend(unavailable) as draining,
        Backend() as good,
        aiohttp.ClientSession() as session,
    ):
        gone = Member("127.0.0.1:9")
        async with proxied(kind, gone, dead.member, draining.member, good.member) as proxy:
            for number in range(12):
                async with session.post(proxy.url, data=call("Filecoin.StateGetActor")) as response:
                    assert response.status == 200, number
        assert len(good.requests) == 12
        assert dead.requests
        assert draining.requests


async def test_what_writes_is_sent_once_by_haproxy() -> None:
    async def hang_up(head: bytes, body: bytes) -> None:
        return None

    batch = b"[" + call("Filecoin.ChainHead") + b"," + call("eth_sendRawTransaction") + b"]"
    async with Backend(hang_up) as one, Backend(hang_up) as two, aiohttp.ClientSession() as session:
        async with proxied("haproxy", one.member, two.member) as proxy:
            for body in (call("Filecoin.MpoolPush"), batch, call("eth_getFilterChanges")):
                # on a connection that had a request before, the fault is that it is closed
                with contextlib.suppress(aiohttp.ServerDisconnectedError):
                    async with session.post(proxy.url, data=body) as response:
                        assert response.status == 502
                assert len(one.requests) + len(two.requests) == 1
                one.requests.clear()
                two.requests.clear()
            # all that a follower takes for a call
            with contextlib.suppress(aiohttp.ServerDisconnectedError):
                async with session.put(proxy.url, data=_once(call("Filecoin.MpoolPush"))) as response:
                    assert response.status == 502
            assert len(one.requests) + len(two.requests) == 1
            one.requests.clear()
            two.requests.clear()
            # the same of a read: every try that there is
            with contextlib.suppress(aiohttp.ServerDisconnectedError):
                async with session.post(proxy.url, data=call("Filecoin.ChainHead")) as response:
                    assert response.status == 502
            assert len(one.requests) + len(two.requests) == 4
        # where it certainly has not arrived, it is sent again
        async with Backend() as good, proxied("haproxy", Member("127.0.0.1:9"), good.member) as proxy:
            for _ in range(4):
                async with session.post(proxy.url, data=call("Filecoin.MpoolPush")) as response:
                    assert response.status == 200
            assert len(good.requests) == 4


@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_is_there(kind: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        proxied(kind) as proxy,
        session.post(proxy.url, data=HEAD) as response,
    ):
        assert response.status == 503
        assert (await response.json())["error"]["code"] == -32002


async def test_haproxy_leaves_out_who_is_not_ready_or_drains() -> None:
    condition = Condition(True)

    async def current() -> Condition:
        return condition

    agent = AgentCheck(current)
    await agent.listen("127.0.0.1", 0)
    async with Backend() as checked, Backend() as asked, aiohttp.ClientSession() as session:
        told = Member(asked.member.address, agent_port=agent.port)
        async with proxied("haproxy", checked.member, told) as proxy:

            async def takers() -> set[Backend]:
                """Who answers a few requests."""
                checked.requests.clear()
                asked.requests.clear()
                for _ in range(4):
                    async with session.post(proxy.url, data=HEAD) as response:
                        assert response.status == 200
                return {backend for backend in (checked, asked) if backend.requests}

            async def become(*wanted: Backend) -> None:
                async with asyncio.timeout(20):
                    while await takers() != set(wanted):
                        await asyncio.sleep(0.05)

            await become(checked, asked)
            condition = Condition(False, draining=True)
            await become(checked)
            condition = Condition(True)
            await become(checked, asked)
            condition = Condition(False, reason="node: 17 epochs behind, says the node\n")
            await become(checked)
            condition = Condition(True)
            await become(checked, asked)
            checked.ready = False
            await become(asked)
    await agent.close()


# --- the files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_both_take_names_ipv6_and_certificates(kind: str, tmp_path: Path) -> None:
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    key, chain = tmp_path / "key", tmp_path / "chain"
    subprocess.run([*words, "-keyout", key, "-out", chain], check=True, capture_output=True)
    certificate = tmp_path / "both.pem"
    certificate.write_bytes(chain.read_bytes() + key.read_bytes())
    proxy = Proxy(kind, str(certificate))
    try:
        members = [Member("[::1]:1234", agent_port=99, version="v1 {#;}"), Member("localhost:80")]
        text = proxy.balancer.config(members, {"localhost:80"})
        assert text == proxy.balancer.config(members, {"localhost:80"})
        proxy.file.write_text(text)
        await proxy.balancer.check(proxy.file)
        proxy.file.write_text(text.replace("location ~", "elsewhere").replace("backend", "elsewhere"))
        with pytest.raises(BadConfiguration, match="elsewhere"):
            await proxy.balancer.check(proxy.file)
    finally:
        proxy.stop()


def test_the_file_is_what_the_fleet_is() -> None:
    members = [Member("10.0.0.1:1", agent_port=2, max_body=500), Member("10.0.0.2:1", version="lotus-follower/9")]
    text = haproxy_config(members)
    assert "    server 10.0.0.1_1 10.0.0.1:1 agent-check agent-port 2 agent-inter 1s\n" in text
    assert "    # 10.0.0.2:1 lotus-follower/9\n    server 10.0.0.2_1 10.0.0.2:1\n" in text
    assert "req.body_size gt 500 " in text
    text = nginx_config(members, down={"10.0.0.2:1"})
    assert "server 10.0.0.1:1 max_fails=1 fail_timeout=2s;" in text
    assert "server 10.0.0.2:1 down;" in text
    assert "client_max_body_size 500;" in text


@pytest.mark.parametrize("bad", [{"bind": "1234"}, {"bind": "a b:1"}, {"certificate": "/a b"}, {"runtime_dir": "/x;y"}])
def test_what_would_break_a_file_is_refused(bad: dict[str, str]) -> None:
    with pytest.raises((BadAddress, ValueError)):
        BalancerSettings(**bad)


# --- stopping ----------------------------------------------------------------------------------------


async def test_a_stopping_server_answers_what_a_websocket_has_asked(store: MemoryStore) -> None:
    services = await services_over(store)
    server = await serve(services, "127.0.0.1", 0)
    held = asyncio.Event()
    current = services.head_source.current

    async def slow() -> object:
        await held.wait()
        return await current()

    services.head_source.current = slow  # type: ignore[method-assign, assignment]
    async with aiohttp.ClientSession() as session, session.ws_connect(server.url) as ws:
        await ws.send_bytes(HEAD)
        while not server.dispatcher.in_flight:
            await asyncio.sleep(0.005)
        server.drain()
        # a new one is sent elsewhere, before and while it stops
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(server.url)
        assert refused.value.status == 503
        stopping = asyncio.create_task(server.stop(20))
        await asyncio.sleep(0.05)
        assert not stopping.done()
        held.set()
        assert b'"result"' in (await ws.receive(10)).data.encode()
        last = await ws.receive(10)
        assert (last.type, last.data) == (aiohttp.WSMsgType.CLOSE, 1001)
        await stopping


async def test_a_draining_server_closes_connections_behind_their_answers(store: MemoryStore) -> None:
    async with served(store) as server, aiohttp.ClientSession() as session:
        for chunked in (False, True):
            data = HEAD if not chunked else aiohttp.payload.AsyncIterablePayload(_once(HEAD))
            async with session.post(server.url, data=data) as response:
                assert "Connection" not in response.headers
        server.drain()
        for chunked in (False, True):
            data = HEAD if not chunked else aiohttp.payload.AsyncIterablePayload(_once(HEAD))
            async with session.post(server.url, data=data) as response:
                assert response.headers["Connection"] == "close"
                assert b'"result"' in await response.read()


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
