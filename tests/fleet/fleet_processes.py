"""Followers as whole processes over one small store, to be killed; and clients that count what goes wrong."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import orjson

from blockstore.open import open_store
from blockstore.store import Batch, HeadEntry, Store, TipsetRef
from chain.network import save_network
from tests.support.made_chain import MadeChain
from tests.support.paths import ROOT
from tests.support.proxies import free_port

HEAD = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "Filecoin.ChainHead", "params": []})


async def fill(store: Store) -> None:
    """A chain of one tipset, published."""
    chain = MadeChain()
    chain.store = store  # type: ignore[assignment]
    tipset = await chain.add(None, 0)
    batch = Batch()
    save_network(batch, chain.services().network)
    await store.write(batch)
    ref = TipsetRef(tipset.height, tipset.key)
    await store.append_head(HeadEntry(1, await store.new_term("test"), (), (ref,), ref))


async def small_store(folder: Path) -> Store:
    """An LMDB store that followers can serve."""
    store = await open_store(f"lmdb://{folder}", map_size=1 << 26)
    await fill(store)
    return store


class Follower:
    """`follower serve` over the store in `folder`."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.port = free_port()
        self.agent_port = free_port()
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("FOLLOWER_", "FULLNODE_"))}
        self._log = (folder.parent / f"follower-{self.port}.log").open("wb+")
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "follower.cli", "serve", "--store", f"lmdb://{folder}", "--fleet", "on",
                "--listen", self.address, "--agent-listen", f"127.0.0.1:{self.agent_port}",
                "--renew-seconds", "0.2", "--ready-head-age-epochs", "0", *more,
            ],
            cwd=ROOT, env=environment, stdout=self._log, stderr=self._log,
        )  # fmt: skip

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def serving(self) -> None:
        """Wait until it answers."""
        async with asyncio.timeout(120):
            while True:
                assert self.process.poll() is None, self.log()
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def kill(self) -> None:
        """As with -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, without waiting."""
        self.process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Its exit code."""
        return await asyncio.to_thread(self.process.wait, 120)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        self._log.close()


class Load:
    """Clients that ask for the head over and over, each as soon as it has been answered."""

    def __init__(self, url: str, *, clients: int = 8, keep_alive: bool = True) -> None:
        self._url = url
        self._clients = clients
        self._keep_alive = keep_alive
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.answered = 0
        self.failed: collections.Counter[str] = collections.Counter()

    async def __aenter__(self) -> Load:
        connector = aiohttp.TCPConnector(limit=0, force_close=not self._keep_alive)
        self._session = aiohttp.ClientSession(connector=connector)
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)
        await self._session.close()

    async def _ask(self) -> None:
        while not self._stopping:
            try:
                async with self._session.post(self._url, data=HEAD) as response:
                    body = await response.read()
                    good = response.status == 200 and b'"result"' in body
                    self.failed[f"{response.status} {body[:200]!r}"] += not good
            except (aiohttp.ClientError, OSError) as error:
                self.failed[repr(error)] += 1
            self.answered += 1
            # the machine is others' too
            await asyncio.sleep(0.001)

    async def goes_on(self, requests: int = 200) -> None:
        """Wait until so many more have been answered."""
        target = self.answered + requests
        async with asyncio.timeout(120):
            while self.answered < target:
                await asyncio.sleep(0.01)

    @property
    def faults(self) -> dict[str, int]:
        return {text: count for text, count in self.failed.items() if count}
