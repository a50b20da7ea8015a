"""Clients are told apart by their addresses, through balancers that are trusted; filters of each are bounded."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.store import Store
from rpc.lookup.filters.filter_shares import FilterLimits
from rpc.lookup.filters.installed_filters import Filters
from rpc.server.client_address import PRIVATE, Clients, networks
from rpc.server.limits import ServerSettings
from rpc.server.server import Server, serve
from tests.support.event_chain import EventChain, follower_over, store_of
from tests.support.http_raw import RawClient, post, request

NEW = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_newBlockFilter", "params": []})
TOO_MANY = "too many filters of one client: at most 3; uninstall some"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("8.8.8.8", "", "8.8.8.8"),
        ("8.8.8.8", "1.1.1.1", "8.8.8.8"),  # a stranger's word
        ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "9.9.9.9, 1.1.1.1", "1.1.1.1"),  # what the client wrote itself
        ("10.0.0.1", "1.1.1.1, 192.168.0.7", "1.1.1.1"),  # two balancers
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.9", "10.0.0.9"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "1.1.1.1, nonsense", "10.0.0.1"),
        ("::1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.1", "::ffff:1.1.1.1", "1.1.1.1"),
        ("fe80::1%eth0", "", "fe80::/64"),
        ("", "1.1.1.1", ""),
    ],
)
def test_who_the_client_is(peer: str, forwarded: str, client: str) -> None:
    assert Clients().of(peer, forwarded) == client


@given(st.ip_addresses(v=4), st.lists(st.one_of(st.text(max_size=20), st.ip_addresses().map(str)), max_size=4))
def test_what_a_stranger_writes_changes_nothing(address: Any, said: list[str]) -> None:
    clients = Clients(("10.0.0.0/8",))
    text = ",".join(said)
    if not any(address in network for network in networks("10.0.0.0/8")):
        assert clients.of(str(address), text) == str(address)
        # nor behind a balancer, which adds the address that it has seen
        assert clients.of("10.0.0.1", f"{text}, {address}") == str(address)


def test_networks_are_named_where_they_are_none() -> None:
    assert len(networks(" 10.0.0.0/8,, ::1 ")) == 2
    with pytest.raises(ValueError, match="10\\.0\\.0\\.0/99"):
        networks("10.0.0.0/99")


@contextlib.asynccontextmanager
async def servers(store: Store, *trusted: str) -> AsyncIterator[list[Server]]:
    """Two followers over one store; a client may have three filters."""
    await EventChain(store).grow()
    limits = FilterLimits(per_client=3)
    made: list[Server] = []
    try:
        for _ in range(2):
            dispatcher = await follower_over(store, Filters(store, limits))
            dispatcher.settings = ServerSettings(trusted_proxies=trusted)
            made.append(await serve(dispatcher.services, "127.0.0.1", 0, dispatcher=dispatcher))
        yield made
    finally:
        for server in made:
            await server.stop(0)


async def install(server: Server, forwarded: str = "") -> Any:
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    return orjson.loads((await post(server.port, NEW, headers=headers)).body)


@pytest.fixture(params=["memory", "cassandra"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with store_of(request.param, tmp_path) as made:
        yield made


async def test_one_client_has_so_many_filters_on_all_followers(store: Store) -> None:
    async with servers(store, *PRIVATE) as (first, second):
        made = [await install(server, "1.1.1.1") for server in (first, second, first)]
        assert all("result" in answer for answer in made)
        for forwarded in ("1.1.1.1", "7.7.7.7, 1.1.1.1"):
            error = (await install(second, forwarded))["error"]
            assert (error["code"], error["message"]) == (-32005, TOO_MANY)
        # others are not touched by that
        assert "result" in await install(first, "1.1.1.2")
        assert "result" in await install(first)
        # one that is forgotten makes room
        gone = {"jsonrpc": "2.0", "id": 1, "method": "eth_uninstallFilter", "params": [made[1]["result"]]}
        assert orjson.loads((await post(first.port, orjson.dumps(gone))).body)["result"] is True
        assert "result" in await install(second, "1.1.1.1")
        assert "error" in await install(first, "1.1.1.1")


async def test_every_way_in_knows_the_client(tmp_path: Path) -> None:
    async with store_of("memory", tmp_path) as store, servers(store, *PRIVATE) as (first, second):
        client = {"X-Forwarded-For": "2001:db8::1"}
        assert "result" in orjson.loads((await post(first.port, NEW, headers=client)).body)
        raw = await RawClient.connect(first.port)
        # a body in chunks takes the other way through the server; two headers are one list
        head = request(b"", "GET", headers={"Transfer-Encoding": "chunked", "X-Forwarded-For": "9.9.9.9"})
        head = head.replace(b"GET", b"POST", 1).replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 2001:db8::2\r\n\r\n")
        await raw.send(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(NEW), NEW))
        assert b"result" in (await raw.answer()).body
        await raw.close()
        async with aiohttp.ClientSession() as session, session.ws_connect(second.url, headers=client) as ws:
            await ws.send_bytes(NEW)
            assert "result" in orjson.loads((await ws.receive()).data)
            await ws.send_bytes(NEW)
            assert orjson.loads((await ws.receive()).data)["error"]["message"] == TOO_MANY
        assert orjson.loads((await post(first.port, NEW, headers=client)).body)["error"]["message"] == TOO_MANY


async def test_a_balancer_that_is_not_trusted_is_one_client(tmp_path: Path) -> None:
    async with store_of("memory", tmp_path) as store, servers(store, "10.0.0.0/8") as (first, second):
        answers = [await install(first, f"1.1.1.{number}") for number in range(3)]
        assert all("result" in answer for answer in answers)
        assert (await install(second, "1.1.1.9"))["error"]["message"] == TOO_MANY
