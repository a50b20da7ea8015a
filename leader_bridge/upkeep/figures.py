"""`follower store stats`: how much a store holds, of what kind, and how old it is.

Totals are the store's own figures. Kinds are told by walking what the rows of some tipsets name: their headers, the
trees of their messages, the receipts and events of their parents, and those objects of their state that are not in
their parent's. Each age has as many samples, spread evenly; what they hold is multiplied by the number of tipsets of
that age. A sample reads some thousand objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from blockstore.cid import Cid
from blockstore.errors import Missing
from blockstore.scan import object_pages, parts, table_sizes
from blockstore.store import HEIGHTS, TIPSETS, Store
from chain.errors import BadObject
from chain.index.chain_index import (
    HEIGHT_BUCKET,
    HELD_EVENTS,
    HELD_MESSAGES,
    HELD_RECEIPTS,
    HELD_STATE,
    ChainIndex,
    TipsetRow,
    decode_row,
)
from chain.ipld.objects import Objects
from chain.tipset import TipsetKey
from leader_bridge.imports.progress import Reporter
from leader_bridge.store.mirror import is_walked, walked_links
from leader_bridge.upkeep.pace import Pace

#: the ages that are told apart: a name, and the epochs below the head at which it ends
AGES: Final = (
    ("the last hour", 120),
    ("the last day", 2880),
    ("the last week", 7 * 2880),
    ("the last month", 30 * 2880),
    ("older", None),
)
#: objects of a tree that are read at once, and in all
_BATCH: Final = 512
_MOST: Final = 200_000


@dataclass(slots=True)
class Amount:
    """A number of objects and their bytes, without what a store adds to them."""

    objects: float = 0
    bytes: float = 0

    def add(self, other: Amount, times: float = 1) -> None:
        """Add another amount, so many times."""
        self.objects += other.objects * times
        self.bytes += other.bytes * times

    def to_json(self) -> dict[str, int]:
        """Whole numbers."""
        return {"objects": round(self.objects), "bytes": round(self.bytes)}


KINDS: Final = ("headers", "messages", "receipts and events", "new state")


@dataclass(slots=True)
class Age:
    """What is held of some epochs, both ends included. `held`: in how many of the samples each kind is held."""

    name: str
    low: int
    high: int
    tipsets: int = 0
    sampled: int = 0
    kinds: dict[str, Amount] = field(default_factory=lambda: {kind: Amount() for kind in KINDS})
    held: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it; amounts are those of all tipsets of this age."""
        times = self.tipsets / self.sampled if self.sampled else 0.0
        kinds = {}
        for kind, amount in self.kinds.items():
            whole = Amount()
            whole.add(amount, times)
            kinds[kind] = {**whole.to_json(), "held_percent": round(100 * self.held[kind] / max(1, self.sampled))}
        return {
            "age": self.name,
            "epochs": [self.low, self.high],
            "tipsets": self.tipsets,
            "sampled": self.sampled,
            "kinds": kinds,
        }


async def store_figures(store: Store, *, samples: int, exact: bool, pace: Pace, progress: Reporter) -> dict[str, Any]:
    """The report. `samples` tipsets of each age are walked; `exact`: every object is read and counted.

    Errors: StoreError.
    """
    entry = await store.head()
    report: dict[str, Any] = {
        "store": store.url,
        "head": None if entry is None else {"height": entry.head.height, "seq": entry.seq, "term": entry.term},
        "figures": await store.stats(),
        "parts": [{"name": part.name, "objects": part.objects, "bytes": part.bytes} for part in parts(store)],
        "tables": {name: {"rows": rows, "bytes": size} for name, (rows, size) in table_sizes(store).items()},
        "ages": [],
    }
    if entry is not None and samples:
        ages = _Ages(store, samples, pace, progress)
        report["ages"] = [age.to_json() for age in await ages.all(entry.head.height)]
    if exact:
        report["counted"] = await _count(store, pace, progress)
    return report


async def _count(store: Store, pace: Pace, progress: Reporter) -> dict[str, dict[str, int]]:
    """All objects, closed and loose."""
    closed, loose = Amount(), Amount()
    progress.phase("objects", None, "objects")
    async for page in object_pages(store):
        for one in page.objects:
            (closed if one.closed else loose).add(Amount(1, len(one.data or b"")))
        progress.at(round(closed.objects + loose.objects))
        await pace.step()
    return {"closed": closed.to_json(), "loose": loose.to_json()}


