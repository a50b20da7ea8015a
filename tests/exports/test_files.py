"""The file of an export: whole with its checksum, or not there."""

from __future__ import annotations

import asyncio
import errno
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from benches.import_car import make_car
from blockstore.car.reader import iter_car
from blockstore.memory import MemoryStore
from blockstore.open import open_store
from chain.errors import BadRequest
from follower.cli import main
from leader_bridge.exports.exporter import export_snapshot
from leader_bridge.exports.scope import Scope, snapshot_scope
from leader_bridge.exports.seen_objects import SeenObjects
from leader_bridge.imports.importer import import_car
from leader_bridge.upkeep.pace import Pace
from tests.support.bridge.imported import network_file

MadeStore = Callable[[], Awaitable[MemoryStore]]


async def whole(store: MemoryStore) -> Scope:
    return await snapshot_scope(store, state_roots=1000, lowest=1)


@pytest.mark.parametrize("name", ["a.car", "a.car.zst", "a.forest.car.zst"])
async def test_checksum_beside_the_file_is_what_sha256sum_reads(
    made_store: MadeStore, tmp_path: Path, name: str
) -> None:
    store = await made_store()
    report = await export_snapshot(store, tmp_path / name, await whole(store))
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, name + ".sha256sum"]
    assert report.size == (tmp_path / name).stat().st_size
    checked = subprocess.run(["sha256sum", "--check", name + ".sha256sum"], cwd=tmp_path, capture_output=True)
    assert checked.stdout == f"{name}: OK\n".encode()
    assert (tmp_path / (name + ".sha256sum")).read_text() == f"{report.sha256} {name}\n"


@pytest.mark.parametrize("name", ["a.car", "a.car.zst", "a.forest.car.zst"])
async def test_a_full_disk_is_said_and_leaves_what_was_there(made_store: MadeStore, tmp_path: Path, name: str) -> None:
    store = await made_store()
    (tmp_path / name).write_bytes(b"the one before")
    # where the file is written there is no room
    (tmp_path / (name + ".tmp")).symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"no room left after [\d,]+ bytes of the snapshot") as failed:
        await export_snapshot(store, tmp_path / name, await whole(store))
    assert failed.value.errno == errno.ENOSPC
    assert failed.value.filename == str(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"the one before"


class Cancelling(MemoryStore):
    """Cancels the export at its read number `left`, or, as its reporter, when all is read."""

    work: asyncio.Task[object]
    left = -1

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        self.left -= 1
        if not self.left:
            self.work.cancel()
        return await super().get_many(multihashes)

    def phase(self, what: str, total: int | None, unit: str) -> None:
        return

    def at(self, done: int, note: str = "") -> None:
        return

    def say(self, text: str) -> None:
        self.work.cancel()

    def end(self) -> None:
        return


@pytest.mark.parametrize("reads", [1, 2, 5, 15, 0])
async def test_a_cancelled_export_leaves_nothing(made_store: MadeStore, tmp_path: Path, reads: int) -> None:
    store = Cancelling()
    for name, value in vars(await made_store()).items():
        setattr(store, name, value)
    scope = await whole(store)
    store.left = reads
    path = tmp_path / "a.forest.car.zst"
    store.work = asyncio.create_task(export_snapshot(store, path, scope, progress=store))
    with pytest.raises(asyncio.CancelledError):
        await store.work
    assert store.left <= 0
    assert not list(tmp_path.iterdir())


async def test_two_exports_of_one_file_do_not_mix(made_store: MadeStore, tmp_path: Path) -> None:
    store = await made_store()
    path = tmp_path / "a.car"
    first = asyncio.create_task(export_snapshot(store, path, await whole(store), pace=Pace(20)))
    while not (tmp_path / "a.car.tmp").exists():
        await asyncio.sleep(0)
    with pytest.raises(BadRequest, match="another export is writing"):
        await export_snapshot(store, path, await whole(store))
    report = await first
    assert len(list(iter_car(path))) == report.objects


async def test_a_name_without_a_form_is_refused(made_store: MadeStore, tmp_path: Path) -> None:
    store = await made_store()
    with pytest.raises(BadRequest, match=r"ends in one of \.car, \.car\.zst, \.forest\.car\.zst"):
        await export_snapshot(store, tmp_path / "snapshot.zip", await whole(store))
    assert not list(tmp_path.iterdir())


async def test_a_killed_export_leaves_one_file_that_the_next_one_writes_over(tmp_path: Path) -> None:
    make_car(tmp_path / "made.car", 3_000_000, state_objects=300)
    store = await open_store(f"lmdb://{tmp_path}/store", bulk=True)
    await import_car(store, tmp_path / "made.car", network_file=network_file(tmp_path))
    out = tmp_path / "out"
    out.mkdir()
    arguments = [sys.executable, "-m", "tests.exports.export_child", f"lmdb://{tmp_path}/store", f"{out}/a.car"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for _ in range(2):
            await asyncio.to_thread(child.stdout.readline)
        child.send_signal(signal.SIGKILL)
    assert [path.name for path in out.iterdir()] == ["a.car.tmp"]
    with (out / "a.car.tmp").open("ab") as left:
        left.write(b"whatever it had written")
    report = await export_snapshot(store, out / "a.car", await snapshot_scope(store, state_roots=1000, lowest=1))
    assert sorted(path.name for path in out.iterdir()) == ["a.car", "a.car.sha256sum"]
    assert len(list(iter_car(out / "a.car"))) == report.objects
    await store.close()


def test_what_was_seen_is_exact_however_little_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leader_bridge.exports.seen_objects._TRANSACTION", 30)
    digests = [number.to_bytes(32, order) for number in range(1, 1500) for order in ("big", "little")]
    cids = [b"\x01\x71\xa0\xe4\x02\x20" + digest for digest in digests]
    # the same digest under another codec is another object
    cids += [b"\x01\x55" + cid[2:] for cid in cids[:1000]]
    for in_memory in (7, 100, 10_000):
        with SeenObjects(tmp_path, in_memory=in_memory) as seen:
            for number, cid in enumerate(cids):
                assert cid not in seen
                assert seen.add(cid)
                for earlier in (number // 2, number):
                    assert cids[earlier] in seen
                    assert not seen.add(cids[earlier])
            assert len(seen) == len(cids)
            assert not list(tmp_path.iterdir()), "its file has no name"


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # the command lowers its own priority, and here it runs in the process of the tests
    monkeypatch.setattr("os.nice", lambda increment: increment)
    make_car(tmp_path / "made.car", 200_000, state_objects=50)
    store = f"lmdb://{tmp_path}/store"
    network = str(network_file(tmp_path))
    assert main(["import", str(tmp_path / "made.car"), "--store", store, "--network-file", network]) == 0
    export = ["store", "export", "--store", store, str(tmp_path / "a.forest.car.zst")]
    assert main([*export, "--from", "1", "--format", "2"]) == 0
    told = capsys.readouterr()
    assert "exported" in told.out and "no full node starts from such a file" in told.err
    assert main([*export, "--from", "1"]) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*export, "--from", "1", "--force", "--state-roots", "0"]) == 2
    assert "no full node starts from fewer" in capsys.readouterr().err
    # the genesis of this chain names a parent that does not exist
    assert main([*export, "--force"]) == 2
    assert "what the genesis names as its parent" in capsys.readouterr().err
    assert main([*export, "--every", "1h", "--tipset", "1"]) == 2
    assert main([*export, "--keep", "1", "--force"]) == 2
    assert (tmp_path / "a.forest.car.zst").exists(), "a failed export leaves the file of the one before"
