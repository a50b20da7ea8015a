"""No secret is in a log, by whatever way it comes in: what a follower holds, and what its clients send."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from devnode.replay import ReplayNode, start_replay
from rpc.server.auth import make_token
from tests.support.processes import FollowerProcess, follower_process, free_port
from tests.support.recorded import recorded

JWT_SECRET = "0123456789abcdef-the-secret-of-tokens"
API_KEY = "kXy7-api_key_of_the_tenant-0123456789abcdef"
WRONG_KEY = "zzz9-a_key_that_opens_nothing-0123456789abc"
NODE_TOKEN = "N0de.token.abcdefgh"
NODE_PASSWORD = "N0dePassw0rd"
GOOD_TOKEN = make_token(JWT_SECRET.encode(), ["read", "write"])
FORGED_TOKEN = make_token(b"another secret of thirty-two bytes", ["admin"])
#: what the follower holds, and what its clients send
HELD = (JWT_SECRET, NODE_TOKEN, NODE_PASSWORD)
SENT = (API_KEY, WRONG_KEY, GOOD_TOKEN, FORGED_TOKEN)


def call(method: str, params: Any, request_id: Any = 1) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})


def bodies(secret: str) -> list[bytes]:
    """Requests that hold a secret in each place that a client may put it."""
    link = {"/": secret}
    return [
        call(secret, []),
        call(f"Filecoin.{secret}", []),
        call("Filecoin.ChainHead", [], secret),
        call("Filecoin.ChainHead", [], {"a": secret}),
        call("Filecoin.ChainHead", [secret]),
        call("Filecoin.ChainHead", {"token": secret}),
        call("Filecoin.ChainGetBlock", [link]),
        call("Filecoin.StateGetActor", [secret, [link]]),
        call("Filecoin.WalletBalance", [secret]),
        call("eth_getBalance", [secret, "latest"]),
        call("eth_call", [{"data": secret}, secret]),
        call("eth_getFilterChanges", [secret]),
        call("Filecoin.MpoolPush", [{"Message": {"To": secret}, "Signature": secret}]),
        call("Filecoin.MpoolGetNonce", [secret]),
        call("Filecoin.AuthVerify", [secret]),
        call("Filecoin.LogSetLevel", [secret, secret]),
        b"[" + call("Filecoin.Version", [], secret) + b"," + call(secret, [secret]) + b"]",
        orjson.dumps({"jsonrpc": secret, "id": 1, "method": "Filecoin.Version", "token": secret}),
        b'{"jsonrpc":"2.0","id":1,"method":"Filecoin.Version","params":"' + secret.encode(),
        b'"' + secret.encode() + b'"',
        secret.encode(),
    ]


def heads(secret: str) -> list[dict[str, str]]:
    """Headers that hold it."""
    return [
        {"Authorization": f"Bearer {secret}"},
        {"Authorization": secret},
        {"Authorization": f"Basic {secret}"},
        {"X-Forwarded-For": secret},
        {"X-Filecoin-Min-Head": secret},
        {"Cookie": f"token={secret}"},
        {"Host": secret},
        {"Origin": f"https://{secret}"},
        {"traceparent": secret},
        {"X-Api-Key": secret},
    ]


def broken(secret: str) -> list[bytes]:
    """What is no HTTP, or odd."""
    text = secret.encode()
    return [
        b"POST /rpc/v1?token=" + text + b" HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /rpc/v1?token=" + text + b" HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /rpc/v1?token=" + text + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + text + b"\x00: x\r\n\r\n",
        text + b"\r\n\r\n",
        b"POST /rpc/v1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\nAuthorization: Bearer " + text + b"\r\n\r\nzz\r\n",
        b"POST /rpc/v1?token=" + text + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx",
        b"POST /rpc/v1 HTTP/1.1\r\nX: " + text * 600 + b"\r\n\r\n",
    ]


class Attacker:
    """Sends a secret by each way in, and keeps what is answered."""

    def __init__(self, session: aiohttp.ClientSession, port: int, admin: int) -> None:
        self._session, self._port, self._admin = session, port, admin
        self.answers: list[str] = []

    async def _ask(self, path: str, *, port: int = 0, verb: str = "POST", body: bytes = b"", **headers: str) -> None:
        url = f"http://127.0.0.1:{port or self._port}{path}"
        headers = {"Content-Type": "application/json", **headers}
        with contextlib.suppress(aiohttp.ClientError):
            async with self._session.request(verb, url, data=body, headers=headers) as answer:
                self.answers.append(f"{answer.status} {dict(answer.headers)} {await answer.text()}")

    async def send(self, secret: str) -> None:
        """By each way in."""
        version = call("Filecoin.Version", [])
        for body in bodies(secret):
            await self._ask("/rpc/v1", body=body)
        for more in heads(secret):
            await self._ask("/rpc/v1", body=version, **more)
            await self._ask("/rpc/v0", verb="GET", **more)
            await self._ask("/", port=self._admin, body=call("admin.status", []), **more)
        for path in ("/rpc/v1", "/rpc/v0", "/rpc/v2", f"/{secret}", "/", "/metrics", "/readyz", f"/obj/{secret}"):
            for query in (f"?token={secret}", f"?verbose&token={secret}", f"?{secret}", f"?key={secret}"):
                await self._ask(path + query, body=version)
                await self._ask(path + query, verb="GET")
        for name in ("admin.log_level", "admin.drain", secret):
            await self._ask("/", port=self._admin, body=call(name, [secret, secret]))
        await self._over_websocket(secret)
        for data in broken(secret):
            await self._raw(data)

    async def _over_websocket(self, secret: str) -> None:
        url = f"http://127.0.0.1:{self._port}/rpc/v1"
        for query, headers, protocols in (
            (f"?token={secret}", {}, ()), ("", {"Authorization": f"Bearer {secret}"}, ()), ("", {}, (secret[:40],)),
        ):  # fmt: skip
            with contextlib.suppress(aiohttp.ClientError):
                async with self._session.ws_connect(url + query, headers=headers, protocols=protocols) as ws:
                    for body in bodies(secret):
                        await ws.send_bytes(body)
                    await ws.send_bytes(call("eth_subscribe", [secret], 5))
                    await ws.send_bytes(call("Filecoin.Version", [], "last"))
                    async with asyncio.timeout(60):
                        while '"last"' not in (text := str((await ws.receive()).data)):
                            self.answers.append(text)

    async def _raw(self, data: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(data)
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(0.3):
                self.answers.append((await reader.read(1 << 16)).decode(errors="replace"))
        writer.transport.abort()


async def start(tmp_path: Path, node: ReplayNode) -> tuple[list[str], int, int]:
    """The arguments of a `follower up`, and its ports: for clients, for administration."""
    (tmp_path / "jwt").write_text(JWT_SECRET)
    digest = hashlib.sha256(API_KEY.encode()).hexdigest()
    (tmp_path / "tenants.toml").write_text(f'[tenant.explorer]\nkey_sha256 = "{digest}"\n')
    listen, admin = free_port(), free_port()
    port = node.base.rpartition(":")[2]
    arguments = [
        "up", "--store", f"lmdb://{tmp_path}/store", "--state", "lazy",
        "--node", f"{NODE_TOKEN}:http://me:{NODE_PASSWORD}@127.0.0.1:{port}",
        "--network-file", str(recorded("devnet/network.json")), "--listen", f"127.0.0.1:{listen}",
        "--admin-listen", f"127.0.0.1:{admin}", "--jwt-secret-file", f"{tmp_path}/jwt",
        "--tenants-file", f"{tmp_path}/tenants.toml", "--log-format", "json", "--log-level", "debug",
    ]  # fmt: skip
    return arguments, listen, admin


async def wait_for_head(session: aiohttp.ClientSession, port: int) -> None:
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            url = f"http://127.0.0.1:{port}/rpc/v1"
            async with session.post(url, data=call("Filecoin.ChainHead", [])) as answer:
                if '"result"' in await answer.text():
                    return
        await asyncio.sleep(0.1)


async def test_no_secret_is_logged_by_whatever_way_it_comes_in(tmp_path: Path) -> None:
    node = await start_replay(recorded("devnet/chain.car.zst").parent, at_end=True)
    arguments, port, admin = await start(tmp_path, node)
    running: FollowerProcess
    with follower_process(*arguments) as running:
        async with aiohttp.ClientSession() as session, asyncio.timeout(200):
            await wait_for_head(session, port)
            attacker = Attacker(session, port, admin)
            for secret in SENT:
                await attacker.send(secret)
            await node.stop()
            await attacker.send(GOOD_TOKEN)
    output = running.output()
    lines = [json.loads(line) for line in output.splitlines()]
    requests = [line for line in lines if line["logger"] == "follower.requests"]
    assert len(requests) > 300
    assert {"explorer"} <= {line.get("tenant") for line in requests}
    assert {200, 401, 500} <= {line["status"] for line in requests}
    assert {"http", "websocket"} <= {line["over"] for line in requests}
    assert {"follower", "follower.rpc"} <= {line["logger"] for line in lines}
    for secret in (*HELD, *SENT):
        shown = [line for line in output.splitlines() if secret in line]
        assert not shown, f"{secret} in {shown[:3]}"
    for secret in HELD:
        assert not [answer for answer in attacker.answers if secret in answer]
