"""`follower doctor`, each problem by its real cause."""

from __future__ import annotations

import asyncio
import resource
import socket
import subprocess
from pathlib import Path

import pytest

from blockstore.open import open_store
from blockstore.store import Batch
from chain.network import NetworkRecord, save_network
from devnode.replay import start_replay
from tests.extending.example_package import write_package
from tests.support.made_chain import NOWHERE
from tests.support.processes import follower_process, free_port, run_follower
from tests.support.recorded import recorded


def doctor(
    tmp_path: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    given = [
        "--store",
        f"lmdb://{tmp_path}/store",
        "--listen",
        f"127.0.0.1:{free_port()}",
        "--node-timeout-seconds",
        "5",
    ]
    return run_follower("doctor", *given, *arguments, environment=environment)


def test_an_empty_machine_has_no_problem(tmp_path: Path) -> None:
    done = doctor(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[ok] version: lotus-follower" in done.stdout
    assert "has not been made yet" in done.stdout
    assert "0 problems" in done.stdout


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = doctor(tmp_path, "--listen", f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert f"[x ] listen: 127.0.0.1:{port}: Address already in use" in done.stdout
    assert "ss -ltnp" in done.stdout


def test_a_node_that_is_not_there(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--node", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "[x ] node 127.0.0.1" in done.stdout
    assert "do: check that it runs" in done.stdout


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    # nobody can write there, root neither
    done = doctor(tmp_path, "--store", "lmdb:///proc/store")
    assert done.returncode == 1
    assert "[x ] folder: /proc cannot be written" in done.stdout


def test_too_few_files(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    done = doctor(tmp_path, "--max-connections", str(hard))
    assert done.returncode == 0
    assert f"[! ] open files: at most {hard}" in done.stdout


def test_a_secret_that_others_can_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef")
    secret.chmod(0o644)
    assert f"do: chmod 600 {secret}" in doctor(tmp_path, "--jwt-secret-file", str(secret)).stdout


def test_a_package_that_does_not_load(tmp_path: Path) -> None:
    environment = write_package(tmp_path / "x", "broken", "lotus_follower.methods", "x = broken", "1 / 0")
    done = doctor(tmp_path, environment=environment)
    assert done.returncode == 1
    assert "[x ] extensions: package broken cannot be used" in done.stdout


@pytest.mark.parametrize("is_same", [True, False])
async def test_the_network_of_the_node(tmp_path: Path, is_same: bool) -> None:
    folder = recorded("devnet/chain_notify.jsonl.zst").parent
    node = await start_replay(folder)
    network = node.network
    if not is_same:
        network = NetworkRecord("othernet", NOWHERE, "t", 1, 30, ((-1, 25),))
    batch = Batch()
    save_network(batch, network)
    store = await open_store(f"lmdb://{tmp_path}/store")
    await store.write(batch)
    await store.close()
    try:
        done = await asyncio.to_thread(doctor, tmp_path, "--node", node.base)
    finally:
        await node.stop()
    if is_same:
        # a recorded head is old
        assert done.returncode == 0, done.stdout
        assert "it is not in sync" in done.stdout
    else:
        assert done.returncode == 1
        assert "the store of othernet" in done.stdout


def test_a_follower_that_runs_already_is_fine(tmp_path: Path) -> None:
    listen = f"127.0.0.1:{free_port()}"
    with follower_process("up", "--listen", listen):
        for _ in range(60):
            done = doctor(tmp_path, "--listen", listen)
            if f"a follower answers at {listen}" in done.stdout:
                break
        assert f"[ok] listen: a follower answers at {listen}" in done.stdout
