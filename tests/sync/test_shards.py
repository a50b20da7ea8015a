"""Shards of files that followers keep: any that are enough give the file, whatever single sources do."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.web_request import BaseRequest

from blockstore.lmdb.store import LmdbStore
from blockstore.shards.erasure import is_available
from blockstore.shards.files import cut_file
from blockstore.shards.folder import find_shards, read_shard, write_shards
from blockstore.store import Store
from chain.errors import NotHeld
from leader_bridge.imports.progress import Silent
from leader_bridge.sync import shards as stage
from leader_bridge.sync.pool import Pool
from leader_bridge.sync.shards import files_of_shards
from rpc.server.ranges.page import RangeLimits, RangePages
from rpc.server.ranges.shard_files import ShardFiles
from tests.support.processes import follower_process
from tests.support.proxies import free_port
from tests.support.recorded import recorded
from tests.sync.conftest import FAST, TOKEN, assert_whole, giving, peer
from tests.sync.faults import Fault, deny, fail, spoil, stall
from tests.sync.test_command import disperse, output, start
from tests.sync.test_repeats import quick_peer

pytestmark = [
    pytest.mark.recorded,
    pytest.mark.skipif(not is_available(), reason="pyeclib is not installed"),
]

DATA = random.Random(4).randbytes(300_000)


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def cut_into(folder: Path, folders: int, data: bytes = DATA, name: str = "snapshot.car") -> list[Path]:
    """Shards of three segments, 16 + 4 each."""
    path = folder / "given" / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(data)
    made = [folder / f"disk {number}" for number in range(folders)]
    cut_file(path, made, segment_bytes=120_000)
    return made


@contextlib.asynccontextmanager
async def kept_by(
    store: Store, folders: Sequence[Path], limits: RangeLimits = FAST
) -> AsyncIterator[tuple[Pool, list[RangePages]]]:
    """A pool of followers, each with a folder of shards."""
    async with contextlib.AsyncExitStack() as stack:
        served = [await stack.enter_async_context(giving(store, limits, shards=folder)) for folder in folders]
        sources = [peer(server) if limits is not FAST else quick_peer(server) for server, _ in served]
        pool = Pool(sources, in_all=100_000, per_source=10_000)
        async with pool.running():
            yield pool, [pages for _, pages in served]


async def get(pool: Pool, into: Path, silent_seconds: float = 60.0) -> tuple[list[Path], list[str]]:
    said = Said()
    files = await files_of_shards(pool, list(pool.standings), into, said, silent_seconds=silent_seconds)
    return files, said.lines


async def test_five_followers_give_a_file_and_hardly_more(devnet: Store, tmp_path: Path) -> None:
    folders = cut_into(tmp_path, 5)
    async with kept_by(devnet, folders) as (pool, pages):
        (path,), said = await get(pool, tmp_path / "new")
        assert path.read_bytes() == DATA
        assert path.name == "snapshot.car"
        # 16 of 20 shards of three pieces; more only of a source that was late
        assert 48 <= sum(one.given.objects for one in pages) <= 60
        assert said == []


async def lie(request: BaseRequest, right: web.Response) -> web.Response:
    """One byte of a shard is another one."""
    body = bytearray(right.body)  # type: ignore[arg-type]
    if request.path != "/shard-files":
        body[-1] ^= 1
    return web.Response(body=bytes(body))


def another(folder: Path) -> Fault:
    """A shard that is proven, but not the one that was asked for."""
    other = sorted(folder.iterdir())[0].read_bytes()

    async def give(request: BaseRequest, right: web.Response) -> web.Response:
        return right if request.path == "/shard-files" else web.Response(body=other)

    return give


async def babble(request: BaseRequest, right: web.Response) -> web.Response:
    """What should name shards names none."""
    return right if request.path != "/shard-files" else web.Response(body=b'[["../x.shard", "{}", 0]]')


def repeat() -> Fault:
    """It names the same shards for ever."""
    first = bytearray()

    async def name_them(request: BaseRequest, right: web.Response) -> web.Response:
        if request.path == "/shard-files":
            first[:] = first or right.body  # type: ignore[assignment]
            return web.Response(body=bytes(first))
        return right

    return name_them


def given_shards(fault: Fault) -> Fault:
    """The fault in shards alone: it names them as it should."""

    async def only(request: BaseRequest, right: web.Response) -> web.Response:
        return right if request.path == "/shard-files" else await fault(request, right)

    return only


@pytest.mark.parametrize(
    ("make", "is_blamed"),
    [
        (lambda folder: lie, True),
        (another, True),
        (lambda folder: given_shards(stall), False),
        pytest.param(lambda folder: stall, False, marks=pytest.mark.long),
        (lambda folder: given_shards(deny), False),
        pytest.param(lambda folder: deny, False, marks=pytest.mark.long),
        (lambda folder: given_shards(fail), False),
        pytest.param(lambda folder: babble, None, marks=pytest.mark.long),
        (lambda folder: repeat(), True),
    ],
    ids=["lies", "another", "silent", "silent at once", "lost them", "keeps none", "fails", "babbles", "repeats"],
)
async def test_one_of_five_may_be_bad_or_silent(
    devnet: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], Fault],
    is_blamed: bool | None,
) -> None:
    monkeypatch.setattr(stage, "_LATE_SECONDS", 0.5)
    monkeypatch.setattr(stage, "_LATE_SHARD_SECONDS", 0.1)
    folders = cut_into(tmp_path, 5)
    async with kept_by(devnet, folders) as (pool, pages):
        spoiled = spoil(pages[2], make(folders[2]))
        (path,), _ = await get(pool, tmp_path / "new")
        assert path.read_bytes() == DATA
        assert spoiled
        bad = [one.bad for one in pool.standings.values()]
        assert [*bad[:2], *bad[3:]] == [0] * 4
        assert is_blamed is None or bool(bad[2]) == is_blamed


async def test_two_of_five_are_missed_and_said_so(devnet: Store, tmp_path: Path) -> None:
    folders = cut_into(tmp_path, 5)
    async with kept_by(devnet, folders[:3]) as (pool, _):
        files, said = await get(pool, tmp_path / "new")
    assert files == []
    assert said == [
        "snapshot.car is not put together: from byte 0, 12 of the 16 shards that are needed are kept. Its objects are "
        "asked for singly"
    ]


async def test_sources_that_fall_silent_end_it(devnet: Store, tmp_path: Path) -> None:
    folders = cut_into(tmp_path, 5)
    async with kept_by(devnet, folders) as (pool, pages):
        for one in pages[:2]:
            spoil(one, given_shards(stall))
        files, said = await get(pool, tmp_path / "new", silent_seconds=1.0)
    assert files == []
    assert "no shard has come for 1 s" in said[0]


async def test_a_damaged_file_costs_one_shard_and_blames_nobody(devnet: Store, tmp_path: Path) -> None:
    folders = cut_into(tmp_path, 5)
    broken = folders[1] / "snapshot.car.1.6.shard"
    data = bytearray(broken.read_bytes())
    data[-1] ^= 1
    broken.write_bytes(data)
    (folders[1] / "a.shard").write_bytes(b"none")
    with pytest.raises(NotHeld):
        ShardFiles(folders[1]).content(broken.name)
    with pytest.raises(NotHeld):
        ShardFiles(folders[1]).content("../disk 0/snapshot.car.1.5.shard")
    async with kept_by(devnet, folders) as (pool, _):
        (path,), _ = await get(pool, tmp_path / "new")
        assert path.read_bytes() == DATA
        assert not any(one.bad or one.errors for one in pool.standings.values())


def other_shards(folder: Path, folders: Sequence[Path]) -> list[Path]:
    """Folders of shards that say to be of the same file as those of `folders`, and are of another."""
    names = {one.manifest.offset: one.manifest for place in folders for one in find_shards(place)}  # type: ignore[union-attr]
    made = cut_into(folder, len(folders), random.Random(9).randbytes(len(DATA)))
    lying = [folder / f"lying {number}" for number in range(len(folders))]
    for number, place in enumerate(made):
        for one in find_shards(place):
            shard = read_shard(one)  # type: ignore[arg-type]
            manifest = replace(one.manifest, digest=names[one.manifest.offset].digest)  # type: ignore[union-attr]
            write_shards([lying[number]], manifest, [shard])
    return lying


async def test_what_most_name_counts_and_where_there_is_no_most_each_is_doubted(devnet: Store, tmp_path: Path) -> None:
    (all_of_it,) = cut_into(tmp_path / "one", 1)
    (lies,) = other_shards(tmp_path / "two", [all_of_it])
    async with kept_by(devnet, [all_of_it, lies]) as (pool, _):
        (path,), _ = await get(pool, tmp_path / "new")
        assert path.read_bytes() == DATA
    # the other way round, whichever of the two was taken first
    async with kept_by(devnet, [lies, all_of_it]) as (pool, _):
        (path,), _ = await get(pool, tmp_path / "new again")
        assert path.read_bytes() == DATA
    folders = cut_into(tmp_path / "three", 5)
    async with kept_by(devnet, [*folders, lies]) as (pool, pages):
        (path,), _ = await get(pool, tmp_path / "of most")
        assert path.read_bytes() == DATA
        assert pages[5].given.objects == 0


async def test_a_file_that_one_of_many_names_alone_is_left_out(devnet: Store, tmp_path: Path) -> None:
    folders = cut_into(tmp_path, 4)
    (alone,) = cut_into(tmp_path / "alone", 1, DATA[:1000], "other.car")
    async with kept_by(devnet, [*folders, alone]) as (pool, pages):
        files, _ = await get(pool, tmp_path / "new")
        assert [path.name for path in files] == ["snapshot.car"]
        assert pages[4].given.objects == 0


async def test_what_an_earlier_run_has_left_is_not_asked_for_again(devnet: Store, tmp_path: Path) -> None:
    folders = cut_into(tmp_path, 5)
    async with kept_by(devnet, folders) as (pool, pages):
        getting = asyncio.create_task(get(pool, tmp_path / "new"))
        while sum(one.given.objects for one in pages) < 20:
            assert not getting.done()
            await asyncio.sleep(0)
        getting.cancel()
        await asyncio.gather(getting, return_exceptions=True)
        # an answer that was just being written
        await asyncio.sleep(0.1)
        left = len(list((tmp_path / "new").rglob("*.shard")))
        assert 0 < left < 48
        before = sum(one.given.objects for one in pages)
        (path,), _ = await get(pool, tmp_path / "new")
        assert path.read_bytes() == DATA
        assert sum(one.given.objects for one in pages) - before <= 60 - left


@pytest.mark.long
async def test_limits_are_kept_at_both_ends(devnet: Store, tmp_path: Path) -> None:
    folders = cut_into(tmp_path, 5)
    async with kept_by(devnet, folders, RangeLimits(4, 100, at_once=4)) as (pool, pages):
        (path,), _ = await get(pool, tmp_path / "new")
        assert path.read_bytes() == DATA
        # each follower's limit was told, and nothing had to be refused
        assert [one.given.limited for one in pages] == [0] * 5


@pytest.mark.long
async def test_real_followers_give_a_snapshot_while_one_of_them_stands_still(
    devnet_folder: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / f"disk {number}" for number in range(5)]
    await disperse(recorded("devnet/chain.car.zst"), folders)
    tokens = tmp_path / "tokens"
    tokens.write_text(f"region-b {TOKEN}\n")
    ports = [free_port() for _ in folders]
    async with contextlib.AsyncExitStack() as stack:
        served = [
            stack.enter_context(
                follower_process(
                    "serve", "--listen", f"127.0.0.1:{port}", "--store", f"lmdb://{devnet_folder}",
                    "--range-tokens-file", str(tokens), "--range-shards-dir", str(folder),
                )
            )
            for port, folder in zip(ports, folders, strict=True)
        ]  # fmt: skip
        async with asyncio.timeout(120), aiohttp.ClientSession() as session:
            for port in ports:
                while True:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.get(f"http://127.0.0.1:{port}/shard-files") as answer:
                            assert answer.status == 401
                            break
                    await asyncio.sleep(0.1)
        served[3].process.send_signal(signal.SIGSTOP)
        try:
            sources = ",".join(f"shards:http://127.0.0.1:{port}" for port in ports)
            process = start(tmp_path, sources, "--once")
            text = await output(process)
            assert process.returncode == 0, text
            assert "does not tell what shards it keeps" in text
            assert "is not put together" not in text
            metrics = f"http://127.0.0.1:{ports[0]}/metrics"
            async with aiohttp.ClientSession() as session, session.get(metrics) as answer:
                told = await answer.text()
            (objects,) = [line.split()[1] for line in told.splitlines() if line.startswith("follower_ranges_objects_t")]
            # shards, an offer or two, and headers
            assert float(objects) < 400
        finally:
            served[3].process.send_signal(signal.SIGCONT)
    store = await LmdbStore.open(tmp_path / "store")
    await assert_whole(store)
    await store.close()
    assert not (tmp_path / "store" / "shards").exists()