class _Ages:
    def __init__(self, store: Store, samples: int, pace: Pace, progress: Reporter) -> None:
        self._store = store
        self._samples = samples
        self._pace = pace
        self._progress = progress
        self._index = ChainIndex(store, Objects(store, cache_bytes=8 << 20), cached_rows=1024, cached_tipsets=64)

    async def all(self, head: int) -> list[Age]:
        """The ages of which there are tipsets, the youngest first."""
        found: list[Age] = []
        high = head
        for name, epochs in AGES:
            low = 0 if epochs is None else max(0, head - epochs + 1)
            if low <= high:
                age = Age(name, low, high)
                await self._fill(age)
                if age.tipsets:
                    found.append(age)
            high = low - 1
        return found

    async def _fill(self, age: Age) -> None:
        age.tipsets = await self._tipsets(age.low, age.high)
        self._progress.phase(f"samples of {age.name}", self._samples, "tipsets")
        step = max(1, (age.high - age.low + 1) // self._samples)
        seen: set[TipsetKey] = set()
        for number in range(self._samples):
            row = await self._first_row(age.low + number * step, age.high)
            if row is None:
                break
            if row.key not in seen:
                seen.add(row.key)
                await self._sample(age, row)
            self._progress.at(number + 1)
            await self._pace.step()

    async def _tipsets(self, low: int, high: int) -> int:
        """How many tipsets HEIGHTS lists; of many days it looks at ten."""
        days = range(low // HEIGHT_BUCKET, high // HEIGHT_BUCKET + 1)
        chosen = list(days) if len(days) <= 12 else list(days[:: -(-len(days) // 10)])
        count = 0
        for day in chosen:
            start = max(low, day * HEIGHT_BUCKET).to_bytes(8, "big")
            end = min(high + 1, (day + 1) * HEIGHT_BUCKET).to_bytes(8, "big")
            found = await self._store.scan(HEIGHTS, day.to_bytes(8, "big"), start=start, end=end, limit=_MOST)
            count += len(found)
            await self._pace.step()
        return count * len(days) // max(1, len(chosen))

    async def _first_row(self, epoch: int, high: int) -> TipsetRow | None:
        """The first tipset at or after an epoch, within its day."""
        partition = (epoch // HEIGHT_BUCKET).to_bytes(8, "big")
        end = (high + 1).to_bytes(8, "big")
        found = await self._store.scan(HEIGHTS, partition, start=epoch.to_bytes(8, "big"), end=end, limit=1)
        if not found:
            return None
        value = await self._store.row(TIPSETS, TipsetKey(found[0][1]).cid, b"")
        return None if value is None else decode_row(value)

    async def _sample(self, age: Age, row: TipsetRow) -> None:
        try:
            tipset = await self._index.tipset(row.key)
        except (Missing, BadObject):
            return
        age.sampled += 1
        whole = await self._tree(tipset.key.cids, deep=False)
        self._note(age, "headers", whole)
        if row.held & HELD_MESSAGES:
            self._note(age, "messages", await self._tree([block.messages for block in tipset.blocks]))
        if row.held & HELD_RECEIPTS and row.held & HELD_EVENTS:
            self._note(age, "receipts and events", await self._tree([tipset.parent_message_receipts]))
        if row.held & HELD_STATE and row.parent_height >= 0:
            try:
                parent = await self._index.tipset(row.parent)
            except (Missing, BadObject):
                return
            new = await self._new_objects(tipset.parent_state_root, parent.parent_state_root)
            self._note(age, "new state", new)

    def _note(self, age: Age, kind: str, amount: Amount | None) -> None:
        if amount is not None:
            age.kinds[kind].add(amount)
            age.held[kind] += 1

    async def _tree(self, roots: Sequence[Cid], *, deep: bool = True) -> Amount | None:
        """Everything under some roots; None where something is not held."""
        amount = Amount()
        waiting, seen = list(dict.fromkeys(roots)), {bytes(root) for root in roots}
        while waiting and amount.objects < _MOST:
            part, waiting = waiting[:_BATCH], waiting[_BATCH:]
            for cid, data in zip(part, await self._read(part), strict=True):
                if data is None:
                    return None
                amount.add(Amount(1, len(data)))
                if deep:
                    links = [link for link in walked_links(cid, data) if link not in seen]
                    seen.update(links)
                    waiting += links
        return amount

    async def _new_objects(self, root: Cid, before: Cid) -> Amount | None:
        """Objects of a state that are not in the one before: both trees are gone down level by level, where they
        differ. None where something is not held."""
        amount = Amount()
        new, old = ([root], [before]) if root != before else ([], [])
        while new and amount.objects < _MOST:
            datas = await self._read(new)
            if any(data is None for data in datas):
                return None
            below = dict.fromkeys(
                link for cid, data in zip(new, datas, strict=True) for link in walked_links(cid, data or b"")
            )
            amount.add(Amount(len(datas), sum(len(data or b"") for data in datas)))
            others = dict.fromkeys(
                link
                for cid, data in zip(old, await self._read(old), strict=True)
                if data is not None
                for link in walked_links(cid, data)
            )
            new = [link for link in below if link not in others and is_walked(link)]
            old = [link for link in others if link not in below][: 4 * len(new) + _BATCH]
        return amount

    async def _read(self, cids: Sequence[Cid]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for at in range(0, len(cids), _BATCH):
            found += await self._store.get_many([cid.multihash for cid in cids[at : at + _BATCH]])
            await self._pace.step()
        return found
