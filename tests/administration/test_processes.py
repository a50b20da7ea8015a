"""Administration of real processes, by the commands that operators type."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from devnode.replay import start_replay
from tests.observe.test_hidden_secrets import call, wait_for_head
from tests.support.processes import follower_process, free_port, run_follower
from tests.support.recorded import recorded

#: each command is a process of its own
pytestmark = pytest.mark.long

SECRET = "0123456789abcdef-of-administrators"


async def admin(*arguments: str, status: int = 0) -> Any:
    done = await asyncio.to_thread(run_follower, "admin", *arguments, "--json")
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


async def test_all_processes_of_a_machine_are_administered(tmp_path: Path) -> None:
    node = await start_replay(recorded("devnet/chain.car.zst").parent, at_end=True)
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    listen, port = f"127.0.0.1:{free_port()}", free_port()
    here = ["--admin-listen", listen, "--jwt-secret-file", str(secret)]
    arguments = [
        "up", "--store", f"lmdb://{tmp_path}/store", "--node", node.base, "--workers", "2", *here,
        "--network-file", str(recorded("devnet/network.json")), "--listen", f"127.0.0.1:{port}",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}/rpc/v1"
    with follower_process(*arguments) as running:
        async with aiohttp.ClientSession() as http, asyncio.timeout(200):
            await wait_for_head(http, port)

            async def status() -> dict[str, Any]:
                while True:
                    done = await asyncio.to_thread(run_follower, "admin", "status", *here, "--json")
                    assert done.returncode < 2, done.stderr
                    if done.returncode == 0:
                        found: dict[str, Any] = json.loads(done.stdout)
                        return {name: one["result"] for name, one in found.items()}

            async def nonce() -> str:
                async with http.post(url, data=call("Filecoin.MpoolGetNonce", ["f01000"])) as answer:
                    return await answer.text()

            told = await status()
            assert list(told) == ["bridge", "worker 1", "worker 2"]
            assert told["bridge"]["leads"]
            assert len({one["pid"] for one in told.values()}) == 3
            await admin("drain", "--process", "worker 1", *here)
            assert {name: one["draining"] for name, one in (await status()).items()} == {
                "bridge": False, "worker 1": True, "worker 2": False,
            }  # fmt: skip
            await admin("drain", *here)
            told = await status()
            assert all(one["draining"] for one in told.values())
            async with http.get(f"http://127.0.0.1:{port}/readyz") as answer:
                assert answer.status == 503
            await admin("resume", *here)
            assert not any(one["draining"] for one in (await status()).values())
            while not (await status())["bridge"]["leads"]:
                pass
            # the only node is cordoned: neither worker asks it
            name = node.base.rpartition("/")[2]
            assert set(await admin("cordon", name, *here)) == {"worker 1", "worker 2"}
            assert "does not answer now" in await nonce()
            await admin("uncordon", name, *here)
            assert "does not answer now" not in await nonce()
            assert set(await admin("drop-cache", "answers", *here)) == {"worker 1", "worker 2"}
            assert "follower.requests" not in running.output()
            await admin("log-level", "follower", "debug", *here)
            await nonce()
            while "follower.requests: method=Filecoin.MpoolGetNonce" not in running.output():
                await asyncio.sleep(0.05)
            # who may not
            wrong = tmp_path / "wrong"
            wrong.write_text("no token")
            assert "a token that allows admin" in await admin("status", *here, "--token-file", str(wrong), status=2)
            assert "no such process" in await admin("status", *here, "--process", "worker 9", status=1)
            assert SECRET not in running.output()
    await node.stop()


async def test_a_follower_beyond_this_machine_needs_a_token_and_tls(tmp_path: Path) -> None:
    """And a bridge that runs apart has an API of its own, at a socket."""
    cert, key, secret = (tmp_path / name for name in ("cert.pem", "key.pem", "secret"))
    secret.write_text(SECRET)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
         str(key), "-out", str(cert), "-days", "1", "-subj", "/CN=follower", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    node = await start_replay(recorded("devnet/chain.car.zst").parent, at_end=True)
    port, admin_port = free_port(), free_port()
    store = ["--store", f"lmdb://{tmp_path}/store"]
    beyond = ["serve", *store, "--listen", f"127.0.0.1:{port}", "--admin-listen", f"0.0.0.0:{admin_port}"]
    refused = await asyncio.to_thread(run_follower, *beyond)
    assert refused.returncode == 2
    assert "other machines can reach: it needs jwt_secret_file" in refused.stderr
    beyond += ["--jwt-secret-file", str(secret)]
    assert "admin_tls_cert" in (await asyncio.to_thread(run_follower, *beyond)).stderr
    beyond += ["--admin-tls-cert", str(cert), "--admin-tls-key", str(key)]
    socket = f"unix:{tmp_path}/bridge.sock"
    network = ["--network-file", str(recorded("devnet/network.json"))]
    bridge = ["bridge", *store, "--node", node.base, *network, "--bridge-admin-listen", socket]
    with follower_process(*bridge), follower_process(*beyond):
        async with aiohttp.ClientSession() as http, asyncio.timeout(150):
            await wait_for_head(http, port)
            here = ["--admin-listen", f"127.0.0.1:{admin_port}", "--admin-tls-cert", str(cert)]
            told = await admin("status", *here, "--jwt-secret-file", str(secret))
            assert told["follower"]["result"]["role"] == "follower"
            assert "a token that allows admin" in await admin("status", *here, status=2)
            with contextlib.suppress(aiohttp.ClientError):
                async with http.post(f"http://127.0.0.1:{admin_port}/", data=call("admin.status", {})) as answer:
                    assert answer.status == 400, "no plain HTTP"
            told = await admin("status", "--bridge", "--bridge-admin-listen", socket)
            assert told["bridge"]["result"]["leads"]
            await admin("drain", "--bridge", "--bridge-admin-listen", socket)
            while (await admin("status", "--bridge", "--bridge-admin-listen", socket))["bridge"]["result"]["leads"]:
                pass
    await node.stop()
