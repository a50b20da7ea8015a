"""Loads a recorded chain into memory.

A recording is a folder with `chain.car.zst` (everything under every block that was ever a head),
`chain_notify.jsonl.zst` (every frame of a `ChainNotify` subscription, with its time) and `network.json`.
Where no notifications were recorded, the chain is played from its genesis, one tipset a second.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import zstandard

from blockstore.car.reader import CarFile
from blockstore.cid import DAG_CBOR, Cid, parse
from chain.block import decode_header
from chain.errors import BadRequest
from chain.ipld.dag_cbor import links
from chain.network import NetworkRecord, read_network_file
from chain.tipset import Tipset, TipsetKey
from devnode.faults import Faults, FaultyStore
from devnode.played_node import RowWriter, keep_network


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
        """The recording in a folder. Errors: OSError, BadCar, BadRequest (what is missing in it)."""
        notify = folder / "chain_notify.jsonl.zst"
        return await cls.load_files(
            folder / "chain.car.zst", notify if notify.exists() else None, folder / "network.json", faults
        )

    @classmethod
    async def load_files(
        cls, car: Path, notify: Path | None, network_file: Path, faults: Faults | None = None
    ) -> RecordedChain:
        """The recording in these files; without `notify`, the chain tipset by tipset. Errors: as `load`."""
        store = FaultyStore(car.parent.name, faults or Faults())
        with CarFile(car) as reader:
            await store.put_many(((cid.multihash, data) for cid, data in reader), closed=False)
            roots = reader.roots
        loader = _Loader(store)
        first, changes = loader.notified(notify) if notify is not None else loader.one_by_one(TipsetKey.of(roots))
        line = loader.down(first)
        network = read_network_file(network_file, line[-1].blocks[0].cid)
        await keep_network(store, network)
        await loader.index(line, changes, network)
        return cls(store, network, first, changes)

    def arrivals(self) -> dict[bytes, int]:
        """By multihash, the number of head changes played when an object is first needed (0: from the start)."""
        found: dict[bytes, int] = {}
        for number, tipsets in enumerate([(self.first,), *(change.applies for change in self.changes)]):
            self._arrive(found, number, (block.cid for tipset in tipsets for block in tipset.blocks))
        return found

    def _arrive(self, found: dict[bytes, int], number: int, cids: Iterable[Cid]) -> None:
        waiting = list(cids)
        while waiting:
            cid = waiting.pop()
            multihash = cid.multihash
            if multihash in found:
                continue
            data = self.store.held(cid)
            if data is None:
                continue
            found[multihash] = number
            if cid.codec == DAG_CBOR:
                waiting += links(data)


class _Loader:
    """Tipsets of the recording by key."""

    def __init__(self, store: FaultyStore) -> None:
        self._store = store
        self._tipsets: dict[bytes, Tipset] = {}

    def tipset(self, value: dict[str, Any]) -> Tipset:
        return self.by_key(TipsetKey.of(parse(cid["/"]) for cid in value["Cids"]))

    def by_key(self, key: TipsetKey) -> Tipset:
        found = self._tipsets.get(key)
        if found is None:
            blocks = []
            for cid in key.cids:
                raw = self._store.held(cid)
                if raw is None:
                    raise BadRequest(f"the recording lacks block {cid}")
                blocks.append(decode_header(cid, raw))
            found = self._tipsets[key] = Tipset.of(blocks)
        return found

    def notified(self, notify: Path) -> tuple[Tipset, list[Change]]:
        """The first head and the changes after it, of a file of notifications. Errors: BadRequest, OSError."""
        first: Tipset | None = None
        changes: list[Change] = []
        for at, events in read_notifications(notify):
            tipsets = [(event["Type"], self.tipset(event["Val"])) for event in events]
            if first is None:
                if not tipsets or tipsets[0][0] != "current":
                    raise BadRequest(f"{notify}: the first notification is no 'current'")
                first = tipsets[0][1]
                continue
            reverts = tuple(tipset for kind, tipset in tipsets if kind == "revert")
            applies = tuple(tipset for kind, tipset in tipsets if kind == "apply")
            if not reverts and not applies:
                continue
            head = applies[-1] if applies else self.by_key(reverts[-1].parents)
            changes.append(Change(at, reverts, applies, head))
        if first is None:
            raise BadRequest(f"{notify}: no notification is recorded")
        return first, changes

    def one_by_one(self, head: TipsetKey) -> tuple[Tipset, list[Change]]:
        """The genesis, and one change a second for each tipset up to `head`. Errors: BadRequest."""
        *line, genesis = self.down(self.by_key(head))
        return genesis, [Change(float(at), (), (one,), one) for at, one in enumerate(reversed(line), 1)]

    def down(self, first: Tipset) -> list[Tipset]:
        """A tipset and all of its ancestors: the last one is the genesis. Errors: BadRequest."""
        found = [first]
        while found[-1].height > 0:
            found.append(self.by_key(found[-1].parents))
        return found

    async def index(self, line: list[Tipset], changes: list[Change], network: NetworkRecord) -> None:
        """Write rows of every tipset from genesis on, forks too."""
        writer = RowWriter(self._store, network)
        for tipset in reversed(line):
            await writer.write(tipset)
        for change in changes:
            for tipset in change.applies:
                await writer.write(tipset)


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON-lines file, plain or `.zst`. Errors: OSError, BadRequest (not JSON, not zstd)."""
    with path.open("rb") as file:
        stream: Any = zstandard.ZstdDecompressor().stream_reader(file) if path.suffix == ".zst" else file
        try:
            for line in io.TextIOWrapper(stream, encoding="utf-8"):
                yield orjson.loads(line)
        except (ValueError, zstandard.ZstdError) as error:
            raise BadRequest(f"{path}: {error}") from None


def read_notifications(path: Path) -> Iterator[tuple[float, list[dict[str, Any]]]]:
    """(time, events) of each notification of a recording. Errors: OSError, BadRequest."""
    for record in read_records(path):
        try:
            frame = record["frame"]
            if frame.get("method") == "xrpc.ch.val":
                yield record["t"], frame["params"][1]
        except (KeyError, TypeError, IndexError) as error:
            raise BadRequest(f"{path}: a record without {error}") from None
