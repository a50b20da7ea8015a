"""A store that `follower sync` fills, on the status page in a real Chromium: the stage, and that it has ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.web_request import BaseRequest

from blockstore.lmdb.store import LmdbStore
from tests.status_page.browser import chromium
from tests.status_page.test_browser import SHOWN, judge
from tests.support.bridge.imported import lmdb_of_devnet
from tests.support.processes import follower_process
from tests.support.proxies import free_port
from tests.sync.conftest import TOKEN, giving
from tests.sync.faults import spoil

BRIDGES = "document.querySelector('#fleet [aria-label=Bridges]')"


async def until_served(url: str) -> None:
    async with asyncio.timeout(90), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}status.json") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


@pytest.mark.recorded
async def test_the_stage_of_a_filling_is_shown_until_it_ends(tmp_path: Path) -> None:
    path = await asyncio.to_thread(lmdb_of_devnet, tmp_path / "store")
    (tmp_path / "token").write_text(TOKEN)
    go_on = asyncio.Event()

    async def wait(request: BaseRequest, right: web.Response) -> web.Response:
        await go_on.wait()
        return right

    source = await LmdbStore.open(path, readonly=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    served = ("serve", "--listen", f"127.0.0.1:{port}", "--store", f"lmdb://{path}", "--ready-head-age-epochs", "0")
    try:
        async with giving(source) as (server, pages):
            # the source does not tell its head until it is allowed to
            spoil(pages, wait, spares_offers=False)
            synced = (
                "sync", "--from", f"http://127.0.0.1:{server.port}", "--sync-token-file", str(tmp_path / "token"),
                "--store", f"lmdb://{path}", "--once",
            )  # fmt: skip
            with follower_process(*served), follower_process(*synced) as filling:
                await until_served(url)
                async with chromium() as browser:
                    await browser.open(url)
                    await browser.wait(SHOWN)
                    await browser.wait(f"{BRIDGES}?.innerText.includes('heads: 0 of 1 sources')", 60)
                    shown = await browser.evaluate(f"{BRIDGES}.querySelector('.state').innerText")
                    assert shown.lower() == "filling"
                    assert "warn" in await browser.evaluate(f"{BRIDGES}.querySelector('.state').className")
                    assert not await browser.evaluate(f"{BRIDGES}.querySelectorAll('tr.down').length")
                    assert not await browser.serious_faults()
                    go_on.set()
                    # its row goes with it
                    await browser.wait(f"!{BRIDGES}", 60)
                    await judge(browser, url)
                assert await asyncio.to_thread(filling.process.wait, 60) == 0, filling.output()
    finally:
        await source.close()
