"""A recorded chain, served as a full node would: its head changes in their recorded order, reverts and all.

A recording is a folder with `chain.car.zst` (everything under every block that was ever a head),
`chain_notify.jsonl.zst` (every frame of a `ChainNotify` subscription, with its time) and `network.json`.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import zstandard

from blockstore.car import iter_car
from blockstore.cid import parse
from chain.block import decode_header
from chain.errors import BadRequest
from chain.network import NetworkRecord, read_network_file
from chain.tipset import Tipset, TipsetKey
from follower.faults import Faults, FaultyStore
from follower.node_heads import NodeHeads
from follower.played_node import PlayedNode, RowWriter, keep_network


@dataclass(frozen=True, slots=True)
class Change:
    """One recorded frame: tipsets reverted (newest first) and applied (oldest first), and when (seconds)."""

    at: float
    reverts: tuple[Tipset, ...]
    applies: tuple[Tipset, ...]
    head: Tipset


@dataclass(slots=True)
class RecordedChain:
    """A recording in memory. `first` is the head before the first change."""

    store: FaultyStore
    network: NetworkRecord
    first: Tipset
    changes: list[Change]

    @classmethod
    async def load(cls, folder: Path, faults: Faults | None = None) -> RecordedChain:
        """Errors: OSError, BadCar, BadRequest (what is missing in the recording)."""
        store = FaultyStore(folder.name, faults or Faults())
        objects = ((cid.multihash, data) for cid, data in iter_car(folder / "chain.car.zst"))
        await store.put_many(objects, closed=False)
        loader = _Loader(store)
        first: Tipset | None = None
        changes: list[Change] = []
        for at, events in _frames(folder / "chain_notify.jsonl.zst"):
            tipsets = [(event["Type"], await loader.tipset(event["Val"])) for event in events]
            if first is None:
                if tipsets[0][0] != "current":
                    raise BadRequest(f"{folder}: the first notification is no 'current'")
                first = tipsets[0][1]
                continue
            reverts = tuple(tipset for kind, tipset in tipsets if kind == "revert")
            applies = tuple(tipset for kind, tipset in tipsets if kind == "apply")
            head = applies[-1] if applies else await loader.by_key(reverts[-1].parents)
            changes.append(Change(at, reverts, applies, head))
        if first is None:
            raise BadRequest(f"{folder}: no notification is recorded")
        await loader.index(first, changes)
        genesis = loader.lowest
        network = read_network_file(folder / "network.json", genesis.blocks[0].cid)
        await keep_network(store, network)
        return cls(store, network, first, changes)


class _Loader:
    """Tipsets of the recording by key."""

    def __init__(self, store: FaultyStore) -> None:
        self._store = store
        self._tipsets: dict[bytes, Tipset] = {}
        self.lowest: Tipset

    async def tipset(self, value: dict[str, Any]) -> Tipset:
        return await self.by_key(TipsetKey.of(parse(cid["/"]) for cid in value["Cids"]))

    async def by_key(self, key: TipsetKey) -> Tipset:
        found = self._tipsets.get(key)
        if found is None:
            raws = await self._store.get_many([cid.multihash for cid in key.cids])
            blocks = []
            for cid, raw in zip(key.cids, raws, strict=True):
                if raw is None:
                    raise BadRequest(f"the recording lacks block {cid}")
                blocks.append(decode_header(cid, raw))
            found = self._tipsets[key] = Tipset.of(blocks)
        return found

    async def index(self, first: Tipset, changes: list[Change]) -> None:
        """Rows of every tipset from genesis on, forks too."""
        writer = RowWriter(self._store)
        down = [first]
        while down[-1].height > 0:
            down.append(await self.by_key(down[-1].parents))
        self.lowest = down[-1]
        for tipset in reversed(down):
            await writer.write(tipset)
        for change in changes:
            for tipset in change.applies:
                await writer.write(tipset)


def _frames(path: Path) -> Iterator[tuple[float, list[dict[str, Any]]]]:
    """(time, events) of each notification of a recording, plain or in zstd."""
    with path.open("rb") as file:
        stream: Any = zstandard.ZstdDecompressor().stream_reader(file) if path.suffix == ".zst" else file
        for line in io.TextIOWrapper(stream, encoding="utf-8"):
            record = orjson.loads(line)
            frame = record["frame"]
            if frame.get("method") == "xrpc.ch.val":
                yield record["t"], frame["params"][1]


class ReplayNode(PlayedNode):
    """A node that plays a recording. Nothing moves but by `advance` or `play`."""

    def __init__(self, chain: RecordedChain) -> None:
        super().__init__(chain.store, chain.network, NodeHeads(chain.first), agent="replay")
        self.chain = chain
        self.played = 0

    @property
    def ended(self) -> bool:
        """Whether every recorded change was played."""
        return self.played == len(self.chain.changes)

    def advance(self, changes: int = 1) -> None:
        """Play the next changes at once."""
        for change in self.chain.changes[self.played : self.played + changes]:
            self.played += 1
            self.heads.move(change.reverts, change.applies, change.head)
            self.after_move()

    async def play(self, *, speed: float = 1.0, interval: float | None = None) -> AsyncIterator[int]:
        """Play to the end: every `interval` seconds, else at `speed` times the recorded pace.

        Yields the number of changes played after each one.
        """
        before = self.chain.changes[self.played].at if not self.ended else 0.0
        while not self.ended:
            change = self.chain.changes[self.played]
            wait = interval if interval is not None else (change.at - before) / speed
            before = change.at
            await asyncio.sleep(wait)
            self.advance()
            yield self.played


async def start_replay(
    folder: Path, *, host: str = "127.0.0.1", port: int = 0, faults: Faults | None = None, at_end: bool = False
) -> ReplayNode:
    """Load a recording and serve it; the head stands at the recording's first (or, `at_end`, its last).

    Errors: OSError, BadCar, BadRequest.
    """
    node = ReplayNode(await RecordedChain.load(folder, faults))
    if at_end:
        node.advance(len(node.chain.changes))
    await node.start(host, port)
    return node
