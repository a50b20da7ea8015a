"""The LMDB store against the contract, across processes, and when it is killed, full, or of another schema."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import lmdb
import pytest

from blockstore.cid import multihash_of, verify
from blockstore.errors import Fenced, SchemaMismatch, StoreError, StoreFull, StoreUnavailable
from blockstore.generations import LASTING
from blockstore.lmdb.store import LmdbStore
from blockstore.scan import object_pages, row_pages, table_sizes
from blockstore.scan_pages import StoredObject
from blockstore.store import MESSAGES, META, REPORTS, SCHEMA_VERSION, TABLES, Batch, Held, Store
from tests.blockstore.generations_contract import GenerationsContract
from tests.blockstore.store_contract import StoreContract, entry
from tests.support.paths import ROOT


@contextlib.asynccontextmanager
async def _made() -> AsyncIterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        store = await LmdbStore.open(Path(folder) / "store", bulk=True)
        yield store
        await store.close()


class TestLmdbStore(GenerationsContract, StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        store = await LmdbStore.open(tmp_path / "store")
        yield store
        await store.close()

    @pytest.fixture
    def store_factory(self) -> Callable[[], object]:
        return _made


async def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    store = await LmdbStore.open(tmp_path / "store")
    await store.put_many([(multihash_of(b"x"), b"x")], closed=True)
    await store.append_head(entry(1, await store.new_term("one")))
    await store.close()
    again = await LmdbStore.open(tmp_path / "store", readonly=True)
    assert await again.get(multihash_of(b"x")) == b"x"
    head = await again.head()
    assert head is not None
    assert head.seq == 1
    with pytest.raises(StoreUnavailable, match="read-only"):
        await again.write(Batch([(META, b"", b"k", b"v")]))
    await again.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await again.get(multihash_of(b"x"))


async def test_a_store_that_is_not_there_is_not_made_by_a_reader(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="not been made"):
        await LmdbStore.open(tmp_path / "none", readonly=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("made_by", "word"), [(SCHEMA_VERSION + 1, "newer"), (SCHEMA_VERSION - 2, "older")])
async def test_other_schemas_are_refused(tmp_path: Path, made_by: int, word: str) -> None:
    store = await LmdbStore.open(tmp_path / "store")
    await store.close()
    env = lmdb.open(str(tmp_path / "store"), max_dbs=64)
    with env.begin(write=True) as txn:
        txn.put(b"\0\0schema", b"%d" % made_by, db=env.open_db(b"meta", txn=txn))
    env.close()
    with pytest.raises(SchemaMismatch, match=word):
        await LmdbStore.open(tmp_path / "store")
    with pytest.raises(SchemaMismatch, match=word):
        await LmdbStore.open(tmp_path / "store", readonly=True)


async def test_a_store_of_the_schema_before_goes_on(tmp_path: Path) -> None:
    env = lmdb.open(str(tmp_path / "store"), max_dbs=64)
    old, new = multihash_of(b"old"), multihash_of(b"new")
    with env.begin(write=True) as txn:
        txn.put(old, b"\1old", db=env.open_db(b"objects", txn=txn))
        txn.put(b"\0\0schema", b"1", db=env.open_db(b"meta", txn=txn))
        for name in TABLES:
            env.open_db(name.encode(), txn=txn)
    env.close()
    reader = await LmdbStore.open(tmp_path / "store", readonly=True)
    assert await reader.get(old) == b"old"
    assert await reader.held_many([old, new]) == [Held.CLOSED, Held.ABSENT]
    await reader.close()
    writer = await LmdbStore.open(tmp_path / "store")
    reader = await LmdbStore.open(tmp_path / "store", readonly=True)
    await writer.put_many([(new, b"new")], closed=True)
    assert await reader.get_many([old, new]) == [b"old", b"new"]
    assert await writer.held_many([old, new]) == [Held.CLOSED, Held.CLOSED]
    assert await writer.row(META, b"", b"\0schema") == b"2"
    await reader.close()
    await writer.close()


async def test_a_store_that_is_older_than_a_table_is_read_as_one_without_rows(tmp_path: Path) -> None:
    store = await LmdbStore.open(tmp_path)
    await store.write(Batch([(MESSAGES, b"p", b"k", b"v")]))
    await store.close()
    with lmdb.open(str(tmp_path), max_dbs=64) as environment:
        database = environment.open_db(REPORTS.name.encode(), create=False)
        with environment.begin(write=True) as txn:
            txn.drop(database, delete=True)
    reader = await LmdbStore.open(tmp_path, readonly=True)
    assert await reader.row(MESSAGES, b"p", b"k") == b"v"
    assert await reader.row(REPORTS, b"p", b"k") is None
    assert await reader.rows(REPORTS, [(b"p", b"k")] * 2) == [None, None]
    assert await reader.scan(REPORTS, b"p") == []
    assert [page async for page in row_pages(reader, REPORTS)] == []
    assert REPORTS.name not in table_sizes(reader)
    await reader.close()
    # a writer makes it
    writer = await LmdbStore.open(tmp_path)
    await writer.write(Batch([(REPORTS, b"p", b"k", b"v")]))
    assert await writer.row(REPORTS, b"p", b"k") == b"v"
    await writer.close()


async def test_large_objects_are_packed_and_come_back(tmp_path: Path) -> None:
    store = await LmdbStore.open(tmp_path / "store")
    large = [b"ab" * 2000, os.urandom(5000), b"c" * 100_000, b"\0" * 1900]
    pairs = [(multihash_of(data), data) for data in large]
    await store.put_many(pairs[:2], closed=True)
    await store.put_many(pairs[2:], closed=False)
    place = store.place(1)
    with place.environment.begin() as txn:
        sizes = [len(txn.get(multihash, db=place.objects)) for multihash, _ in pairs]
    assert sizes[0] < 200 and sizes[1] == 5001 and sizes[2] < 1000
    assert await store.get_many([multihash for multihash, _ in pairs]) == large
    held = [Held.CLOSED, Held.CLOSED, Held.LOOSE, Held.LOOSE]
    assert await store.held_many([multihash for multihash, _ in pairs]) == held
    await store.close_many([pairs[2][0]])
    assert await store.get(pairs[2][0]) == large[2]
    assert await store.held_many([pairs[2][0]]) == [Held.CLOSED]
    # a damaged one is an error, and to a scan an object without bytes
    await place.environment.write(lambda txn: txn.put(pairs[0][0], b"\3" + b"\xff" * 50, db=place.objects))
    with pytest.raises(StoreError, match="damaged"):
        await store.get(pairs[0][0])
    assert [one.multihash for page in [page async for page in object_pages(store)] for one in page.objects
            if one.data is None] == [pairs[0][0]]  # fmt: skip
    await store.close()


async def test_a_full_store_says_so_and_stays_whole(tmp_path: Path) -> None:
    store = await LmdbStore.open(tmp_path / "store", map_size=2 << 20)
    data = os.urandom(1000)
    await store.put_many([(multihash_of(data), data)], closed=False)
    big = [os.urandom(100_000) for _ in range(40)]
    with pytest.raises(StoreFull, match="map_size_gb"):
        await store.put_many([(multihash_of(one), one) for one in big], closed=False)
    assert await store.get(multihash_of(data)) == data
    await store.write(Batch([(META, b"", b"k", b"v")]))
    assert await store.row(META, b"", b"k") == b"v"
    await store.close()


async def test_keys_that_lmdb_cannot_hold_are_refused(tmp_path: Path) -> None:
    store = await LmdbStore.open(tmp_path / "store")
    with pytest.raises(StoreError, match="longer than"):
        await store.write(Batch([(META, b"p" * 200, b"k" * 400, b"v")]))
    with pytest.raises(StoreError, match="longer than"):
        await store.row(META, b"p" * 300, b"")
    await store.close()


async def test_an_object_key_that_lmdb_cannot_hold_is_refused(tmp_path: Path) -> None:
    store = await LmdbStore.open(tmp_path / "store")
    with pytest.raises(StoreError, match="an object's key"):
        await store.put_many([(b"\x00" + b"i" * 600, b"x")], closed=False)
    assert (await store.stats())["objects"] == 0
    await store.close()


async def test_every_object_of_each_place_is_scanned_once(tmp_path: Path) -> None:
    store = await LmdbStore.open(tmp_path / "store", bulk=True)
    pairs = {multihash_of(bytes((n,))): bytes((n,)) for n in range(50)}
    await store.put_many(pairs.items(), closed=False)
    shut = sorted(pairs)[::3]
    await store.close_many(shut)
    await store.place(LASTING).put_many([(multihash_of(b"header"), b"header")], closed=True)
    every = [StoredObject(multihash, pairs[multihash], multihash in shut) for multihash in sorted(pairs)]
    every.insert(0, StoredObject(multihash_of(b"header"), b"header", True))
    pages = [page async for page in object_pages(store)]
    assert [one for page in pages for one in page.objects] == every
    assert [one async for page in object_pages(store, pages[0].position) for one in page.objects] == every[1:]
    await store.close()


async def test_one_view_may_be_read_only_while_another_of_the_process_writes(tmp_path: Path) -> None:
    writer = await LmdbStore.open(tmp_path / "store")
    reader = await LmdbStore.open(tmp_path / "store", readonly=True)
    await writer.put_many([(multihash_of(b"x"), b"x")], closed=False)
    assert await reader.get(multihash_of(b"x")) == b"x"
    with pytest.raises(StoreUnavailable, match="read-only"):
        await reader.put_many([(multihash_of(b"y"), b"y")], closed=False)
    await reader.close()
    await writer.put_many([(multihash_of(b"y"), b"y")], closed=False)
    await writer.close()


async def test_a_map_that_another_process_made_larger_is_taken_over(tmp_path: Path) -> None:
    store = await LmdbStore.open(tmp_path / "store", map_size=1 << 20)
    grow = """
