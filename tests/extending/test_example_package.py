"""The example package, installed and run: its hook counts each change of a recorded chain once, though its process is
killed again and again; its store scheme is served; its method is answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockstore.open import open_store
from blockstore.store import Store
from chain.address import Address
from devnode.replay import start_replay
from follower.extending.chain import chain_over
from leader_bridge.bridge import Bridge
from leader_bridge.settings import BridgeSettings
from rpc.client.node_info import parse_node_info
from tests.extending.example_package import install
from tests.support.bridge.running import until_at_node
from tests.support.processes import FollowerProcess, follower_process, free_port, run_follower
from tests.support.recorded import recorded

KILLS = 5
RECORDED_REVERTS = 123


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return install(tmp_path_factory.mktemp("example"))


@contextlib.contextmanager
def hooks_process(store: str, environment: dict[str, str]) -> Iterator[FollowerProcess]:
    # --one: no supervisor, so the process that is killed is the one that counts
    with follower_process(
        "hooks", "--one", "--store", store, "--lease-seconds", "0.3", environment=environment
    ) as running:
        yield running


def counted(file: str) -> tuple[Counter[bytes], Counter[bytes]]:
    """How often each tipset was applied, and reverted."""
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as database:
        rows = database.execute("SELECT key, applied, reverted FROM counts").fetchall()
    applied, reverted = Counter[bytes](), Counter[bytes]()
    for key, times, back in rows:
        applied[key] = times
        if back:
            reverted[key] = back
    return applied, reverted


async def until_counted(file: str, changes: int, running: FollowerProcess) -> None:
    async with asyncio.timeout(60):
        while True:
            assert running.process.poll() is None, "the hooks' process has ended"
            with contextlib.suppress(sqlite3.OperationalError):
                applied, reverted = counted(file)
                if applied.total() + reverted.total() >= changes:
                    return
            await asyncio.sleep(0.02)


async def test_the_hook_counts_each_change_once_and_the_rest_is_served(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    folder = recorded("devnet/chain_notify.jsonl.zst").parent
    node = await start_replay(folder)
    path = tmp_path / "store"
    store = await open_store(f"lmdb://{path}")
    bridge = Bridge(
        store,
        parse_node_info(node.base),
        BridgeSettings(network_file=folder / "network.json", state="lazy", backfill_epochs=0),
    )
    running = asyncio.create_task(bridge.run())
    file = environment["EXAMPLE_COUNTS"]
    steps = [len(change.reverts) + len(change.applies) for change in node.chain.changes]
    expected = 1  # the first head
    try:
        await until_at_node(store, node, running)
        for part in range(KILLS + 1):
            until = len(steps) * (part + 1) // (KILLS + 1)
            with hooks_process(f"lmdb://{path}", environment) as hooks:
                while node.played < until:
                    expected += steps[node.played]
                    node.advance(1)
                    await until_at_node(store, node, running)
                    if node.played == until - 20 and part < KILLS:
                        # in the middle of its work
                        await until_counted(file, expected // 2, hooks)
                        hooks.process.send_signal(signal.SIGKILL)
                if part == KILLS:
                    await until_counted(file, expected, hooks)
    finally:
        bridge.stop()
        await running
        await node.stop()

    wanted_applied = Counter([bytes(node.chain.first.key)])
    wanted_reverted = Counter[bytes]()
    for change in node.chain.changes:
        wanted_applied.update(bytes(tipset.key) for tipset in change.applies)
        wanted_reverted.update(bytes(tipset.key) for tipset in change.reverts)
    assert wanted_reverted.total() == RECORDED_REVERTS
    assert counted(file) == (wanted_applied, wanted_reverted)

    miner = await miner_of_the_head(store)
    await store.close()
    serves_the_store(f"counted://{path}", environment, miner)


async def miner_of_the_head(store: Store) -> str:
    async with chain_over(store) as chain:
        return str(Address((await chain.head()).blocks[0].miner))


def serves_the_store(store: str, environment: dict[str, str], miner: str) -> None:
    """The package's method over the package's kind of store, by a follower."""
    listen = f"127.0.0.1:{free_port()}"
    with follower_process("serve", "--store", store, "--listen", listen, environment=environment) as process:
        body = {"jsonrpc": "2.0", "id": 1, "method": "Example.BlocksOf", "params": [miner, 100]}
        request = urllib.request.Request(
            f"http://{listen}/rpc/v1", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    assert 0 < json.load(answer)["result"] <= 200
                break
            except urllib.error.URLError as error:
                assert not isinstance(error, urllib.error.HTTPError), error.read()
                assert process.process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert "package lotus-follower-example adds 1 methods" in process.output()
    status = run_follower("status", "--store", store, environment=environment)
    assert "objects_read" in status.stdout


def test_without_the_package_nothing_of_it_is_known(tmp_path: Path) -> None:
    assert (
        "the schemes known here are lmdb, memory, cassandra"
        in run_follower("status", "--store", f"counted://{tmp_path}").stderr
    )
    done = run_follower("hooks", "--store", f"lmdb://{tmp_path}")
    assert done.returncode == 2
    assert "no installed package adds a hook" in done.stderr
