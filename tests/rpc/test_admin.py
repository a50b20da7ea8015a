"""The administration API, and its dispatcher beside the product's own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jsonrpcserver import Result, Success

from rpc.server.admin import AdminMethod, AdminSite, dispatch, guarded, is_loopback
from rpc.server.auth import Tokens, make_token
from rpc.server.dispatch import Dispatcher
from tests.support.wire_methods import make_registry
from tests.support.wire_node import services
from tests.support.wire_server import ECHO, call

SECRET = b"0123456789abcdef0123456789abcdef"


class Asker:
    def __init__(self, admin: AdminSite, http: aiohttp.ClientSession) -> None:
        self.admin, self._http = admin, http

    async def post(self, body: bytes, **headers: str) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"} | headers
        async with self._http.post(f"http://127.0.0.1:{self.admin.port}/", data=body, headers=headers) as response:
            return response.status, await response.read()

    async def call(self, method: str, *params: Any) -> Any:
        status, body = await self.post(call(method, *params))
        assert status == 200
        return json.loads(body)


@asynccontextmanager
async def asker(**options: Any) -> AsyncIterator[Asker]:
    methods: dict[str, AdminMethod] = {"admin.status": guarded(status)} | options.pop("methods", {})
    admin = AdminSite(methods, tokens=Tokens(SECRET, frozenset()), **options)
    await admin.listen("127.0.0.1", 0)
    token = {"Authorization": f"Bearer {make_token(SECRET, ['admin'])}"}
    async with aiohttp.ClientSession(headers=token) as http:
        yield Asker(admin, http)
    await admin.close()


async def status() -> Result:
    return Success({"pid": 1})


async def test_who_may_ask() -> None:
    body = call("admin.status")
    async with asker() as ask:
        assert (await ask.post(body))[0] == 200
        read = make_token(SECRET, ["read"])
        assert (await ask.post(body, Authorization=""))[0] == 401, "this machine is not trusted by itself"
        assert (await ask.post(body, Authorization=f"Bearer {read}"))[0] == 401
        assert (await ask.post(body, Authorization="Bearer x"))[0] == 401
        assert (await ask.post(body, **{"Content-Type": "text/plain"}))[0] == 415
        assert (await ask.post(b"x" * 100_000))[0] == 413
    assert is_loopback("127.0.0.5")
    assert is_loopback("::1")
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("10.0.0.1")
    assert not is_loopback(None)


async def test_this_machine_is_trusted_when_the_operator_says_so() -> None:
    async with asker(trusts_loopback=True) as ask:
        assert (await ask.post(call("admin.status"), Authorization=""))[0] == 200
        assert (await ask.post(call("admin.status"), Authorization="Bearer x"))[0] == 401


async def test_web_pages_are_refused() -> None:
    body = call("admin.status")
    async with asker(hosts=["Follower.internal"], trusts_loopback=True) as ask:
        port = ask.admin.port
        for host in (
            "localhost",
            f"localhost:{port}",
            "127.0.0.1",
            f"[::1]:{port}",
            "10.1.2.3:1",
            "follower.internal:80",
        ):
            assert (await ask.post(body, Host=host))[0] == 200, host
        # a name that a page's owner has made to lead to this machine
        for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example", "[x]"):
            assert (await ask.post(body, Host=host))[0] == 403, host
        for origin in ("https://evil.example", "null", f"http://127.0.0.1:{port}"):
            assert (await ask.post(body, Origin=origin))[0] == 403, origin


async def test_an_exceptions_text_is_not_told() -> None:
    async def bad() -> Result:
        raise RuntimeError("the secret of /etc/passwd")

    async with asker(methods={"admin.bad": guarded(bad)}) as ask:
        answer = await ask.call("admin.bad")
        assert answer["error"] == {"code": -32603, "message": "internal error"}

    async def unguarded() -> Result:
        raise RuntimeError("the secret of /etc/passwd")

    for body in (call("bad"), b'{"jsonrpc":"2.0","id":1,"method":5,"secret":1}', b"\xff", b"{secret"):
        told = await dispatch({"bad": unguarded}, body)
        assert "secret" not in told.decode()
        assert json.loads(told)["error"]["code"] < -32000


CASES = [
    (ECHO % (7, 5)),
    call("Test.Echo", {"a": [1, None, "x"]}, id="name"),
    call("Test.Echo", None, id=-3),
    call("Test.Nope", id=4),
    call("Test.Echo", id=5),
    call("Test.Echo", 1, 2, id=6),
    b'{"jsonrpc":"2.0","method":"Test.Echo","params":[1]}',
    b"[%s,%s]" % (ECHO % (1, 1), ECHO % (2, 2)),
    b'[%s,{"jsonrpc":"2.0","method":"Test.Echo","params":[1]}]' % (ECHO % (1, 1)),
    b'[{"jsonrpc":"2.0","method":"Test.Echo","params":[1]}]',
    b"[]",
    b"{",
]


@pytest.mark.parametrize("body", CASES)
async def test_both_dispatchers_agree_where_the_specification_speaks(body: bytes) -> None:
    async def echo(value: Any) -> Result:
        return Success(value)

    plain = await dispatch({"Test.Echo": guarded(echo)}, body)
    _, ours = await Dispatcher(services(), make_registry()).http(1, body)
    assert _told(ours) == _told(plain)


def _told(answer: bytes) -> Any:
    """An answer without its texts, which the specification leaves open."""
    if not answer:
        return None
    value = json.loads(answer)
    for item in value if isinstance(value, list) else [value]:
        if "error" in item:
            item["error"] = item["error"]["code"]
    return value


async def test_a_socket_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    for _ in range(2):
        # the second one finds what a process left that was killed
        site = AdminSite({"admin.status": guarded(status)})
        await site.listen_unix(path)
        assert path.stat().st_mode & 0o777 == 0o600
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http:
        async with http.post("http://localhost/", data=call("admin.status"), headers=headers) as response:
            assert json.loads(await response.read())["result"] == {"pid": 1}
        async with http.post("http://localhost/", data=call("admin.status"), headers={"Origin": "null"}) as response:
            assert response.status == 403
        async with http.post("http://localhost/", data=call("admin.status")) as response:
            assert response.status == 415
    await site.close()
    assert not path.exists()
