"""Files that Forest and go-car wrote: every object is found; `follower serve` answers from one that is not imported."""

from __future__ import annotations

import asyncio
import contextlib
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from blockstore.archive.archive import Archive
from blockstore.archive.forest_index import hash_base, slot_hash
from blockstore.archive.tier import Archives
from blockstore.car.forest_index import cid_hash
from blockstore.car.reader import CarFile, iter_car
from blockstore.cid import DAG_CBOR, cid_of
from blockstore.errors import BadCar
from blockstore.lmdb.store import LmdbStore
from tests.support.processes import follower_process, free_port
from tests.support.recorded import recorded


async def assert_all_found(path: Path) -> Archive:
    archives = await Archives.open([str(path)])
    objects = [(cid.multihash, raw) for cid, raw in iter_car(path)]
    assert await archives.outcomes([key for key, _ in objects]) == [raw for _, raw in objects]
    with CarFile(path) as reader:
        archive = await archives.first()
        assert (archive.roots, archive.head) == (reader.roots, reader.head)
    await archives.close()
    return archive


@pytest.mark.recorded
async def test_a_file_of_forest() -> None:
    archive = await assert_all_found(recorded("cars/chain4.forest.car.zst"))
    assert archive.decoded > 10


@pytest.mark.recorded
async def test_a_file_of_go_car(tmp_path: Path) -> None:
    with recorded("cars/carv2.car.zst").open("rb") as packed, (tmp_path / "file.car").open("wb") as plain:
        zstandard.ZstdDecompressor().copy_stream(packed, plain)
    await assert_all_found(tmp_path / "file.car")


@pytest.mark.recorded
@pytest.mark.parametrize("name", ["carv2.car.zst", "chain4.car", "chain4.car.zst", "export40.car"])
async def test_files_that_must_be_imported(name: str) -> None:
    with pytest.raises(BadCar, match="it can be imported, not served in place"):
        await Archives.open([str(recorded(f"cars/{name}"))])


def test_the_hash_of_the_index() -> None:
    """By the multihash and the codec, as the writer makes it of the CID; a vector of Forest's."""
    cid = cid_of(b"\x66forest", DAG_CBOR)
    assert slot_hash(hash_base(cid.multihash), DAG_CBOR) == cid_hash(cid) == 7060553106844083342


def ask(port: int, method: str, *params: Any) -> Any:
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    request = urllib.request.Request(f"http://127.0.0.1:{port}/rpc/v1", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return orjson.loads(answer.read())["result"]


async def objects_in(folder: Path) -> int:
    store = await LmdbStore.open(folder, readonly=True)
    try:
        return (await store.stats())["objects"]
    finally:
        await store.close()


@pytest.mark.recorded
def test_serve_makes_the_rows_and_answers(tmp_path: Path) -> None:
    port = free_port()
    place = str(recorded("cars/chain4.forest.car.zst"))
    store = f"lmdb://{tmp_path}/store"
    arguments = ("--store", store, "--archive", place, "--listen", f"127.0.0.1:{port}", "--ready-head-age-epochs", "0")
    with follower_process("serve", *arguments) as serving:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                head = ask(port, "Filecoin.ChainHead")
                break
            assert serving.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert head["Height"] == 3
        assert ask(port, "Filecoin.StateNetworkName") == "mainnet"
        assert ask(port, "Filecoin.ChainGetBlock", head["Cids"][0]) == head["Blocks"][0]
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        assert f'follower_archive_reads_total{{archive="{place}"}}' in metrics
    assert "indexed 4 tipsets" in serving.output()
    assert asyncio.run(objects_in(tmp_path / "store")) == 0
