"""The status page in a real Chromium: live heads, reorgs, a killed follower, no fault that axe-core calls serious.

With STATUS_SCREENSHOTS=FOLDER, the screenshots of docs/status-page.md are written there.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from blockstore.lmdb.store import LmdbStore
from blockstore.pool_rows import WorkerRow, put_worker
from blockstore.store import Batch
from blockstore.store_clock import wall_ms
from tests.fleet.fleet import Fleet
from tests.status_page.browser import NARROW, WIDE, Browser, chromium
from tests.support.cassandra.stores import emptied, keyspace_url
from tests.support.processes import follower_process
from tests.support.proxies import free_port, required
from tests.support.recorded import recorded

#: the epoch of the head, as the page shows it
HEAD = "Number(document.querySelectorAll('#summary .figure b')[1].textContent.replace(/\\D/g, ''))"
SHOWN = "!document.querySelector('#parts').hidden"
#: what must not be shown
SECRET = "s3cret-of-the-node"


async def photograph(browser: Browser, url: str, name: str) -> None:
    """Open the page in every size and colour: no serious fault, nothing cut off; and take its pictures."""
    folder = os.environ.get("STATUS_SCREENSHOTS")
    for size, words in ((WIDE, "wide"), (NARROW, "narrow")):
        for dark in (False, True):
            await browser.open(url, size, dark=dark)
            await browser.wait(SHOWN)
            # some heads more, so that the rates are those of a while
            await browser.wait(f"{HEAD} >= {await browser.evaluate(HEAD)} + 3")
            assert not await browser.serious_faults()
            across = await browser.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert across[0] <= across[1], f"{words}: the page is wider than the window"
            if folder:
                await browser.screenshot(Path(folder) / f"{name}-{words}-{'dark' if dark else 'light'}.png")


@contextlib.asynccontextmanager
async def some_requests(*ports: int) -> AsyncIterator[None]:
    """Clients ask a few things meanwhile, so that there is something to show."""
    methods = ("Filecoin.ChainHead", "eth_blockNumber", "Filecoin.StateNetworkName", "eth_gasPrice", "eth_chainId")

    async def ask() -> None:
        async with aiohttp.ClientSession() as session:
            for number in itertools.count():
                port, name = ports[number % len(ports)], methods[number * number % len(methods)]
                body = {"jsonrpc": "2.0", "id": 1, "method": name, "params": []}
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.post(f"http://127.0.0.1:{port}/rpc/v1", json=body) as answer:
                        await answer.read()
                await asyncio.sleep(0.03)

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def judge(browser: Browser, url: str) -> None:
    """Nothing was said in the console, and nobody else was asked for anything."""
    seen = await browser.seen()
    assert not seen["errors"]
    assert seen["origins"] == [url.rstrip("/")]


async def announce_worker(path: Path) -> None:
    """Write the row of a worker of the pool."""
    store = await LmdbStore.open(path)
    batch = Batch()
    put_worker(batch, WorkerRow("machine:1", {"watch": 5, "fill": 3}, 7, 2, 1, {}, {"watch": 3}, 1, wall_ms()))
    await store.write(batch)
    await store.close()


@pytest.mark.recorded
async def test_heads_advance_and_a_reorg_is_drawn(tmp_path: Path) -> None:
    recording = recorded("devnet/chain.car.zst").parent
    node, port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}/"
    replayed = ("replay", str(recording), "--listen", f"127.0.0.1:{node}", "--interval", "0.25")
    followed = (
        "up", "--listen", f"127.0.0.1:{port}", "--store", f"lmdb://{tmp_path / 'store'}", "--node", f"http://me:{SECRET}@127.0.0.1:{node}/?token={SECRET}",
        "--network-file", str(recording / "network.json"), "--ready-head-age-epochs", "0", "--backfill-epochs", "20",
    )  # fmt: skip
    with follower_process(*replayed), follower_process(*followed):
        async with asyncio.timeout(90), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"{url}status.json") as answer:
                        text = await answer.text()
                        if answer.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)
        assert f"127.0.0.1:{node}" in text
        assert SECRET not in text
        async with some_requests(port), chromium() as browser:
            await browser.open(url)
            await browser.wait(SHOWN)
            first = await browser.evaluate(HEAD)
            await browser.evaluate("window.loadedOnce = true")
            await browser.wait(f"{HEAD} >= {first} + 5", 60)
            await browser.wait("document.querySelectorAll('#timeline circle.left').length > 0", 60)
            await browser.wait("document.querySelector('#timeline').textContent.includes('reverted')")
            assert await browser.evaluate("document.querySelector('#pool-part').hidden"), "a pool without workers"
            await announce_worker(tmp_path / "store")
            await browser.wait("document.querySelector('#pool').textContent.includes('queue: watch 3')")
            assert await browser.evaluate("window.loadedOnce"), "the page was loaded again"
            await photograph(browser, url, "status")
            await judge(browser, url)


@pytest.mark.recorded
async def test_a_killed_follower_turns_red_within_5_seconds(tmp_path: Path) -> None:
    required("haproxy")
    url = keyspace_url("follower_status")
    await (await emptied(url, delta_ms=500, epsilon_ms=50, every=True)).close()
    async with Fleet(tmp_path, url, interval=0.5) as fleet, some_requests(*fleet.ports), chromium() as browser:
        page = f"http://127.0.0.1:{fleet.ports[0]}/"
        await browser.open(page)
        await browser.wait("document.querySelectorAll('#fleet .good').length >= 5")
        text = await browser.evaluate("document.querySelector('#fleet').innerText")
        assert all(f"127.0.0.1:{port}" in text for port in fleet.ports)
        assert "leads" in text
        assert "stands by" in text
        await photograph(browser, page, "fleet")
        await browser.open(page)
        await browser.wait(SHOWN)
        loop = asyncio.get_running_loop()
        fleet.followers[2].kill()
        began = loop.time()
        red = "[...document.querySelectorAll('#fleet tr.down')].map((row) => row.innerText).join()"
        await browser.wait(f"{red}.includes('{fleet.ports[2]}')", 5)
        print(f"a killed follower is red after {loop.time() - began:.1f} s")
        folder = os.environ.get("STATUS_SCREENSHOTS")
        if folder:
            await browser.screenshot(Path(folder) / "fleet-killed.png")
        await judge(browser, page)
