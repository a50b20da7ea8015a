"""Tenants: whose key opens what, how much, and that one who floods takes nothing from the others."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from rpc.errors import METHOD_REFUSED, RATE_REFUSED
from rpc.server.auth import make_token
from rpc.server.gate import tenants as tenants_module
from rpc.server.gate.gate import GateSettings
from rpc.server.gate.tenants import Tenants
from tests.support.http_raw import post
from tests.support.wire_server import call, node, soon, until

SECRET = b"0123456789abcdef0123456789abcdef"


def key_of(name: str) -> str:
    return f"key-of-{name}-0123456789"


def entry(name: str, *lines: str) -> str:
    digest = hashlib.sha256(key_of(name).encode()).hexdigest()
    return "\n".join((f"[tenant.{name}]", f'key_sha256 = ["{digest}"]', *lines, ""))


def tenants_of(path: Path, *entries: str) -> Tenants:
    path.write_text("\n".join(entries))
    found = Tenants(path)
    found.load()
    return found


async def ask(port: int, method: str, *params: Any, key: str = "") -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = await soon(post(port, call(method, *params), headers=headers))
    return answer.status, orjson.loads(answer.body) if answer.body else {}


async def test_a_key_opens_what_its_tenant_may(tmp_path: Path) -> None:
    tenants = tenants_of(
        tmp_path / "tenants.toml",
        entry("reader"),
        entry("writer", 'permissions = ["read", "write"]', 'methods = ["!Test.Add", "!Test.No*"]'),
        entry("few", 'methods = ["test_echo"]'),
    )
    async with node(tenants=tenants, gate=GateSettings(), jwt_secret=SECRET) as one:
        assert (await ask(one.port, "Test.Write", key=key_of("writer")))[1]["result"] is True
        status, answer = await ask(one.port, "Test.Write", key=key_of("reader"))
        assert (status, answer["error"]["code"]) == (200, 1)
        for name, method, params in (
            ("writer", "Test.Add", (1, 2)),
            ("writer", "Test.Note", ("X", "y")),
            ("few", "Test.Add", (1, 2)),
        ):
            status, answer = await ask(one.port, method, *params, key=key_of(name))
            assert (status, answer["error"]["code"]) == (200, METHOD_REFUSED), (name, method)
            assert answer["error"]["message"] == f"method '{method}' is not allowed here"
        # a method is the same under each of its names
        for method in ("Test.Echo", "test_echo"):
            assert (await ask(one.port, method, 5, key=key_of("few")))[1]["result"] == 5
        # a token is good beside the keys, an unknown key is a bad token, and nobody is the default
        assert (await ask(one.port, "Test.Write", key=make_token(SECRET, ["write"])))[1]["result"] is True
        assert (await ask(one.port, "Test.Echo", 1, key="key-of-nobody")) == (401, {})
        assert (await ask(one.port, "Test.Echo", 1))[1]["result"] == 1
        answer = await soon(post(one.port, call("Test.Write"), path=f"/rpc/v1?token={key_of('writer')}"))
        assert orjson.loads(answer.body)["result"] is True


async def test_without_a_secret_only_keys_are_tokens(tmp_path: Path) -> None:
    tenants = tenants_of(tmp_path / "tenants.toml", entry("one"))
    async with node(tenants=tenants, gate=GateSettings(), default_permissions=frozenset()) as server:
        assert (await ask(server.port, "Test.Echo", 1, key=key_of("one")))[1]["result"] == 1
        assert (await ask(server.port, "Test.Echo", 1, key=make_token(SECRET, ["admin"]))) == (401, {})
        assert (await ask(server.port, "Test.Echo", 1))[1]["error"]["message"].startswith("missing permission")


async def test_a_refusal_says_the_limit_and_when_to_try_again(tmp_path: Path) -> None:
    tenants = tenants_of(tmp_path / "tenants.toml", entry("small", "tokens_per_second = 0.01", "burst = 3"))
    async with node(tenants=tenants, gate=GateSettings()) as one:
        for _ in range(3):
            assert (await ask(one.port, "Test.Echo", 1, key=key_of("small")))[0] == 200
        answer = await soon(
            post(one.port, call("Test.Echo", 1), headers={"Authorization": f"Bearer {key_of('small')}"})
        )
        error = orjson.loads(answer.body)["error"]
        assert (answer.status, error["code"]) == (429, RATE_REFUSED)
        assert "tokens_per_second of tenant small is 0.01 tokens a second; try again in " in error["message"]
        assert error["data"]["limit"] == "tokens_per_second"
        assert 50 < error["data"]["retryAfterSeconds"] <= 100
        assert int(answer.headers["retry-after"]) >= 1
        # over a WebSocket, by each of its calls; channels too
        headers = {"Authorization": f"Bearer {key_of('small')}"}
        async with aiohttp.ClientSession() as session, session.ws_connect(one.server.url, headers=headers) as ws:
            for method, params in (("Test.Echo", [1]), ("Test.Count", [3])):
                await ws.send_json({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
                assert (await soon(ws.receive_json()))["error"]["code"] == RATE_REFUSED
        # one who has no key has no part in this
        assert (await ask(one.port, "Test.Echo", 1))[0] == 200


async def test_the_file_is_read_again_and_a_bad_one_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tenants_module, "_LOOK_SECONDS", 0.01)
    path = tmp_path / "tenants.toml"
    tenants = tenants_of(path, entry("old", "tokens_per_second = 0.01", "burst = 2"))
    watching = asyncio.create_task(tenants.watch())
    async with node(tenants=tenants, gate=GateSettings()) as one:
        assert (await ask(one.port, "Test.Echo", 1, key=key_of("old")))[0] == 200
        path.write_text(entry("old", "tokens_per_second = 0.01", "burst = 2") + entry("new"))
        await until(lambda: tenants.find(key_of("new")) is not None)
        assert (await ask(one.port, "Test.Echo", 1, key=key_of("new")))[0] == 200
        # what a tenant has used stays used
        assert (await ask(one.port, "Test.Echo", 1, key=key_of("old")))[0] == 200
        assert (await ask(one.port, "Test.Echo", 1, key=key_of("old")))[0] == 429
        with caplog.at_level(logging.ERROR):
            path.write_text(entry("new", 'permissions = ["root"]'))
            await until(lambda: "the tenants stay as they were: tenant new: permissions are of" in caplog.text)
        assert (await ask(one.port, "Test.Echo", 1, key=key_of("new")))[0] == 200
        with caplog.at_level(logging.ERROR):
            path.write_text("x = " + "[" * 20_000)
            await until(lambda: caplog.text.count("the tenants stay as they were") > 1)
        path.write_text(entry("old"))
        await until(lambda: tenants.find(key_of("new")) is None)
        # a key that was taken away opens nothing from then on, though it was good a moment ago
        assert (await ask(one.port, "Test.Echo", 1, key=key_of("new")))[0] == 401
    watching.cancel()


async def test_a_file_that_is_being_written_takes_no_key_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor may empty it before it writes: what was good a moment ago stays good."""
    monkeypatch.setattr(tenants_module, "_LOOK_SECONDS", 0.0)
    path = tmp_path / "tenants.toml"
    tenants = tenants_of(path, entry("old"))
    written = ["", entry("old") + entry("new")]
    really_look = tenants._stamp

    def look() -> object:
        if written:
            path.write_text(written.pop(0))
        return really_look()

    monkeypatch.setattr(tenants, "_stamp", look)
    found: list[bool] = []
    tenants.on_change = lambda: found.append(tenants.find(key_of("old")) is not None)
    watching = asyncio.create_task(tenants.watch())
    await until(lambda: tenants.find(key_of("new")) is not None)
    watching.cancel()
    assert found == [True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[tenant.a]\nkey = "secret"', "a tenant has the fields"),
        ('[tenant.a]\nkey_sha256 = "abcd"', "no SHA-256 digest"),
        ('[tenant.a]\nkey_sha256 = "secret"', "tenant a: "),
        ("[tenant.a]\ntokens_per_second = -1", "tokens_per_second is a number"),
        ('[tenant.a]\nmethods = ["Filecoin.X Y"]', "entry 1 of the methods is no name"),
        ("[tenants.a]", "tables named tenant.NAME"),
        (entry("a") + entry("a").replace("tenant.a", "tenant.b"), "one of its keys is that of tenant a"),
        ("tenant = 5", "tables named"),
        ("[tenant.a", "Expected"),
    ],
)
def test_a_bad_file_is_refused_and_no_key_is_told(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        tenants_of(tmp_path / "tenants.toml", text)
    assert "secret" not in str(refused.value)


async def test_one_who_floods_takes_nothing_from_the_others(tmp_path: Path) -> None:
    """Ten tenants from one address; one asks for 50 times its quota, nine stay within theirs."""
    quota, seconds = 20, 1.0
    names = [f"tenant{number}" for number in range(10)]
    tenants = tenants_of(
        tmp_path / "tenants.toml", *(entry(name, f"tokens_per_second = {quota}", f"burst = {quota}") for name in names)
    )
    outcomes: dict[str, list[int]] = {name: [] for name in names}
    async with node(tenants=tenants, gate=GateSettings()) as one, aiohttp.ClientSession() as session:
        url = one.server.url

        async def asks(name: str, count: int) -> None:
            async def single() -> None:
                headers = {"Authorization": f"Bearer {key_of(name)}"}
                async with session.post(url, data=call("Test.Echo", 1), headers=headers) as answer:
                    await answer.read()
                    outcomes[name].append(answer.status)

            loop = asyncio.get_running_loop()
            began = loop.time()
            running = []
            for number in range(count):
                await asyncio.sleep(began + number * seconds / count - loop.time())
                running.append(asyncio.create_task(single()))
            await asyncio.gather(*running)

        began = asyncio.get_running_loop().time()
        flood = int(50 * quota * seconds)
        await asyncio.gather(asks(names[0], flood), *(asks(name, int(quota * seconds * 0.8)) for name in names[1:]))
        took = asyncio.get_running_loop().time() - began
    for name in names[1:]:
        assert set(outcomes[name]) == {200}, name
    flooding = outcomes[names[0]]
    assert len(flooding) == flood
    # it got what its quota has, and no more
    assert quota <= flooding.count(200) <= quota + quota * took + 1
    assert flooding.count(429) == flood - flooding.count(200)
