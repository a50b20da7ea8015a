"""A simulated chain whose objects are on disk, and sizes that vary from epoch to epoch."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from blockstore.cid import Cid
from blockstore.store import Held
from chain.errors import BadRequest
from devnode.disk_objects import DiskObjects, DiskStore
from devnode.faults import Faults
from devnode.sim_chain import SimSettings, SimulatedChain
from devnode.simulate import start_simulated
from follower.cli import build_parser
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info

SMALL = SimSettings(accounts=20, miners=5, miner_updates=2, messages=3)


async def test_a_chain_on_disk_is_the_one_in_memory(tmp_path: Path) -> None:
    on_disk = await start_simulated(SMALL, epochs=15, folder=tmp_path / "objects")
    in_memory = await start_simulated(SMALL, epochs=15)
    try:
        assert on_disk.head == in_memory.head
        assert isinstance(on_disk.store, DiskStore)
        assert on_disk.store.size == in_memory.store.size > 50_000
        multihashes = list(in_memory.store._objects)
        assert await on_disk.store.get_many(multihashes) == await in_memory.store.get_many(multihashes)
        assert await on_disk.store.held_many([*multihashes[:3], bytes(34)]) == [Held.CLOSED] * 3 + [Held.ABSENT]
        async with NodeClient(parse_node_info(on_disk.base)[0]) as node:
            actor = await node.call("Filecoin.StateGetActor", "t03", [])
        assert actor["Balance"] == "0"
    finally:
        for node in (on_disk, in_memory):
            await node.stop()
            await node.store.close()


async def test_it_stands_still_at_its_size_on_disk_too(tmp_path: Path) -> None:
    node = await start_simulated(SMALL, store_limit=200_000, folder=tmp_path)
    async with asyncio.timeout(20):
        await node.run(0.0)
    assert node.full
    await node.stop()
    await node.store.close()


def test_objects_are_read_while_they_wait_and_when_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devnode.disk_objects._BATCH", 10)
    objects = DiskObjects(tmp_path)
    for number in range(25):
        objects[b"%02d" % number] = b"x" * number
        assert objects[b"%02d" % number] == b"x" * number
    objects[b"03"] = b"xxx"
    assert [objects[b"%02d" % number] for number in range(25)] == [b"x" * number for number in range(25)]
    assert b"25" not in objects
    assert len(objects) == len(list(objects)) == 25
    # the empty one counts nothing, a second write of the same nothing
    assert objects.size == sum(range(25))
    with pytest.raises(TypeError):
        del objects[b"03"]
    objects.close()


async def test_a_store_on_disk_takes_closed_objects_only_and_lies_as_it_is_told(tmp_path: Path) -> None:
    store = DiskStore("x", Faults(), tmp_path)
    cid = Cid(b"\x01\x71\xa0\xe4\x02\x20" + bytes(32))
    with pytest.raises(BadRequest, match="closed"):
        await store.put_many([(cid.multihash, b"abc")], closed=False)
    store.put(cid, b"abc")
    assert store.held(cid) == b"abc"
    store.faults.lies.add(cid.multihash)
    lie = await store.get(cid.multihash)
    assert lie is not None
    assert lie != b"abc"
    await store.close()


def test_epochs_have_from_least_to_most_objects() -> None:
    made: set[Cid] = set()
    chain = SimulatedChain(SimSettings.for_size(6000, 300, 900), lambda cid, data: made.add(cid))
    counts = []
    for _ in range(30):
        counts.append(len(made))
        chain.extend(blocks=3)
    sizes = [after - before for before, after in pairwise(counts)]
    assert 200 < min(sizes) < 450
    assert 750 < max(sizes) < 1200


@pytest.mark.parametrize(("text", "objects"), [("70", (70, 0)), ("20000-60000", (20_000, 60_000))])
def test_the_objects_of_an_epoch_may_be_a_range(text: str, objects: tuple[int, int]) -> None:
    assert build_parser().parse_args(["simulate", "--objects", text]).objects == objects


@pytest.mark.parametrize("text", ["-3", "9-3", "x", "1-", ""])
def test_a_bad_range_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["simulate", f"--objects={text}"])
    assert "--objects" in capsys.readouterr().err