import asyncio, sys
from pathlib import Path
from blockstore.cid import multihash_of
from blockstore.lmdb.store import LmdbStore
async def main():
    store = await LmdbStore.open(Path(sys.argv[1]), map_size=64 << 20)
    objects = [b"%d" % n * 2000 for n in range(2000)]
    await store.put_many([(multihash_of(data), data) for data in objects], closed=False)
    await store.close()
asyncio.run(main())
"""
    command = [sys.executable, "-c", grow, str(tmp_path / "store")]
    done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, timeout=60)
    assert done.returncode == 0
    await store.put_many([(multihash_of(b"after"), b"after")], closed=True)
    last = b"1999" * 2000
    assert await store.get_many([multihash_of(last), multihash_of(b"after")]) == [last, b"after"]
    await store.close()


_WRITER = """
import asyncio, os, sys
from pathlib import Path
from blockstore.cid import multihash_of
from blockstore.lmdb.store import LmdbStore
from blockstore.store import META, Batch
from tests.blockstore.store_contract import entry

async def main():
    store = await LmdbStore.open(Path(sys.argv[1]))
    term = await store.new_term("writer")
    head = await store.head()
    seq = head.seq if head else 0
    while True:
        seq += 1
        objects = [b"%d/%d" % (seq, n) * 200 for n in range(20)]
        await store.put_many([(multihash_of(data), data) for data in objects], closed=True)
        batch = Batch()
        batch.put(META, b"", b"seq%d" % seq, b"".join(multihash_of(data) for data in objects))
        await store.write(batch)
        await store.append_head(entry(seq, term))
        print(seq, flush=True)

