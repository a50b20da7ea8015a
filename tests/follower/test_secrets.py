"""Passwords, tokens and keys of the settings are in no output, log, status page, metric or answer."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import orjson
import pytest

from devnode.replay import start_replay
from follower.cli import COMMANDS
from follower.commands.command import Command
from follower.settings_table import BY_NAME
from tests.support.processes import follower_process, free_port, run_follower
from tests.support.recorded import recorded

#: where a secret can stand: in the store's URL, before a node's address, and in each part of that address
STORE_SECRET = "St0reSecret"
NODE_SECRETS = {
    "token": "T0kenSecret.abc.def",
    "user": "UserSecret",
    "password": "PassSecret",
    "query": "QuerySecret",
    "path": "PathSecret",
}
SECRETS = (STORE_SECRET, *NODE_SECRETS.values())


def store_url(port: int) -> str:
    return f"cassandra://web:{STORE_SECRET}@127.0.0.1:{port}/filecoin"


def node_url(port: int, path: str = "/" + NODE_SECRETS["path"]) -> str:
    s = NODE_SECRETS
    return f"{s['token']}:http://{s['user']}:{s['password']}@127.0.0.1:{port}{path}?key={s['query']}&token={s['token']}"


def assert_no_secret(text: str) -> None:
    shown = [secret for secret in SECRETS if secret in text]
    assert not shown, f"{shown} in: {text}"


#: own arguments of the subcommands that want some; PORT is one that nobody listens on
ARGUMENTS = {
    "import": ["none.car"],
    "replay": ["none"],
    "simulate": ["--epochs", "1"],
    "compare": ["--target", f"{NODE_SECRETS['token']}:http://u:{NODE_SECRETS['password']}@127.0.0.1:PORT",
                "--records", "RECORDS"],
    "loadbalancer": ["haproxy"],
    "schema": ["--apply"],
    "status": ["--json"],
    "extract": ["--to-store", f"postgresql://u:{NODE_SECRETS['password']}@127.0.0.1:PORT/db"],
}  # fmt: skip
#: subcommands that run until they are stopped
RUNNING = {"up", "bridge", "serve", "simulate"}


@pytest.fixture
def records(tmp_path: Path) -> Path:
    file = tmp_path / "records.jsonl"
    file.write_bytes(orjson.dumps({"path": "/rpc/v1", "method": "Filecoin.ChainHead", "params": [], "result": 1}))
    return file


#: every subcommand, and for some each way in which a setting is given: it makes no difference to the others
CASES = [
    (command, way)
    for command in COMMANDS
    for way in ("environment", "file", "flags")
    if way == "environment" or command.name in ("bridge", "serve", "config")
]


@pytest.mark.parametrize(("command", "way"), CASES, ids=[f"{command.name}-{way}" for command, way in CASES])
def test_no_subcommand_shows_a_secret(command: Command, way: str, tmp_path: Path, records: Path) -> None:
    """With a store and a node that do not answer, at the most talkative log level."""
    dead = free_port()
    own = [part.replace("PORT", str(dead)).replace("RECORDS", str(records)) for part in ARGUMENTS.get(command.name, [])]
    listen = f"127.0.0.1:{free_port()}"
    settings = {"store": store_url(dead), "node": node_url(dead), "log_level": "debug", "listen": listen}
    settings["log_format"] = "json" if way == "environment" else "console"
    arguments = [*command.name.split(), *own]
    environment: dict[str, str] = {}
    for name, value in settings.items():
        if way == "environment":
            environment[BY_NAME[name].env] = value
        elif way == "flags" and BY_NAME[name].is_used_by(command.name):
            arguments += [BY_NAME[name].flag, value]
    if way == "file":
        file = tmp_path / "follower.toml"
        file.write_text("".join(f"{name} = {orjson.dumps(value).decode()}\n" for name, value in settings.items()))
        arguments += ["--config", str(file)]
    if command.name not in RUNNING:
        done = run_follower(*arguments, environment=environment)
        text = done.stdout + done.stderr
    else:
        text = output_while_running(*arguments, environment=environment)
    assert text
    assert_no_secret(text)


def output_while_running(*arguments: str, environment: Mapping[str, str]) -> str:
    """What a subcommand prints until it has said something and had a moment to say more."""
    with follower_process(*arguments, environment=environment) as running:
        deadline = time.monotonic() + 60
        while running.process.poll() is None and not running.output() and time.monotonic() < deadline:
            time.sleep(0.05)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(2)
    return running.output()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--store", f"cassandra://web:{STORE_SECRET}@/filecoin"],
        ["--store", f"cassandra://web:{STORE_SECRET}@db1/Not-A-Keyspace"],
        ["--store", f"casandra://web:{STORE_SECRET}@db1/filecoin"],
        ["--store", f"cassandra://web:{STORE_SECRET}@db1:99999999/filecoin?tls=maybe"],
        ["--node", f"{NODE_SECRETS['token']}:/ip9/1.2.3.4/tcp/1"],
        ["--node", f"http://{NODE_SECRETS['user']}:{NODE_SECRETS['password']}@host:notaport/{NODE_SECRETS['path']}"],
        ["--node", f"ftp://host/?token={NODE_SECRETS['token']}"],
    ],
)
def test_a_mistake_in_a_setting_shows_no_secret(arguments: list[str]) -> None:
    done = run_follower("bridge", *arguments, "--log-level", "debug")
    assert done.returncode != 0
    assert done.stderr
    assert_no_secret(done.stdout + done.stderr)


async def test_a_bridge_and_its_follower_show_no_secret(tmp_path: Path) -> None:
    """While the node answers and after it has gone: output, log, metrics, health, administration, answers."""
    node = await start_replay(recorded("devnet/chain.car.zst").parent, at_end=True)
    listen, admin, metrics = (free_port() for _ in range(3))
    arguments = [
        "up", "--store", f"lmdb://{tmp_path}/store", "--node", node_url(int(node.base.rpartition(":")[2]), path=""),
        "--network-file", str(recorded("devnet/network.json")), "--listen", f"127.0.0.1:{listen}",
        "--admin-listen", f"127.0.0.1:{admin}", "--metrics-listen", f"127.0.0.1:{metrics}",
        "--admin-trust-loopback", "true", "--state", "lazy", "--log-level", "debug",
    ]  # fmt: skip
    pages = [f"http://127.0.0.1:{listen}/{path}" for path in ("metrics", "livez?verbose", "readyz?verbose", "rpc/v1")]
    pages.append(f"http://127.0.0.1:{metrics}/metrics")
    calls = ["Filecoin.Version", "Filecoin.NodeStatus", "Filecoin.SyncState", "Filecoin.ChainHead", "rpc.discover",
             "Filecoin.MpoolPending", "eth_call", "web3_clientVersion", "Filecoin.ID"]  # fmt: skip
    with follower_process(*arguments) as running:
        async with aiohttp.ClientSession() as session, asyncio.timeout(150):

            async def seen() -> str:
                texts: list[str] = []
                for page in pages:
                    async with session.get(page) as answer:
                        texts.append(await answer.text())
                for method in calls:
                    texts.append(await post(session, f"http://127.0.0.1:{listen}/rpc/v1", method))
                status = await post(session, f"http://127.0.0.1:{admin}/", "admin.status")
                assert '"pid"' in status
                return "\n".join([*texts, status])

            while '"result"' not in await head_or_nothing(session, listen):
                await asyncio.sleep(0.1)
            text = await seen()
            assert "follower_bridge" in text
            await node.stop()
            before = len(running.output())
            while len(running.output()) == before:  # the bridge says that its node is gone
                await asyncio.sleep(0.1)
            text += await seen()
    assert f"127.0.0.1:{node.base.rpartition(':')[2]}" in running.output(), "the node is named by its address"
    assert_no_secret(text + running.output())


async def post(session: aiohttp.ClientSession, url: str, method: str) -> str:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": []}
    async with session.post(url, json=body) as answer:
        return await answer.text()


async def head_or_nothing(session: aiohttp.ClientSession, port: int) -> str:
    try:
        return await post(session, f"http://127.0.0.1:{port}/rpc/v1", "Filecoin.ChainHead")
    except aiohttp.ClientError:
        return ""
