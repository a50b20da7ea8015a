"""Heads that clients repeat are read once: what is remembered, what is not, and that it changes no answer."""

from __future__ import annotations

import json

from rpc.server.auth import make_token
from tests.support.http_raw import RawClient, request
from tests.support.wire_server import ECHO, Node, node, soon


def _known(n: Node) -> dict[bytes, object]:
    return n.server._shared.known_heads.heads  # type: ignore[return-value]


async def _ask(client: RawClient, number: int, **options: object) -> object:
    await client.send(request(ECHO % (number, number), **options))  # type: ignore[arg-type]
    return json.loads((await soon(client.answer())).body)["result"]


async def test_a_head_is_read_once_whatever_body_follows_and_on_all_connections() -> None:
    async with node() as n:
        for _ in range(2):
            client = await RawClient.connect(n.port)
            for number in (1, 2, 3):
                assert await _ask(client, number) == number
            await client.close()
        assert len(_known(n)) == 1


async def test_known_and_new_heads_mix_on_one_connection_in_pieces_too() -> None:
    async with node() as n:
        client = await RawClient.connect(n.port)
        # of one length: the same head each time; the odd ones have a header that is new
        for number in range(10, 60):
            headers = {"X-New": str(number)} if number % 2 else {}
            data = request(ECHO % (number, number), headers=headers)
            for part in (data[: number * 2], data[number * 2 : -3], data[-3:]):
                await client.send(part)
            assert json.loads((await soon(client.answer())).body)["result"] == number
        # behind known heads: a body in chunks, which another handler reads
        body = ECHO % (7, 7)
        await client.send(b"POST /rpc/v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        assert json.loads((await soon(client.answer())).body)["result"] == 7
        await client.close()


async def test_what_a_head_says_of_the_connection_is_remembered() -> None:
    async with node() as n:
        for _ in range(2):
            client = await RawClient.connect(n.port)
            await client.send(request(ECHO % (1, 1), headers={"Connection": "close"}))
            answer = await soon(client.answer())
            assert answer.headers["connection"] == "close"
            assert await soon(client.closed()) == b""


async def test_no_head_with_a_token_is_remembered() -> None:
    async with node() as n:
        token = make_token(b"k" * 32, ["read"])
        client = await RawClient.connect(n.port)
        await client.send(request(ECHO % (1, 1), headers={"Authorization": f"Bearer {token}"}))
        await soon(client.answer())
        assert not _known(n)
        await client.close()


async def test_ever_new_heads_are_forgotten() -> None:
    async with node() as n:
        client = await RawClient.connect(n.port)
        for number in range(1100):
            assert await _ask(client, 1, headers={"X-New": str(number)}) == 1
        assert len(_known(n)) < 200
        assert await _ask(client, 1, headers={"X-Long": "x" * 2000}) == 1
        assert max(map(len, _known(n))) <= 1024
        await client.close()


async def test_a_body_that_is_too_long_is_refused_each_time_though_it_comes_in_one_piece_with_its_head() -> None:
    async with node(max_body_bytes=100) as n:
        for _ in range(3):
            client = await RawClient.connect(n.port)
            await client.send(request(ECHO % (1, 1) + b" " * 100))
            answer = await soon(client.answer())
            assert (answer.status, b"bigger than maximum 100" in answer.body) == (500, True)
            await client.close()


async def test_a_known_head_finds_kept_answers_and_closes_when_the_server_drains() -> None:
    async with node() as n:
        client = await RawClient.connect(n.port)
        for number in (1, 2, 3):
            assert await _ask(client, number) == number
        n.server.drain()
        await client.send(request(ECHO % (3, 3)))
        answer = await soon(client.answer())
        assert answer.headers["connection"] == "close"
        assert await soon(client.closed()) == b""
