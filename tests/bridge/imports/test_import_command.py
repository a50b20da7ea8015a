"""`follower import NAME`: the setting names the address, and no secret of it is shown."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from follower.setting_parsers import DEFAULT_SNAPSHOT_URLS, parse_snapshot_urls, public_snapshot_urls, snapshot_urls
from tests.bridge.imports.file_server import FileServer
from tests.support.processes import run_follower
from tests.support.recorded import recorded


@pytest.mark.recorded
async def test_a_network_by_its_name(tmp_path: Path) -> None:
    server = FileServer(recorded("genesis/calibnet.car.zst").read_bytes())
    server.checksum = server.right_checksum()
    await server.start()
    url = server.url.replace("//", "//user:hunter2@") + "?token=hunter2"
    store = f"lmdb://{tmp_path}/store"
    arguments = ("import", "calibnet", "--snapshot-urls", f"calibnet={url}", "--store", store, "--keep-file")
    try:
        done = await asyncio.to_thread(run_follower, *arguments)
        again = await asyncio.to_thread(run_follower, *arguments, "--sha256", "0" * 64)
    finally:
        await server.stop()
    assert done.returncode == 0, done.stderr
    assert "network calibrationnet" in done.stdout
    assert (tmp_path / "store" / "download" / "snapshot.car.zst").exists()
    assert again.returncode == 1
    assert "--sha256 says 000" in again.stderr
    assert "hunter2" not in done.stdout + done.stderr + again.stdout + again.stderr


def test_flags_of_downloads_are_refused_for_files() -> None:
    done = run_follower("import", "some.car", "--store", "memory://x", "--keep-file")
    assert (done.returncode, done.stderr) == (2, "follower: --sha256 and --keep-file are for downloads\n")
    done = run_follower("import", "calibnet", "--store", "memory://x", "--sha256", "abc")
    assert "64 hexadecimal digits" in done.stderr


def test_the_setting() -> None:
    assert set(snapshot_urls(DEFAULT_SNAPSHOT_URLS)) == {"mainnet", "calibnet"}
    assert all(url.startswith("https://") for url in snapshot_urls(DEFAULT_SNAPSHOT_URLS).values())
    assert parse_snapshot_urls(["a=https://x/", "b=http://y/"]) == "a=https://x/,b=http://y/"
    assert public_snapshot_urls("a=https://u:p@x/f?k=p, b=http://y/") == "a=https://x/f,b=http://y/"
    for wrong in ("https://x/", "a=ftp://x/", "a b=https://x/", 7):
        with pytest.raises(ValueError, match="must be"):
            parse_snapshot_urls(wrong)
