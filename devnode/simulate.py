"""A full node of a chain that is made up as it is served: for `make run`, tests and benchmarks.

The chain is `devnode.sim_chain`'s; it is served by the same server and methods as everything here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Final

from blockstore.cid import Cid
from chain.errors import BadRequest
from chain.ipld.tree_nodes import Put
from chain.tipset import Tipset
from devnode.disk_objects import DiskStore
from devnode.faults import Faults, FaultyStore
from devnode.node_heads import NodeHeads
from devnode.played_node import PlayedNode, keep_network, write_rows
from devnode.sim_chain import Change, SimSettings, SimulatedChain

log = logging.getLogger("devnode.simulate")

#: bytes of objects after which a chain that nobody stops stands still: it is held in memory
STORE_LIMIT: Final = 4 << 30


class SimulatedNode(PlayedNode):
    """Serves a simulated chain. Nothing moves but by `advance`, `extend`, `reorg`, `late_block` or `run`."""

    def __init__(
        self,
        settings: SimSettings,
        *,
        faults: Faults | None = None,
        store_limit: int = STORE_LIMIT,
        folder: Path | None = None,
    ) -> None:
        """`folder`: where the objects are kept; None: in memory."""
        self._made: list[tuple[Cid, bytes]] = []
        name = f"simulated-{settings.seed}"
        store: FaultyStore
        if folder is None:
            store = FaultyStore(name, faults or Faults())
            put: Put = self._put
        else:
            store = on_disk = DiskStore(name, faults or Faults(), folder)
            # at once: the objects of a large genesis would not fit into memory
            put = on_disk.put
        self.chain = SimulatedChain(settings, put)
        super().__init__(store, self.chain.network, NodeHeads(self.chain.genesis), agent="simulated")
        self._store_limit = store_limit
        self._moving = asyncio.Lock()

    def _put(self, cid: Cid, data: bytes) -> None:
        self._made.append((cid, data))

    @property
    def full(self) -> bool:
        """Whether the chain has reached the size at which it stands still."""
        return self.store.size >= self._store_limit

    async def prepare(self) -> None:
        """Store the genesis: before `start`."""
        await keep_network(self.store, self.network)
        await self._keep((self.chain.genesis,))

    async def advance(self, changes: int = 1) -> Change:
        """Make and publish the next head changes, by the rates that are set; the last one is returned."""
        if changes < 1:
            raise BadRequest(f"{changes} head changes: at least 1")
        for _ in range(changes):
            async with self._moving:
                # large epochs take most of a second: the loop goes on answering
                change = await asyncio.to_thread(self.chain.advance)
                await self._publish(change)
        return change

    async def extend(self, *, nulls: int = 0, blocks: int | None = None) -> Change:
        """Publish one tipset more, after `nulls` null rounds."""
        async with self._moving:
            return await self._publish(await asyncio.to_thread(self.chain.extend, nulls=nulls, blocks=blocks))

    async def reorg(self, depth: int) -> Change:
        """Publish a reorg of the newest `depth` tipsets. Errors: BadRequest."""
        async with self._moving:
            return await self._publish(await asyncio.to_thread(self.chain.reorg, depth))

    async def late_block(self) -> Change:
        """Publish the head once more with another block. Errors: BadRequest (at genesis)."""
        async with self._moving:
            return await self._publish(await asyncio.to_thread(self.chain.late_block))

    async def run(self, block_time: float, *, epochs: int | None = None) -> None:
        """Advance every `block_time` seconds, `epochs` times (None: until stopped, or until it is `full`)."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        made = 0
        while epochs is None or made < epochs:
            due = max(due + block_time, loop.time())
            await asyncio.sleep(due - loop.time())
            if self.full:
                log.warning("the simulated chain has reached %d MB and stands still", self._store_limit >> 20)
                return
            await self.advance()
            await self.restart_if_due()
            made += 1

    async def _publish(self, change: Change) -> Change:
        await self._keep(change.applies)
        self.heads.move(change.reverts, change.applies, change.applies[-1])
        self.after_move()
        return change

    async def _keep(self, tipsets: tuple[Tipset, ...]) -> None:
        """Store what was made, then the index rows of new tipsets, parents first."""
        made = [(cid.multihash, data) for cid, data in self._made]
        self._made.clear()
        await self.store.put_many(made, closed=True)
        for tipset in tipsets:
            parent = await self.index.row(tipset.parents) if tipset.height else None
            await write_rows(self.store, self.network, tipset, parent)


async def start_simulated(
    settings: SimSettings | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    faults: Faults | None = None,
    epochs: int = 0,
    store_limit: int = STORE_LIMIT,
    folder: Path | None = None,
) -> SimulatedNode:
    """Make a chain, advance it by `epochs` head changes, and serve it. Errors: OSError, BadRequest."""
    node = await asyncio.to_thread(
        SimulatedNode, settings or SimSettings(), faults=faults, store_limit=store_limit, folder=folder
    )
    await node.prepare()
    if epochs:
        await node.advance(epochs)
    await node.start(host, port)
    return node


async def run_simulate(
    stop: asyncio.Event,
    *,
    settings: SimSettings,
    host: str,
    port: int,
    block_time: float,
    epochs: int | None = None,
    first_epochs: int = 0,
    faults: Faults | None = None,
    store_limit: int = STORE_LIMIT,
    folder: Path | None = None,
) -> int:
    """`follower simulate`: serve and advance until `stop` is set. Errors: OSError, BadRequest."""
    node = await start_simulated(
        settings, host=host, port=port, faults=faults, epochs=first_epochs, store_limit=store_limit, folder=folder
    )
    print(f"simulating {node.network.name} at {node.url}: a head change every {block_time:g} s", flush=True)
    running = asyncio.create_task(node.run(block_time, epochs=epochs))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
            await stopped
    finally:
        for task in (running, stopped):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await node.stop()
        await node.store.close()
    return 0
