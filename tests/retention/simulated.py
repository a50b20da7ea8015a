"""A simulated chain that is fed to a leader in a process of its own, which is killed now and then."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import random
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blockstore.cid import Cid
from blockstore.errors import Missing
from blockstore.lmdb.store import LmdbStore
from blockstore.open import SharedStoreOptions, open_store
from blockstore.scan import object_pages, row_pages
from blockstore.store import HEAD_LOG, TABLES, TIPSETS, Store
from chain.block import decode_header
from chain.index.chain_index import HELD_MESSAGES, HELD_STATE, decode_row
from chain.index.kept import load_kept
from chain.tipset import TipsetKey
from devnode.sim_chain import SimSettings, SimulatedChain
from leader_bridge.store.mirror import walked_links
from tests.retention.leader import Given
from tests.support.paths import ROOT

#: head changes that are kept to be given again to a leader that was killed
_AGAIN = 64
#: objects of a scanned store that are also asked for one by one, as a follower does it
_ASKED = 5000

Read = Callable[[Sequence[bytes]], Awaitable[Sequence[bytes | None]]]


@dataclass(slots=True)
class Live:
    """What is under the roots that a store must hold: objects, and their bytes. `rows`: bytes of headers and rows."""

    roots: int = 0
    objects: int = 0
    bytes: int = 0
    rows: int = 0


@dataclass
class SimulatedLeader:
    """A chain of `actors` with about `objects` new objects an epoch, and the leader of the store at `url`."""

    url: str
    policy: int
    settings: SimSettings
    grace_seconds: float = 0.02
    seq: int = 0
    height: int = -1
    step: str = ""
    kills: int = 0
    #: how often each step was killed in
    killed_in: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._made: dict[bytes, bytes] = {}
        self.chain = SimulatedChain(self.settings, self._put)
        genesis = dict(self._made)
        self._given: deque[Given] = deque(maxlen=_AGAIN)
        self._next = 1
        self._first = genesis
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()

    def _put(self, cid: Cid, data: bytes) -> None:
        self._made[cid.multihash] = data

    async def start(self) -> None:
        """Start the leader, and give it again what it has not published."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.retention.leader", self.url, str(self.policy), str(self.grace_seconds),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT, limit=1 << 20,
        )  # fmt: skip
        self._moved.clear()
        self._reading = asyncio.create_task(self._read(self._process))
        await self._wait()
        for given in self._given:
            if given.seq > self.seq:
                self._give(given)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            word, *rest = line.decode().split()
            if word == "head":
                self.seq, self.height = int(rest[0]), int(rest[1])
            elif word == "step":
                self.step = rest[0]
            self._moved.set()
        self._moved.set()

    async def _wait(self) -> None:
        async with asyncio.timeout(120):
            await self._moved.wait()
        self._moved.clear()
        assert self._process is not None
        if self._reading is not None and self._reading.done() and self._process.returncode not in (None, -9):
            raise AssertionError(f"the leader has ended: {self._process.returncode}")

    def _give(self, given: Given) -> None:
        assert self._process is not None and self._process.stdin is not None
        data = pickle.dumps(given)
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(len(data).to_bytes(8, "big") + data)

    async def advance(self) -> None:
        """One head change more; at most a few are under way."""
        self._made.clear()
        change = await asyncio.to_thread(self.chain.advance)
        objects = dict(self._made) if self._next > 1 else {**self._first, **self._made}
        given = Given(
            self._next,
            [(one.height, one.key) for one in change.reverts],
            [one.key for one in change.applies],
            objects,
            self.chain.network if self._next == 1 else None,
        )
        self._next += 1
        self._given.append(given)
        self._give(given)
        while self.seq < given.seq - 4:
            await self._wait()

    async def settle(self, step: str = "") -> None:
        """Wait until all that was given is published, and the pass is at `step`, where one is named."""
        while self.seq < self._next - 1 or (step and self.step != step):
            await self._wait()

    async def kill(self) -> None:
        """kill -9, and no more."""
        assert self._process is not None and self._reading is not None
        self.killed_in[self.step] = self.killed_in.get(self.step, 0) + 1
        self.kills += 1
        self._process.kill()
        await self._process.wait()
        await self._reading

    async def stop(self) -> None:
        """Let the leader end in order."""
        assert self._process is not None and self._process.stdin is not None and self._reading is not None
        self._process.stdin.close()
        async with asyncio.timeout(60):
            await self._process.wait()
        await self._reading
        assert self._process.returncode == 0

    async def opened(self) -> Store:
        """The store, for reading."""
        return await open_store(self.url, readonly=True, shared=SharedStoreOptions(delta_ms=200, epsilon_ms=20))


