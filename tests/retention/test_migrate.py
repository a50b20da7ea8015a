"""A store of the version before, migrated in place, killed at random moments: it holds the same, and can be pruned."""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
from pathlib import Path

import lmdb
import pytest

from blockstore.errors import SchemaMismatch, StoreError
from blockstore.generations import LASTING
from blockstore.lmdb.environment import DATA_FILE, MIGRATING
from blockstore.lmdb.migration import migrate as migrate_store
from blockstore.lmdb.store import LmdbStore, generation_path
from blockstore.scan import object_pages
from blockstore.store import META, Batch
from follower.cli import main
from leader_bridge.imports.importer import import_car
from tests.support.bridge.imported import check_whole, contents
from tests.support.paths import ROOT
from tests.support.recorded import recorded

#: has a store open until its standard input ends
_HOLDER = """
import asyncio, sys
from pathlib import Path
from blockstore.lmdb.store import LmdbStore
async def run():
    store = await LmdbStore.open(Path(sys.argv[1]))
    await store.head()
    print(1, flush=True)
    await asyncio.to_thread(sys.stdin.read)
asyncio.run(run())
"""


async def older(path: Path, *, newer: int = 0) -> None:
    """The recorded chain as the version before stored it. `newer` objects of ten are in a generation already."""
    store = await LmdbStore.open(path, bulk=True)
    await import_car(store, recorded("devnet/chain.car.zst"), network_file=recorded("devnet/network.json"))
    objects = [one async for page in object_pages(store) for one in page.objects]
    moved = [one for at, one in enumerate(objects) if at % 10 >= newer]
    for closed in (False, True):
        pairs = [(one.multihash, one.data or b"") for one in moved if one.closed == closed]
        await store.place(LASTING).put_many(pairs, closed=closed)
    batch = Batch()
    batch.put(META, b"", b"\0schema", b"2" if newer else b"1")
    if newer:
        batch.put(META, b"", b"\0legacy", b"1")
    await store.write(batch)
    await store.close()
    if not newer:
        shutil.rmtree(generation_path(path, 1))
        return
    gone = {one.multihash for one in moved}
    env = lmdb.open(str(generation_path(path, 1)), max_dbs=4, map_size=1 << 30)
    with env.begin(write=True) as txn:
        database = env.open_db(b"objects", txn=txn)
        for multihash in gone:
            txn.delete(multihash, db=database)
    env.close()


def migrate(path: Path) -> int:
    return main(["store", "migrate", "--store", f"lmdb://{path}"])


async def lasting_bytes(store: LmdbStore) -> tuple[int, int]:
    return store.place(LASTING).size()[0], store.place(1).size()[0]


@pytest.mark.recorded
@pytest.mark.parametrize("newer", [0, 3])
async def test_an_older_store_is_migrated_in_place(
    tmp_path: Path, newer: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "store"
    await older(path, newer=newer)
    store = await LmdbStore.open(path, readonly=True)
    before = await contents(store, tmp_path)
    await store.close()
    assert await asyncio.to_thread(migrate, path) == 0
    assert "is migrated" in capsys.readouterr().out
    store = await LmdbStore.open(path)
    assert await contents(store, tmp_path) == before
    await check_whole(store)
    headers, others = await lasting_bytes(store)
    assert headers == 1078 and others >= 20_233
    await store.close()
    assert await asyncio.to_thread(migrate, path) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert not (path / MIGRATING).exists()


@pytest.mark.recorded
async def test_a_migration_that_is_killed_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "store"
    await older(path)
    store = await LmdbStore.open(path, readonly=True)
    before = await contents(store, tmp_path)
    await store.close()
    rng = random.Random(4)
    for _ in range(8):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "follower.cli", "store", "migrate", "--store", f"lmdb://{path}",
            cwd=ROOT, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await asyncio.wait_for(process.wait(), 0.4 + rng.random() * 0.8)
        except TimeoutError:
            process.kill()
            await process.wait()
        else:
            break
    assert await asyncio.to_thread(migrate, path) == 0
    store = await LmdbStore.open(path)
    assert await contents(store, tmp_path) == before
    await store.close()


@pytest.mark.recorded
async def test_a_migration_stopped_between_its_renames_is_finished_and_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "store"
    await older(path)
    assert await asyncio.to_thread(migrate, path) == 0
    store = await LmdbStore.open(path)
    before = await contents(store, tmp_path)
    batch = Batch()
    batch.put(META, b"", b"\0ready", b"1")
    await store.write(batch)
    await store.close()
    # as it was a moment before the last rename
    (path / MIGRATING).mkdir()
    (path / DATA_FILE).rename(path / MIGRATING / DATA_FILE)
    with pytest.raises(SchemaMismatch, match="migrate"):
        await LmdbStore.open(path)
    assert await asyncio.to_thread(migrate, path) == 0
    store = await LmdbStore.open(path)
    assert await contents(store, tmp_path) == before
    await store.close()


async def test_a_store_in_use_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = await LmdbStore.open(path)
    batch = Batch()
    batch.put(META, b"", b"\0legacy", b"1")
    await store.write(batch)
    await store.close()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _HOLDER, str(path), cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdin is not None
    await process.stdout.readline()
    with pytest.raises(StoreError, match=f"in use by process {process.pid}"):
        await asyncio.to_thread(migrate_store, path, 1 << 30, lambda _: [], lambda *_: None)
    process.stdin.close()
    await process.wait()
