"""What a bridge sends of the heads that it publishes, from the recorded chain and from real processes."""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path

import aiohttp
import pytest

from blockstore.memory import MemoryStore
from chain.block import decode_header
from chain.tipset import TipsetKey
from devnode.sim_chain import SimSettings
from devnode.simulate import start_simulated
from leader_bridge.dispersal.heads import HeadDispersal
from tests.shards.region import SECRET, region, sending, until
from tests.support.bridge.chain import genesis_of, read_car, read_changes
from tests.support.bridge.node import TestNode
from tests.support.bridge.node import until as until_moved
from tests.support.bridge.running import following, quick
from tests.support.processes import follower_process, free_port
from tests.support.recorded import recorded
from tests.tier.test_shared_store import _reach


@pytest.mark.recorded
async def test_followers_hold_what_a_head_brought_before_they_ask(tmp_path: Path) -> None:
    objects = read_car(recorded("devnet/chain.car.zst"))
    changes = read_changes(recorded("devnet/chain_notify.jsonl.zst"))
    start = changes[0][1][0]
    node = await TestNode(objects, genesis_of(objects, start), start).start()
    store = MemoryStore()
    async with region(store, tmp_path, 3) as followers, sending(store, [one.url for one in followers]) as sender:
        dispersal = HeadDispersal(sender, least_bytes=1)
        async with dispersal.running(), following(store, [node.url], quick()) as bridge:
            dispersal.attach(bridge.mirror, bridge.publisher)
            await until_moved(lambda: bridge.head is not None)
            for reverts, applies in changes[1:31]:
                await node.change(reverts, applies)
                await until_moved(lambda: bridge.head is not None and bridge.head.head.key == node.head)
            await until(lambda: not dispersal.is_busy)
            pieces = dispersal.sent
            assert pieces > 5
            head = TipsetKey(node.head)
        # headers and state of the newest head, wherever its piece was put together
        await until(lambda: all(one.receiver.pieces == pieces for one in followers), 30)
        cid = head.cids[0]
        for one in followers:
            assert one.has(cid)
            raw = objects[cid.multihash]
            assert one.has(decode_header(cid, raw).messages)
            assert one.tier.fetched == 0
    await node.stop()


async def test_what_is_not_worth_it_is_not_sent(tmp_path: Path) -> None:
    store = MemoryStore()
    node = await start_simulated(SimSettings(null_rate=0), epochs=4)
    moving = asyncio.create_task(node.run(0.2))
    try:
        for followers, least in ((["http://127.0.0.1:1"], 1), (["http://127.0.0.1:1"] * 2, 30 << 20)):
            async with sending(store, followers) as sender:
                dispersal = HeadDispersal(sender, least_bytes=least)
                async with dispersal.running(), following(store, [node.base], quick()) as bridge:
                    dispersal.attach(bridge.mirror, bridge.publisher)
                    await until(lambda: dispersal.small > 2)  # noqa: B023
                assert sender.sent_bytes == 0
                assert not dispersal.sent
    finally:
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)
        await node.stop()


def _metric(text: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}_total(?:{{.*}})? ([0-9.e+]+)$", text, re.M))


async def test_processes_send_heads_and_files(tmp_path: Path) -> None:
    """`bridge` with disperse_to, two followers of two workers each, `disperse` of a file."""
    node = await start_simulated(SimSettings(null_rate=0), epochs=10)
    moving = asyncio.create_task(node.run(0.5))
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    store = ["--store", f"lmdb://{tmp_path}/store"]
    ports = [free_port(), free_port()]
    urls = ",".join(f"http://127.0.0.1:{port}" for port in ports)
    shared = [*store, "--object-peer-secret-file", str(secret)]
    dispersing = [*shared, "--disperse-to", urls]

    def serving(number: int) -> list[str]:
        return [
            "serve", *shared, "--listen", f"127.0.0.1:{ports[number]}", "--workers", "2", "--shard-mb", "64",
            "--object-peers", f"http://127.0.0.1:{ports[1 - number]}", "--object-tier-dir", f"{tmp_path}/t{number}",
            "--received-files-dir", str(tmp_path / f"f{number}"),
        ]  # fmt: skip

    async def figures(port: int) -> str:
        text = ""
        # each connection goes to a worker of its own choice
        for _ in range(6):
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                text += await answer.text()
        return text

    bridge = ["bridge", "--node", node.base, *dispersing, "--disperse-least-kb", "1", "--backfill-epochs", "0"]
    try:
        with follower_process(*bridge) as leading:
            async with asyncio.timeout(120):
                while "following" not in leading.output():
                    assert leading.process.poll() is None, leading.output()
                    await asyncio.sleep(0.1)
                # a store that nothing was published to is served once it is there
                with follower_process(*serving(0)) as one, follower_process(*serving(1)) as other:
                    for port, running in zip(ports, (one, other), strict=True):
                        while True:
                            try:
                                await _reach(port)
                                break
                            except (OSError, aiohttp.ClientError):
                                assert running.process.poll() is None, running.output()
                                await asyncio.sleep(0.1)
                    for port in ports:
                        while not _metric(await figures(port), "follower_shard_objects"):
                            assert leading.process.poll() is None, leading.output()
                            await asyncio.sleep(0.2)
                    # objects are given too, beside the status page
                    async with (
                        aiohttp.ClientSession() as session,
                        session.get(f"http://127.0.0.1:{ports[0]}/obj/x") as answer,
                    ):
                        assert answer.status == 401
                    file = tmp_path / "file.car"
                    file.write_bytes(random.Random(1).randbytes(100_000))
                    with follower_process("disperse", str(file), *dispersing) as sending_file:
                        while sending_file.process.poll() is None:
                            await asyncio.sleep(0.05)
                    assert sending_file.process.returncode == 0, sending_file.output()
                    assert "2 of 2 followers have file.car" in sending_file.output()
                    for number in range(2):
                        assert (tmp_path / f"f{number}" / "file.car").read_bytes() == file.read_bytes()
                    assert SECRET not in one.output() + other.output() + leading.output() + sending_file.output()
    finally:
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)
        await node.stop()
