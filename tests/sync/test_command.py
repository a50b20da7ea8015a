"""`follower sync` as a process: killed and started again, and the bridge that goes on behind it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from blockstore.lmdb.store import LmdbStore
from blockstore.shards.erasure import is_available
from blockstore.store import Store
from devnode.replay import start_replay
from follower.settings_table import SETTINGS
from leader_bridge.sync.checkpoint import load_checkpoint
from tests.support.paths import ROOT
from tests.support.processes import clean_environment
from tests.support.recorded import recorded
from tests.sync.conftest import TOKEN, assert_whole, giving

pytestmark = pytest.mark.recorded


def start(folder: Path, sources: str, *arguments: str) -> subprocess.Popen[str]:
    token = folder / "token"
    token.write_text(TOKEN)
    command = [sys.executable, "-m", "follower.cli", "sync", "--from", sources, "--sync-token-file", str(token)]
    command += ["--store", f"lmdb://{folder}/store", "--sync-requests-per-second", "10000"]
    return subprocess.Popen(
        [*command, "--sync-requests-in-all", "10000", *arguments],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


async def output(process: subprocess.Popen[str]) -> str:
    return (await asyncio.to_thread(process.communicate, timeout=120))[0]


@pytest.mark.long
async def test_killed_at_any_moment_it_goes_on_and_asks_for_little_again(devnet: Store, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(giving(devnet)) for _ in range(2)]
        sources = ",".join(f"http://127.0.0.1:{server.port}" for server, _ in servers)

        def given() -> int:
            return sum(pages.given.objects for _, pages in servers)

        kills = 0
        for objects in (300, 2500, 6000, 12_000, 16_000):
            process = start(tmp_path, sources, "--once")
            before = given()
            while given() - before < 200 or given() < objects:
                assert process.poll() is None, await output(process)
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            await output(process)
            kills += 1
        process = start(tmp_path, sources, "--once")
        text = await output(process)
        assert process.returncode == 0, text
        assert "an earlier run stopped here" in text
        total = given()
    store = await LmdbStore.open(tmp_path / "store")
    assert await load_checkpoint(store) is None
    report = await assert_whole(store)
    await store.close()
    # what a kill repeats is told more exactly by test_repeats; ranges overlap by a tipset
    print(f"{kills} kills: {total} objects were given for {report.objects}")
    assert total - report.objects < kills * 1200


async def test_the_bridge_goes_on_without_a_second_command(devnet: Store, tmp_path: Path) -> None:
    node = await start_replay(recorded("devnet/chain.car.zst").parent, at_end=True)
    async with giving(devnet) as (server, _):
        sources = f"http://127.0.0.1:{server.port}"
        process = start(tmp_path, sources, "--from-epoch", "1090", "--states", "0", "--node", node.url)
        try:
            assert process.stdout is not None
            lines: list[str] = []
            while not lines or "following" not in lines[-1]:
                line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 60)
                assert line, "".join(lines)
                lines.append(line)
            assert any("the head is at epoch 1108" in line for line in lines)
        finally:
            process.send_signal(signal.SIGTERM)
            await output(process)
            await node.stop()
    assert process.returncode == 0


def test_it_takes_every_setting_of_the_bridge_that_it_becomes() -> None:
    lacking = [one.name for one in SETTINGS if one.is_used_by("bridge") and not one.is_used_by("sync")]
    assert lacking == []


async def disperse(file: Path, folders: Sequence[Path]) -> None:
    """Cut a file into shards in folders, with the command."""
    command = [sys.executable, "-m", "follower.cli", "disperse", str(file), "--to-folders", ",".join(map(str, folders))]
    cut = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=120
    )
    assert cut.returncode == 0, cut.stderr


@pytest.mark.skipif(not is_available(), reason="pyeclib is not installed")
@pytest.mark.long
async def test_shards_of_a_file_save_requests_also_where_a_folder_of_them_is_lost(
    devnet: Store, tmp_path: Path
) -> None:
    folders = [tmp_path / f"disk {number}" for number in range(5)]
    await disperse(recorded("devnet/chain.car.zst"), folders)
    shutil.rmtree(folders[1])
    async with giving(devnet) as (server, pages):
        left = ",".join(str(folder) for folder in folders if folder.exists())
        process = start(tmp_path, f"http://127.0.0.1:{server.port},{left}", "--once")
        text = await output(process)
        assert process.returncode == 0, text
    # an offer or two, and a range of headers
    assert pages.given.objects < 400
    store = await LmdbStore.open(tmp_path / "store")
    await assert_whole(store)
    await store.close()
    assert list((tmp_path / "store" / "joined").iterdir()) == []


@pytest.mark.long
async def test_a_file_saves_requests_and_the_follower_is_followed_where_no_node_is_set(
    devnet: Store, tmp_path: Path
) -> None:
    async with giving(devnet) as (server, pages):
        sources = f"http://127.0.0.1:{server.port},{recorded('devnet/chain.car.zst')}"
        process = start(tmp_path, sources)
        try:
            assert process.stdout is not None
            lines: list[str] = []
            while not lines or f"following 127.0.0.1:{server.port}" not in lines[-1]:
                line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 100)
                assert line, "".join(lines)
                lines.append(line)
        finally:
            process.send_signal(signal.SIGTERM)
            await output(process)
    # an offer or two, and a range of headers
    assert pages.given.objects < 400
    store = await LmdbStore.open(tmp_path / "store")
    await assert_whole(store)
    await store.close()
