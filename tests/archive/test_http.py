"""Archives on an HTTP server: ranges, faults of servers and networks, the cache on disk, a file that changes."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import lmdb
import pytest

from blockstore.archive import http_source
from blockstore.archive.block_cache import BLOCK, BlockCache
from blockstore.archive.http_source import HttpFile, HttpOptions, open_http
from blockstore.archive.named import shown_place
from blockstore.archive.source import ArchiveChanged
from blockstore.archive.tier import ArchiveOptions, Archives
from blockstore.cid import RAW, cid_of
from blockstore.errors import BadCar, StoreError, StoreUnavailable
from tests.archive.files import write_forest
from tests.archive.range_server import RangeServer, range_server

OPTIONS = HttpOptions(tries=3, first_wait=0.01, timeout=aiohttp.ClientTimeout(total=5, sock_read=0.5))
CONTENT = bytes(at * 31 % 251 for at in range(20 * BLOCK + 77))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RangeServer]:
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    async with range_server(file) as serving:
        yield serving


@pytest.fixture
def executor() -> Any:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
async def remote(server: RangeServer, executor: ThreadPoolExecutor) -> AsyncIterator[HttpFile]:
    file = await open_http(server.url, executor, None, OPTIONS)
    yield file
    await file.close()


def span(offset: int, length: int) -> bytes:
    return CONTENT[offset : offset + length]


async def test_spans_anywhere(remote: HttpFile) -> None:
    spans = [(0, 5), (BLOCK - 2, 4), (3 * BLOCK, BLOCK), (BLOCK // 2, 4 * BLOCK), (len(CONTENT) - 5, 100), (10**9, 5)]
    assert remote.size == len(CONTENT)
    assert await remote.read_many(spans) == [span(*one) for one in spans]


async def test_neighbours_come_in_one_request_and_once(remote: HttpFile, server: RangeServer) -> None:
    server.requests = 0
    spans = [(5 * BLOCK + at * 1000, 900) for at in range(100)]
    first, second = await asyncio.gather(remote.read_many(spans), remote.read_many(spans))
    assert first == second == [span(*one) for one in spans]
    assert server.requests == 1
    await remote.read_many([(11 * BLOCK, 1), (15 * BLOCK, 1)])
    assert server.requests == 3


@pytest.mark.parametrize("fault", [500, 502, 503, 429, 408, "cut", "short", "wrong", "slow", "whole"])
async def test_faults_that_pass(fault: int | str, remote: HttpFile, server: RangeServer) -> None:
    server.faults = [fault, fault]
    if fault == "whole":
        # RFC 9110: a server may answer with the whole file, now and then
        server.faults = [fault]
    assert await remote.read_many([(7 * BLOCK + 5, 3000)]) == [span(7 * BLOCK + 5, 3000)]
    assert remote.retries == (1 if fault == "whole" else 2)


@pytest.mark.parametrize("fault", [500, "cut", "wrong"])
async def test_faults_that_stay(fault: int | str, remote: HttpFile, server: RangeServer) -> None:
    server.faults = [fault] * 3
    with pytest.raises(StoreUnavailable):
        await remote.read_many([(7 * BLOCK, 10)])
    # and it is asked again by the next read
    assert await remote.read_many([(7 * BLOCK, 10)]) == [span(7 * BLOCK, 10)]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_answers_that_are_final(status: int, remote: HttpFile, server: RangeServer) -> None:
    server.requests = 0
    server.faults = [status]
    with pytest.raises(StoreUnavailable, match=str(status)):
        await remote.read_many([(7 * BLOCK, 10)])
    assert server.requests == 1


async def test_an_encoded_answer_is_refused(remote: HttpFile, server: RangeServer) -> None:
    server.faults = ["encoded"]
    with pytest.raises(BadCar):
        await remote.read_many([(7 * BLOCK, 10)])


async def test_a_server_without_ranges(server: RangeServer, executor: ThreadPoolExecutor) -> None:
    server.ignores_ranges = True
    with pytest.raises(BadCar, match="does not serve ranges"):
        await open_http(server.url, executor, None, OPTIONS)


async def test_an_empty_file(server: RangeServer, executor: ThreadPoolExecutor) -> None:
    server.file.write_bytes(b"")
    with pytest.raises(BadCar, match="is empty"):
        await open_http(server.url, executor, None, OPTIONS)


async def test_no_server(executor: ThreadPoolExecutor) -> None:
    with pytest.raises(StoreUnavailable):
        await open_http("http://127.0.0.1:9/file", executor, None, HttpOptions(tries=1))


@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 500])
async def test_a_file_that_changes_is_noticed(size: int, remote: HttpFile, server: RangeServer) -> None:
    await remote.read_many([(0, 10)])
    server.file.write_bytes(bytes(size))
    with pytest.raises(ArchiveChanged):
        await remote.read_many([(9 * BLOCK, 10)])


def test_secrets_of_a_url_are_not_shown() -> None:
    assert shown_place("https://me:hidden@host:8/a/b.car?token=hidden#hidden") == "https://host:8/a/b.car"


async def test_the_log_and_errors_name_no_secret(
    server: RangeServer, executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = server.url.replace("://", "://me:hidden@") + "?token=hidden"
    server.faults = [500, "cut", 404]
    with pytest.raises(StoreUnavailable) as raised:
        await open_http(url, executor, None, OPTIONS)
    assert "hidden" not in str(raised.value)
    told = [record.getMessage() for record in caplog.records if record.name == http_source.__name__]
    assert told
    assert not any("hidden" in text for text in told)


# --- the cache on disk -----------------------------------------------------------------------------


async def test_the_cache_outlives_the_process(
    server: RangeServer, executor: ThreadPoolExecutor, tmp_path: Path
) -> None:
    cache = BlockCache(tmp_path / "cache", 1 << 20)
    first = await open_http(server.url, executor, cache, OPTIONS)
    await first.read_many([(6 * BLOCK, 3 * BLOCK)])
    await first.close()
    server.requests = 0
    second = await open_http(server.url, executor, cache, OPTIONS)
    assert await second.read_many([(6 * BLOCK, 3 * BLOCK)]) == [span(6 * BLOCK, 3 * BLOCK)]
    assert server.requests == 1  # the one that asks for the version
    assert second.cached_blocks == 3
    await second.close()
    server.file.write_bytes(CONTENT[::-1])
    third = await open_http(server.url, executor, cache, OPTIONS)
    assert await third.read_many([(6 * BLOCK, 5)]) == [CONTENT[::-1][6 * BLOCK : 6 * BLOCK + 5]]
    await third.close()
    cache.close()


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path / "cache", 16 * 32768)
    file = b"f" * 16
    for number in range(200):
        cache.put_many({(file, number): bytes([number]) * BLOCK})
    assert cache.count() == 16
    found = cache.get_many([(file, number) for number in range(200)])
    assert sorted(number for _, number in found) == list(range(184, 200))
    cache.put_many({(file, number): b"%d" % number for number in range(500, 600)})
    assert cache.count() == 16
    assert (tmp_path / "cache" / "data.mdb").stat().st_size < 40 << 20
    cache.close()


def test_a_damaged_block_is_not_given(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cache = BlockCache(folder, 1 << 20)
    key = (b"f" * 16, 1)
    cache.put_many({key: b"right" * 1000})
    cache.close()
    environment: Any = lmdb.open(str(folder), max_dbs=2)
    blocks: Any = environment.open_db(b"blocks")
    with environment.begin(write=True, db=blocks) as txn:
        (name, value) = next(iter(txn.cursor()))
        txn.put(name, value[:-1] + b"!")
    environment.close()
    cache = BlockCache(folder, 1 << 20)
    assert cache.get_many([key]) == {}
    cache.put_many({key: b"right" * 1000})
    assert cache.get_many([key]) == {key: b"right" * 1000}
    cache.close()


# --- archives --------------------------------------------------------------------------------------

OBJECTS = [(cid_of(data, RAW), data) for data in (bytes([at % 251]) * (17 + 53 * at) for at in range(120))]
OTHERS = [(cid_of(data, RAW), data) for data in (b"other %d" % at * 20 for at in range(500))]


def keys(objects: list[Any]) -> list[bytes]:
    return [cid.multihash for cid, _ in objects]


async def test_a_file_that_changes_is_opened_anew(tmp_path: Path) -> None:
    file = write_forest(tmp_path / "file", [OBJECTS[0][0]], OBJECTS, frame=500)
    async with range_server(file) as server:
        archives = await Archives.open([server.url], ArchiveOptions(cache_folder=tmp_path / "cache"))
        assert await archives.outcomes(keys(OBJECTS)) == [data for _, data in OBJECTS]
        write_forest(file, [OTHERS[0][0]], OTHERS, frame=500)
        (archive,) = await archives.all()
        archive.source._memory.clear()  # type: ignore[attr-defined]
        (found,) = await archives.outcomes(keys(OTHERS[-1:]))
        if found is not None:
            assert isinstance(found, ArchiveChanged)
        assert await archives.outcomes(keys(OTHERS)) == [data for _, data in OTHERS]
        await archives.close()


async def test_a_change_is_noticed_by_a_frame_alone(tmp_path: Path) -> None:
    """The index is in memory since the start, so that only what it points to is asked for."""
    large = [(cid_of(data, RAW), data) for data in (random.Random(at).randbytes(3 * BLOCK) for at in range(8))]
    file = write_forest(tmp_path / "file", [large[0][0]], large)
    async with range_server(file) as server:
        archives = await Archives.open([server.url])
        assert await archives.outcomes(keys(large[:1])) == [large[0][1]]
        write_forest(file, [large[0][0]], large[::-1])
        (found,) = await archives.outcomes(keys(large[-1:]))
        assert isinstance(found, ArchiveChanged)
        assert await archives.outcomes(keys(large)) == [data for _, data in large]
        await archives.close()


async def test_a_server_that_is_away_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockstore.archive.tier._REOPEN_SECONDS", 0.0)
    file = write_forest(tmp_path / "file", [OBJECTS[0][0]], OBJECTS)
    async with range_server(file) as server:
        server.faults = [404, 404]
        archives = await Archives.open([server.url], ArchiveOptions(cache_folder=tmp_path / "cache"))
        (found,) = await archives.outcomes(keys(OBJECTS[:1]))
        assert isinstance(found, StoreError)
        assert archives.failures == 1
        assert await archives.outcomes(keys(OBJECTS)) == [data for _, data in OBJECTS]
        await archives.close()


async def test_what_one_archive_cannot_give_comes_from_the_next(tmp_path: Path) -> None:
    half = write_forest(tmp_path / "half", [OBJECTS[0][0]], OBJECTS[:60])
    whole = write_forest(tmp_path / "whole", [OBJECTS[0][0]], OBJECTS)
    async with range_server(half) as server:
        archives = await Archives.open([server.url, str(whole)])
        assert await archives.outcomes(keys(OBJECTS)) == [data for _, data in OBJECTS]
        figures = archives.figures("reads")
        assert figures == {server.url: 60, str(whole): 60}
        await archives.close()