async def walk_kept(store: Store, policy: int) -> Live:
    """Walk every root that the store must hold by its policy, and then all that it says it holds. What is under the
    roots of the policy is returned. Errors: Missing."""
    head = await store.head()
    assert head is not None
    kept = await load_kept(store)
    lowest = head.head.height - policy
    assert kept.state <= max(0, lowest) and kept.messages <= max(0, lowest), f"{kept} at head {head.head.height}"
    live, older = Live(), Live()
    seen: set[bytes] = set()
    read = await _reader(store)
    key: TipsetKey = TipsetKey(head.head.key)
    while True:
        value = await store.row(TIPSETS, key.cid, b"")
        assert value is not None, f"{key} has no row"
        row = decode_row(value)
        raws = await store.get_many([cid.multihash for cid in key.cids])
        assert None not in raws, f"a header of epoch {row.height} is gone"
        if row.height >= kept.state:
            assert row.held & HELD_STATE or row.height == 0, f"epoch {row.height} lacks its state"
        if row.height >= kept.messages:
            assert row.held & HELD_MESSAGES, f"epoch {row.height} lacks its messages"
        live.rows += sum(len(raw) for raw in raws if raw is not None)
        headers = [decode_header(cid, raw) for cid, raw in zip(key.cids, raws, strict=True) if raw is not None]
        # what a row says is held is held, whatever its epoch
        roots = [headers[0].parent_state_root] if row.held & HELD_STATE else []
        if row.held & HELD_MESSAGES:
            roots += [header.messages for header in headers]
        count = live if row.height >= lowest else older
        for root in roots:
            count.roots += 1
            await _walk(read, root, seen, count)
        if row.height == 0:
            break
        key = row.parent
    asked = random.Random(live.objects).sample(sorted(seen), min(_ASKED, len(seen)))
    assert None not in await store.get_many(asked), "an object is there, but not where a follower looks"
    for table in TABLES.values():
        if table.name != HEAD_LOG.name:
            async for page in row_pages(store, table):
                live.rows += sum(len(partition) + len(key) + len(value) for partition, key, value in page.rows)
    return live


async def _reader(store: Store) -> Read:
    """How a walk reads the store's objects: one by one in LMDB, by one scan of a store behind a network."""
    if isinstance(store, LmdbStore):
        return store.get_many
    there = {one.multihash: one.data async for page in object_pages(store) for one in page.objects}

    async def read(multihashes: Sequence[bytes]) -> list[bytes | None]:
        return [there.get(one) for one in multihashes]

    return read


async def _walk(read: Read, root: Cid, seen: set[bytes], live: Live) -> None:
    waiting = [] if root.multihash in seen else [root]
    seen.add(root.multihash)
    while waiting:
        part, waiting = waiting[-1024:], waiting[:-1024]
        for cid, data in zip(part, await read([cid.multihash for cid in part]), strict=True):
            if data is None:
                raise Missing(cid)
            live.objects += 1
            live.bytes += len(data)
            for link in walked_links(cid, data):
                if link.multihash not in seen:
                    seen.add(link.multihash)
                    waiting.append(link)


def disk_use(folder: Path) -> int:
    """Bytes that the files of a folder take."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


async def kill_at_random(leader: SimulatedLeader, rng: random.Random) -> None:
    """Give some epochs more, and kill the leader in a pass, at whatever moment."""
    while leader.step == "idle":
        await leader.advance()
    for _ in range(rng.randrange(3)):
        await leader.advance()
    await asyncio.sleep(rng.random() ** 2 * 0.2)
    await leader.kill()