asyncio.run(main())
"""


def _start_writer(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


async def test_kill_at_any_moment_leaves_every_published_head_whole(tmp_path: Path) -> None:
    rng = random.Random(7)
    reader: LmdbStore | None = None
    told = 0
    for _ in range(6):
        writer = _start_writer(tmp_path / "store")
        assert writer.stdout is not None
        for _ in range(rng.randint(1, 8)):
            told = int(writer.stdout.readline())
        await asyncio.sleep(rng.random() / 200)  # the moment of the kill: anywhere within a step
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        reader = reader or await LmdbStore.open(tmp_path / "store", readonly=True)
        head = await reader.head()
        assert head is not None
        assert head.seq >= told
        entries = await reader.head_entries(0)
        assert [e.seq for e in entries] == list(range(1, head.seq + 1))
        for seq in range(1, head.seq + 1):
            row = await reader.row(META, b"", b"seq%d" % seq)
            assert row is not None
            keys = [row[at : at + 36] for at in range(0, len(row), 36)]
            for key, data in zip(keys, await reader.get_many(keys), strict=True):
                assert data is not None
                verify(key, data)
    assert reader is not None
    await reader.close()


async def test_a_second_writer_fences_the_first(tmp_path: Path) -> None:
    writer = _start_writer(tmp_path / "store")
    assert writer.stdout is not None
    writer.stdout.readline()
    store = await LmdbStore.open(tmp_path / "store")
    term = await store.new_term("second")
    # the first is told at its next append, and ends
    assert await asyncio.to_thread(writer.wait, 20) == 1
    writer.stdout.close()
    head = await store.head()
    assert head is not None
    await store.append_head(entry(head.seq + 1, term))
    with pytest.raises(Fenced):
        await store.append_head(entry(head.seq + 2, term - 1))
    await store.close()


async def test_a_reader_looks_at_the_head_log_again_after_each_write_of_another(tmp_path: Path) -> None:
    writer = await LmdbStore.open(tmp_path / "s", map_size=1 << 26)
    reader = await LmdbStore.open(tmp_path / "s", readonly=True)
    assert reader.newest_seq() == 0
    term = await writer.new_term("one")
    for seq in (1, 2):
        await writer.append_head(entry(seq, term))
        assert [reader.newest_seq(), reader.newest_seq()] == [seq, seq]
        batch = Batch()
        batch.put(META, b"", b"other", b"%d" % seq)
        await writer.write(batch)
        assert reader.newest_seq() == seq
    await reader.close()
    await writer.close()
