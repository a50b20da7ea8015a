"""The client's address from the PROXY protocol: of trusted balancers alone, whatever comes instead of a header."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import aiohttp
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadbalancer.fleet import Member
from loadbalancer.haproxy import haproxy_config
from loadbalancer.nginx import nginx_config
from loadbalancer.settings import BalancerSettings
from rpc.server.gate.proxy_header import (
    V2_LONGEST,
    V2_SIGNATURE,
    BadProxyHeader,
    ProxyHeader,
    read_proxy_header,
)
from tests.support.http_raw import RawClient, request
from tests.support.proxies import Proxy
from tests.support.wire_server import ECHO, Node, node, soon, until

CLIENT = "203.0.113.7"
V1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n"


def v2(family: int, addresses: bytes, fields: bytes = b"", command: int = 1) -> bytes:
    """A header of version 2."""
    rest = addresses + fields
    return V2_SIGNATURE + bytes((0x20 | command, family)) + len(rest).to_bytes(2) + rest


TCP4 = IPv4Address(CLIENT).packed + IPv4Address("192.0.2.1").packed + bytes((220, 4, 1, 187))
TCP6 = IPv6Address("2001:db8::7").packed + IPv6Address("2001:db8::1").packed + bytes((220, 4, 1, 187))
V2 = v2(0x11, TCP4)
#: an ALPN, a checksum that nobody reads, and a field of no bytes
FIELDS = b"\x01\x00\x02h2\x03\x00\x04\x01\x02\x03\x04\x04\x00\x00"


@pytest.mark.parametrize(
    ("data", "client"),
    [
        (V1, CLIENT),
        (b"PROXY TCP6 2001:db8::7 ::1 0 65535\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", ""),
        (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", ""),
        (V2, CLIENT),
        (v2(0x11, TCP4, FIELDS), CLIENT),
        (v2(0x21, TCP6), "2001:db8::7"),
        (v2(0x31, bytes(216)), ""),
        (v2(0x00, b""), ""),
        (v2(0x00, b"\x04\x00\x01\x00"), ""),
        (v2(0x00, b"", command=0), ""),
        # of the balancer's own connections nothing else counts
        (v2(0x11, b"abc", command=0), ""),
    ],
)
def test_headers(data: bytes, client: str) -> None:
    assert read_proxy_header(data) == ProxyHeader(len(data), client)
    assert read_proxy_header(data + b"POST /rpc/v1") == ProxyHeader(len(data), client)
    for end in range(len(data)):
        assert read_proxy_header(data[:end]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 56324\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443 5\r\n",
        b"PROXY TCP4  203.0.113.7 192.0.2.1 56324 443\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 65536\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 +1 443\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 1_0 443\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 01 443\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 -1 443\r\n",
        b"PROXY TCP4 203.0.113.256 192.0.2.1 1 443\r\n",
        b"PROXY TCP4 0203.0.113.7 192.0.2.1 1 443\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 1 443\r\n",
        b"PROXY TCP6 203.0.113.7 192.0.2.1 1 443\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 443\r\n",
        b"PROXY TCP4 \xff03.0.113.7 192.0.2.1 1 443\r\n",
        b"PROXY UDP4 203.0.113.7 192.0.2.1 1 443\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 1 443\n" + b" " * 80,
        b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
        V2_SIGNATURE + b"\x11" + V2[13:],
        V2_SIGNATURE + b"\x22" + V2[13:],
        v2(0x12, TCP4),
        v2(0x41, TCP4),
        v2(0x11, TCP4[:-1]),
        v2(0x21, TCP4),
        v2(0x11, TCP4, b"\x01"),
        v2(0x11, TCP4, b"\x01\x00\x05h2"),
        v2(0x11, TCP4, bytes(V2_LONGEST)),
        V2_SIGNATURE[:11] + b"X" + V2[12:],
    ],
)
def test_what_is_no_header(data: bytes) -> None:
    with pytest.raises(BadProxyHeader):
        read_proxy_header(data)


@given(st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", V2_SIGNATURE, V2[:13], V2[:14]]), st.binary(max_size=300))
def test_no_bytes_do_anything_else(start: bytes, data: bytes) -> None:
    try:
        found = read_proxy_header(start + data)
    except BadProxyHeader:
        return
    assert found is None or 0 < found.length <= len(start + data)


@given(st.ip_addresses(), st.integers(0, 65535), st.binary(max_size=40))
def test_whom_a_header_names(address: IPv4Address | IPv6Address, port: int, rest: bytes) -> None:
    is_v4 = address.version == 4
    line = f"PROXY TCP{address.version} {address} {address} {port} {port}\r\n".encode()
    assert read_proxy_header(line + rest) == ProxyHeader(len(line), str(address))
    ends = port.to_bytes(2) * 2
    header = v2(0x11 if is_v4 else 0x21, address.packed + address.packed + ends)
    assert read_proxy_header(header + rest) == ProxyHeader(len(header), str(address))


async def _clients_of(one: Node, *parts: bytes) -> dict[str, int]:
    """Whose a connection is that sends these parts and a request, while it is open."""
    client = await RawClient.connect(one.port)
    for part in parts:
        await client.send(part)
        await asyncio.sleep(0)
    await client.send(request(ECHO % (1, 5)))
    answer = await client.answer()
    assert (answer.status, orjson.loads(answer.body)["result"]) == (200, 5)
    budget = one.server.dispatcher.admission.connections
    found = {name: used for name, used in budget.by_client.items() if used}
    assert budget.used == 1
    await client.close()
    await until(lambda: budget.used == 0)
    return found


@pytest.mark.parametrize("header", [V1, V2, v2(0x11, TCP4, FIELDS)])
async def test_a_trusted_balancer_names_the_client(header: bytes) -> None:
    async with node(proxy_protocol=True) as one:
        assert await soon(_clients_of(one, header)) == {CLIENT: 1}
        for end in (1, 6, len(header) - 1):
            assert await soon(_clients_of(one, header[:end], header[end:])) == {CLIENT: 1}
        # none is needed: health checks, and who stands beside the follower
        assert await soon(_clients_of(one)) == {}
        assert await soon(_clients_of(one, v2(0, b"", command=0))) == {}


async def test_nobody_else_does() -> None:
    async with node(proxy_protocol=True, trusted_proxies=("10.0.0.0/8",)) as one:
        assert await soon(_clients_of(one)) == {"127.0.0.1": 1}
        for header in (V1, V2):
            client = await RawClient.connect(one.port)
            await client.send(header + request(ECHO % (1, 5)))
            # an HTTP server that has never heard of it
            assert b" 400 " in (await soon(client.closed()))[:16]
            assert CLIENT not in one.server.dispatcher.admission.connections.by_client
    async with node() as one:
        client = await RawClient.connect(one.port)
        await client.send(V1 + request(ECHO % (1, 5)))
        assert b" 400 " in (await soon(client.closed()))[:16]


async def test_a_broken_header_ends_the_connection() -> None:
    async with node(proxy_protocol=True) as one:
        for broken in (b"PROXY TCP4 1.2.3.4 5\r\n", V2[:12] + b"\x21\x11\x00\x01", b"PROXY " + b"x" * 200):
            client = await RawClient.connect(one.port)
            await client.send(broken + request(ECHO % (1, 5)))
            assert await soon(client.closed()) == b""
        await until(lambda: one.server.dispatcher.admission.connections.used == 0)
        assert one.server.dispatcher.refusals.counts["proxy_header"] == 3


async def test_a_header_that_does_not_end_is_not_waited_for() -> None:
    async with node(proxy_protocol=True, head_timeout_seconds=0.1) as one:
        client = await RawClient.connect(one.port)
        await client.send(V1[:-3])
        assert await soon(client.closed()) == b""
        await until(lambda: one.server.dispatcher.admission.connections.used == 0)


async def test_the_client_has_the_shares_of_its_address_and_names_nobody_else() -> None:
    async with node(proxy_protocol=True, max_connections_per_client=1) as one:
        first = await RawClient.connect(one.port)
        await first.send(V1 + request(ECHO % (1, 5)))
        assert (await soon(first.answer())).status == 200
        second = await RawClient.connect(one.port)
        await second.send(V2 + request(ECHO % (1, 5), headers={"X-Forwarded-For": "198.51.100.1"}))
        assert (await soon(second.answer())).status == 429
        await first.close()
        await until(lambda: one.server.dispatcher.admission.connections.used == 0)
        third = await RawClient.connect(one.port)
        await third.send(V1 + request(ECHO % (1, 5), headers={"X-Forwarded-For": "198.51.100.1"}))
        assert (await soon(third.answer())).status == 200
        assert "198.51.100.1" not in one.server.dispatcher.admission.working.by_client
        await third.close()


@pytest.mark.parametrize("header", ["send-proxy-v2", "send-proxy"])
async def test_behind_haproxy(header: str) -> None:
    proxy = Proxy("haproxy")
    try:
        # HAProxy comes from 127.0.0.1, the client from elsewhere
        async with node(proxy_protocol=True, trusted_proxies=("127.0.0.1",)) as one:
            member = Member(f"127.0.0.1:{one.port}")
            config = haproxy_config([member], BalancerSettings(f"127.0.0.1:{proxy.port}", proxy_protocol=True))
            proxy.file.write_text(config.replace("send-proxy-v2 ", f"{header} "))
            await asyncio.to_thread(proxy.start)
            await soon(_through(proxy, one))
    finally:
        proxy.stop()


async def test_behind_nginx() -> None:
    proxy = Proxy("nginx")
    try:
        _needs_stream_module()
        async with node(proxy_protocol=True, trusted_proxies=("127.0.0.1",)) as one:
            settings = BalancerSettings(f"127.0.0.1:{proxy.port}", runtime_dir=str(proxy.folder), proxy_protocol=True)
            proxy.file.write_text(nginx_config([Member(f"127.0.0.1:{one.port}")], settings))
            await proxy.balancer.check(proxy.file)
            await asyncio.to_thread(proxy.start)
            await soon(_through(proxy, one))
            # what a client writes is no header: it is HTTP, and its X-Forwarded-For is a stranger's
            async with aiohttp.ClientSession() as session:
                spoofed = {"X-Forwarded-For": "198.51.100.1"}
                async with session.post(proxy.url, data=ECHO % (1, 5), headers=spoofed) as answer:
                    assert answer.status == 200
        # the same from a follower that does not read headers: nginx really sends one
        async with node(proxy_protocol=False, trusted_proxies=("127.0.0.1",)) as one:
            proxy.file.write_text(nginx_config([Member(f"127.0.0.1:{one.port}")], settings))
            assert proxy.process is not None
            proxy.process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(30):
                while await _status(proxy) != 400:
                    await asyncio.sleep(0.05)
    finally:
        await asyncio.to_thread(proxy.stop)


async def _status(proxy: Proxy) -> int:
    """The status of one call on a new connection; 0 where nobody answers."""
    try:
        async with aiohttp.ClientSession() as session, session.post(proxy.url, data=ECHO % (1, 5)) as answer:
            return answer.status
    except aiohttp.ClientError:
        return 0


def _needs_stream_module() -> None:
    """Skips the test where nginx has no stream module, or fails it when REQUIRE_SERVERS=1."""
    built = subprocess.run(["nginx", "-V"], capture_output=True, text=True, check=True).stderr
    if "--with-stream " in built or any(Path("/etc/nginx/modules-enabled").glob("*stream*")):
        return
    reason = "nginx has no stream module; install Debian's package libnginx-mod-stream"
    if os.environ.get("REQUIRE_SERVERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


async def _through(proxy: Proxy, one: Node) -> None:
    connections = one.server.dispatcher.admission.connections
    connector = aiohttp.TCPConnector(local_addr=("127.0.0.5", 0), family=socket.AF_INET)
    async with aiohttp.ClientSession(connector=connector) as session:
        while True:
            async with session.post(proxy.url, data=ECHO % (1, 5)) as answer:
                if answer.status == 200:
                    break
            # HAProxy has not checked the follower yet
            await asyncio.sleep(0.05)
        assert connections.by_client["127.0.0.5"] == 1
        async with session.ws_connect(proxy.url) as ws:
            await ws.send_bytes(ECHO % (2, 7))
            assert orjson.loads((await ws.receive()).data)["result"] == 7
            assert one.server.dispatcher.admission.websockets.by_client["127.0.0.5"] == 1
