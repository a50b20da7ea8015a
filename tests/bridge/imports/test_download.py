"""Snapshots that are downloaded while they are imported, from a real server that breaks off, stalls and lies."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import shutil
import ssl
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import leader_bridge.imports.download
from blockstore.errors import BadCar, DownloadFailed
from blockstore.memory import MemoryStore
from blockstore.open import open_store
from blockstore.store import META, Store
from chain.errors import BadRequest
from leader_bridge.imports.download import Download, DownloadOptions, shown_url
from leader_bridge.imports.fetched import import_from_url
from leader_bridge.imports.import_state import MARK, PROGRESS
from leader_bridge.imports.importer import import_car
from leader_bridge.imports.progress import Lines
from tests.bridge.imports.file_server import FileServer
from tests.support.bridge.imported import check_whole, contents
from tests.support.recorded import recorded

CAR = "devnet/chain.car.zst"
OPENSSL = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
#: bytes that may be under way when a connection breaks
SLACK = 256 << 10
QUICK = DownloadOptions(timeout_seconds=5, attempts=4, first_delay_seconds=0.01)


@asynccontextmanager
async def serving(content: bytes | None = None, **settings: Any) -> AsyncIterator[FileServer]:
    server = FileServer(recorded(CAR).read_bytes() if content is None else content, **settings)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def fetch(store: Store, server: FileServer, folder: Path, options: DownloadOptions = QUICK, **more: Any) -> str:
    """Import from the server; what was said to the operator."""
    said = io.StringIO()
    url = more.pop("url", server.url)
    await import_from_url(
        store,
        url,
        folder,
        options=options,
        progress=Lines(said, every=0),
        network_file=recorded("devnet/network.json"),
        **more,
    )
    return said.getvalue()


LOCAL: list[tuple[MemoryStore, dict[str, Any]]] = []


async def assert_equal_to_a_local_import(store: Store, tmp_path: Path) -> None:
    if not LOCAL:
        made = MemoryStore()
        await import_car(made, recorded(CAR), network_file=recorded("devnet/network.json"))
        await check_whole(made)
        LOCAL.append((made, await contents(made, tmp_path)))
    local, rows = LOCAL[0]
    assert await store.row(META, b"", MARK) is None
    assert await contents(store, tmp_path) == rows
    held = [await one.held_many(sorted(local._objects)) for one in (store, local)]
    assert held[0] == held[1]


@pytest.mark.recorded
async def test_cuts_stalls_and_busy_answers_end_in_an_equal_store(tmp_path: Path) -> None:
    async with serving(cuts=[200_000, 1, 500_000], codes=[503, 429], stall_after=900_000, rate=20 << 20) as server:
        server.checksum = server.right_checksum()
        store = await open_store(f"lmdb://{tmp_path}/store", bulk=True)
        options = DownloadOptions(timeout_seconds=1, attempts=4, first_delay_seconds=0.01)
        said = await fetch(store, server, tmp_path / "download", options)
        await assert_equal_to_a_local_import(store, tmp_path)
        await store.close()
        # what a client has not taken when a connection breaks is sent again
        assert server.sent < len(server.content) + 4 * SLACK
    assert "HTTP 503; trying again" in said
    assert "no byte for 1 s; trying again" in said
    assert [code for _, code in server.asked] == [503, 429, 200, 206, 206, 206, 206]
    assert list((tmp_path / "download").iterdir()) == [], "the file is removed after the import"


@pytest.mark.recorded
async def test_objects_are_stored_while_the_rest_still_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    async with serving(stall_after=1_500_000, rate=50 << 20) as server:
        download = Download(server.url, tmp_path / "download", DownloadOptions(timeout_seconds=60))
        await download.open()
        # the child makes smaller batches, so that there is one before the stall
        feed = "import blockstore.car.batches as b; b.BATCH_BYTES = 1 << 20"
        (tmp_path / "sitecustomize.py").write_text(feed)
        monkeypatch.syspath_prepend(str(tmp_path))
        work = asyncio.create_task(
            import_car(store, download.path, network_file=recorded("devnet/network.json"), arriving=download)
        )
        async with asyncio.timeout(60):
            while not (await store.stats())["objects"]:
                await asyncio.sleep(0.01)
        assert not work.done()
        assert await store.head() is None
        assert download.have < len(server.content)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await download.close()
        # what is here is used by the next run
        await fetch(store, server, tmp_path / "download")
        assert server.sent < len(server.content) + SLACK
    await assert_equal_to_a_local_import(store, tmp_path)


@pytest.mark.recorded
@pytest.mark.parametrize("keep", [pytest.param(False, marks=pytest.mark.long), True])
async def test_a_later_run_goes_on_and_a_whole_file_is_not_asked_for(tmp_path: Path, keep: bool) -> None:
    store = MemoryStore()
    async with serving(cuts=[700_000] + [0] * 3, rate=20 << 20) as server:
        with pytest.raises(DownloadFailed, match=r"3 times in a row; [1-9][0-9,]+ bytes are kept"):
            await fetch(store, server, tmp_path, DownloadOptions(attempts=3, first_delay_seconds=0.01))
        assert await store.head() is None
        server.cuts.clear()
        with pytest.raises(BadRequest, match="--network-file"):
            await import_from_url(store, server.url, tmp_path, options=QUICK)
        assert server.sent < len(server.content) + SLACK
        answers = len(server.asked)
        said = await fetch(store, server, tmp_path, keep_file=keep)
        assert "is downloaded already" in said
        assert len(server.asked) == answers
    await assert_equal_to_a_local_import(store, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == (["snapshot.car.zst"] if keep else [])


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("change", "while_importing"),
    [
        ("etag", True),
        pytest.param("length", True, marks=pytest.mark.long),
        ("no ranges", False),
        pytest.param("etag", False, marks=pytest.mark.long),
    ],
)
async def test_a_file_that_cannot_be_gone_on_with_begins_anew(
    tmp_path: Path, change: str, while_importing: bool
) -> None:
    store = MemoryStore()
    async with serving(cuts=[700_000], ranges=change != "no ranges", rate=20 << 20) as server:
        if not while_importing:
            with pytest.raises(DownloadFailed):
                await fetch(store, server, tmp_path, DownloadOptions(attempts=1))
        if change == "length":
            # no validator tells
            server.etag, server.later = "", server.content + b"\x50\x2a\x4d\x18\4\0\0\0skip"
        elif change == "etag":
            server.later_etag = '"two"'
        if not while_importing:
            server.change()
        said = await fetch(store, server, tmp_path)
    assert "beginning anew" in said
    assert ("sends no part" if change == "no ranges" else "has changed") in said
    await assert_equal_to_a_local_import(store, tmp_path)


@pytest.mark.recorded
@pytest.mark.parametrize(
    "name", [pytest.param("snapshot.car.zst.sha256sum", marks=pytest.mark.long), "snapshot.sha256sum"]
)
async def test_a_wrong_hash_publishes_nothing_and_names_both(tmp_path: Path, name: str) -> None:
    wrong = hashlib.sha256(b"another file").hexdigest()
    store = MemoryStore()
    async with serving(checksum=f"{wrong} -\n", checksum_name=name) as server:
        right = hashlib.sha256(server.content).hexdigest()
        with pytest.raises(DownloadFailed, match=f"has the sha256 {right}, but http://.*{name} says {wrong}"):
            await fetch(store, server, tmp_path)
        assert await store.head() is None
        assert await store.row(META, b"", MARK) is not None
        assert b'"offset":0,"whole":false' in (await store.row(META, b"", PROGRESS) or b"")
        assert list(tmp_path.iterdir()) == []
        server.checksum = server.right_checksum()
        await fetch(store, server, tmp_path)
        await assert_equal_to_a_local_import(store, tmp_path)
        # the operator's word counts, too
        with pytest.raises(DownloadFailed, match="--sha256 says"):
            await fetch(MemoryStore(), server, tmp_path, DownloadOptions(sha256=wrong))


@pytest.mark.long
@pytest.mark.recorded
async def test_killed_and_run_again_it_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "follower.cli", "import"]
    more = ["--store", f"lmdb://{tmp_path}/store", "--network-file", str(recorded("devnet/network.json"))]
    async with serving(rate=2 << 20) as server:
        server.checksum = server.right_checksum()
        for sent in (300_000, 900_000, 0):
            server.rate = server.rate if sent else None
            before = server.sent
            child = await asyncio.create_subprocess_exec(
                *command, server.url, *more, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            async with asyncio.timeout(60):
                while sent and server.sent < before + sent:
                    assert child.returncode is None
                    await asyncio.sleep(0.01)
            if sent:
                child.kill()
            out, err = await child.communicate()
            assert child.returncode == (-9 if sent else 0), err
        assert server.sent < len(server.content) + 2 * (1 << 20)
    assert b"going on there" in err
    assert b"imported" in out
    store = await open_store(f"lmdb://{tmp_path}/store")
    await assert_equal_to_a_local_import(store, tmp_path)
    await store.close()
    assert list((tmp_path / "store" / "download").iterdir()) == []


@pytest.mark.recorded
async def test_a_wrong_length_is_no_end(tmp_path: Path) -> None:
    store = MemoryStore()
    async with serving() as server:
        server.declared_length = len(server.content) + 9
        with pytest.raises(DownloadFailed, match="bytes are kept"):
            await fetch(store, server, tmp_path, DownloadOptions(attempts=2, first_delay_seconds=0.01))
    assert await store.head() is None


async def test_what_is_no_snapshot_is_removed_and_404_ends_at_once(tmp_path: Path) -> None:
    store = MemoryStore()
    async with serving(b"<html>not here</html>", codes=[404]) as server:
        with pytest.raises(DownloadFailed, match=r"snapshot.car.zst: HTTP 404$"):
            await import_from_url(store, server.url, tmp_path / "a", options=QUICK)
        assert len(server.asked) == 1
        with pytest.raises(BadCar):
            await import_from_url(store, server.url, tmp_path / "a", options=QUICK)
    assert list((tmp_path / "a").iterdir()) == []
    with pytest.raises(DownloadFailed, match=r"Connect|refused"):
        await import_from_url(store, server.url, tmp_path, options=DownloadOptions(attempts=1))


async def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = zlib.compress(b"x") * 100_000
    async with serving(content, rate=20 << 20) as server:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
            with pytest.raises(DownloadFailed, match="make room and run the same command again"):
                await import_from_url(MemoryStore(), server.url, tmp_path, options=QUICK)
        server.cuts = [300_000]
        download = Download(server.url, tmp_path, DownloadOptions(attempts=1))
        await download.open()
        with pytest.raises(DownloadFailed):
            await download.complete()
        await download.close()
        have = download.path.stat().st_size
        assert have > 0
        real = Download._write

        def full(self: Download, data: bytes) -> None:
            self._file = _FullFile()
            real(self, data)

        with monkeypatch.context() as patch:
            patch.setattr(leader_bridge.imports.download.Download, "_write", full)
            download = Download(server.url, tmp_path, QUICK)
            with pytest.raises(DownloadFailed, match=rf"is full; make room .* at byte {have:,} "):
                await download.open()
                await download.complete()
            await download.close()
        download = Download(server.url, tmp_path, QUICK)
        await download.open()
        await download.verified()
        assert download.path.read_bytes() == content
        await download.close()


class _FullFile:
    """A file on a full disk."""

    def write(self, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        return


async def test_redirects_are_followed_to_https_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"0123456789" * 100_000
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [*OPENSSL.split(), "-keyout", key, "-out", cert, "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    # the client trusts the test's certificate as if the system did
    trusted = ssl.create_default_context(cafile=str(cert))
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusted)
    secure = FileServer(content, cuts=[400_000], rate=20 << 20)
    await secure.start(context)
    async with serving(content) as plain:
        latest = f"http://user:hunter2@127.0.0.1:{plain.port}/latest/?token=hunter2"
        target = f"127.0.0.1:{secure.port}/snapshot.car.zst?signature=hunter2"
        plain.redirect = f"http://{target}"
        said: list[str] = []
        download = Download(latest, tmp_path / "d", QUICK, said.append)
        with pytest.raises(DownloadFailed, match="redirects are followed to https only") as told:
            await download.open()
        await download.close()
        plain.redirect = f"https://{target}"
        for attempts in (1, 4):
            download = Download(latest, tmp_path / "d", DownloadOptions(attempts=attempts), said.append)
            await download.open()
            if attempts == 1:
                with pytest.raises(DownloadFailed):
                    await download.complete()
                # "latest" leads elsewhere by now: the rest of the same file is asked for all the same
                plain.redirect = f"https://127.0.0.1:{secure.port}/another"
            else:
                await download.verified()
                assert download.path.read_bytes() == content
                assert download.keep().name == "snapshot.car.zst"
            await download.close()
    await secure.stop()
    assert [code for _, code in secure.asked] == [200, 206]
    assert "hunter2" not in "".join([*said, str(told.value), shown_url(latest), download.shown])


async def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    async with serving(b"x" * 100_000) as server:
        first = Download(server.url, tmp_path, QUICK)
        await first.open()
        second = Download(server.url, tmp_path, QUICK)
        with pytest.raises(DownloadFailed, match="another process downloads"):
            await second.open()
        await second.close()
        await first.verified()
        await first.close()
