"""Copies a store into another one, whatever the backends, while the first one serves and its bridge goes on.

1. *Rows.* Coverage comes first, so that nothing is claimed whose rows are not there. The order of the steps does the
   rest: what rows name was durable before they were written, and the objects are read after the rows.
2. *Objects*, a page at a time, each verified by its hash.
3. *Objects again*, where the first store was written to meanwhile: those that the first pass missed, as loose ones.
   What was closed in the first pass is whole then, for what is below an object was stored before it.
4. *Catch-up.* The tipsets that the first store has got meanwhile are mirrored as a bridge mirrors them from a node.
   This is repeated until little comes in between. Flags that the first store has taken back are taken back too.
5. *The head* is published last. Until then the copy carries the mark of an unfinished import, and no follower serves
   it.

After each page a row of the copy says how far it is. A killed copy goes on there when it is run again.

The head log is not copied: that of the copy begins with its first head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

import orjson

from blockstore.archive.named import archives_of
from blockstore.bulk_load import load_objects
from blockstore.cid import verify
from blockstore.errors import HashMismatch, StoreError, Unfinished
from blockstore.generations import LASTING, GenerationalStore, keep_lasting
from blockstore.scan import change_count, object_count, object_pages, row_pages
from blockstore.scan_pages import StoredObject
from blockstore.store import (
    COVERAGE,
    ETH_TXS,
    EVENT_POSTINGS,
    EVENTS,
    HEIGHTS,
    MESSAGES,
    META,
    POST,
    RECORDED,
    TIPSETS,
    Batch,
    Held,
    Store,
    Table,
)
from chain.index.kept import load_kept, save_kept
from chain.index.recorded_answers import NETWORK_PARAMS
from chain.network import load_network, save_network
from chain.tipset import TipsetKey
from leader_bridge.follow.head_rules import FINAL
from leader_bridge.follow.lease import hold_lease
from leader_bridge.imports.import_state import MARK, PROGRESS
from leader_bridge.imports.index import publish_head
from leader_bridge.imports.progress import Reporter, Silent
from leader_bridge.store.backfill_floor import load_floor, save_floor
from leader_bridge.store.traces import FLOOR as TRACES_FLOOR
from leader_bridge.store.unfinished_copy import COPY
from leader_bridge.upkeep.catch_up import CatchUp
from leader_bridge.upkeep.damage import cid_under
from leader_bridge.upkeep.pace import Pace

#: in the order in which they are copied
_TABLES: Final = (COVERAGE, TIPSETS, HEIGHTS, POST, MESSAGES, ETH_TXS, EVENTS, EVENT_POSTINGS, RECORDED)
#: a catch-up that brings fewer tipsets is the last one
_FEW: Final = 3
_MOST_ROUNDS: Final = 1000
_OBJECTS: Final = "objects"
_MISSED: Final = "missed objects"
_CATCH_UP: Final = "catch-up"


@dataclass(slots=True)
class _State:
    """The progress row of a copy. `head`: epoch and key of the source's head when it began."""

    source: str
    head: list[object]
    #: what `change_count` said of the source when the objects began
    changes: int | None = None
    #: the source's generation that was current then
    generation: int | None = None
    step: str = ""
    position: str = ""
    rows: int = 0
    objects: int = 0
    object_bytes: int = 0

    def put(self, batch: Batch) -> None:
        batch.put(META, b"", COPY, orjson.dumps(asdict(self)))


@dataclass(slots=True)
class CopyReport:
    """The result of a copy: what it wrote, earlier runs included. `height`: epoch of the published head, or -1."""

    rows: int = 0
    objects: int = 0
    object_bytes: int = 0
    rounds: int = 0
    caught_up: int = 0
    height: int = -1
    steps: list[str] = field(default_factory=list)


async def copy_store(
    source: Store,
    target: Store,
    *,
    pace: Pace | None = None,
    progress: Reporter | None = None,
    lease_seconds: float = 5.0,
) -> CopyReport:
    """Copy `source` into `target`, which is new or holds an unfinished copy of it.

    Errors: Unfinished (the source holds an unfinished import or copy), StoreError (the target holds something else; an
    object of the source is damaged; a store does not answer), BadObject.
    """
    async with hold_lease(target, "copy", lease_seconds) as term:
        return await _Copy(source, target, pace or Pace(), progress or Silent(), term).run()


class _Copy:
    def __init__(self, source: Store, target: Store, pace: Pace, progress: Reporter, term: int) -> None:
        self._source = source
        self._target = target
        self._pace = pace
        self._progress = progress
        self._term = term

    async def run(self) -> CopyReport:
        state = await self._begin()
        steps = [table.name for table in _TABLES] + [_OBJECTS, _MISSED, _CATCH_UP]
        begun = steps.index(state.step) if state.step in steps else 0
        for table in _TABLES[begun:]:
            await self._copy_rows(table, state)
        if begun <= steps.index(_OBJECTS):
            await self._copy_objects(state)
        if begun <= steps.index(_MISSED):
            await self._copy_missed(state)
        report = CopyReport(state.rows, state.objects, state.object_bytes, steps=steps[begun:])
        await self._catch_up(state, report)
        return report

    # --- beginning ---------------------------------------------------------------------------------

    async def _begin(self) -> _State:
        for key in (MARK, COPY):
            if await self._source.row(META, b"", key) is not None:
                raise Unfinished(f"{self._source.url} holds an import or a copy that has not ended")
        if archives := await archives_of(self._source):
            raise StoreError(f"{self._source.url} is not copied: objects of it are in archives ({', '.join(archives)})")
        head = await self._source.head()
        if head is None:
            raise StoreError(f"{self._source.url} holds no head yet")
        value = await self._target.row(META, b"", COPY)
        network = await load_network(self._source)
        if value is not None:
            state = _State(**orjson.loads(value))
            theirs = await load_network(self._target)
            if state.source == self._source.url and (theirs is None or network is None or theirs.name == network.name):
                self._progress.say(f"an earlier copy stopped here: going on with {state.step or 'the first step'}")
                return state
            raise StoreError(f"{self._target.url} holds an unfinished copy of {state.source}")
        if await self._target.head() is not None or await load_network(self._target) is not None:
            raise StoreError(f"{self._target.url} holds a chain already: copy into a new store")
        if await self._target.row(META, b"", PROGRESS) is not None:
            raise Unfinished(f"{self._target.url} holds an import that has not ended")
        state = _State(self._source.url, [head.head.height, head.head.key.hex()])
        batch = Batch()
        batch.put(META, b"", MARK, orjson.dumps({"copy": self._source.url}))
        state.put(batch)
        await self._target.write(batch)
        return state

    # --- rows --------------------------------------------------------------------------------------

    async def _copy_rows(self, table: Table, state: _State) -> None:
        after = bytes.fromhex(state.position) if state.step == table.name else b""
        self._progress.phase(f"rows of {table.name}", None, "rows")
        done = 0
        async for page in row_pages(self._source, table, after):
            state.rows += len(page.rows)
            state.step, state.position = table.name, page.position.hex()
            batch = Batch([(table, partition, key, value) for partition, key, value in page.rows])
            await self._target.write(batch)
            await self._save(state)
            done += len(page.rows)
            self._progress.at(done)
            await self._pace.step()
        # the next step begins at its own first position
        state.step, state.position = self._next(table), ""
        await self._save(state)

    def _next(self, table: Table) -> str:
        at = _TABLES.index(table) + 1
        return _TABLES[at].name if at < len(_TABLES) else _OBJECTS

    async def _save(self, state: _State) -> None:
        batch = Batch()
        state.put(batch)
        await self._target.write(batch)

    # --- objects -----------------------------------------------------------------------------------

    async def _copy_objects(self, state: _State) -> None:
        if state.step != _OBJECTS or not state.position:
            state.changes = change_count(self._source)
            state.generation = await self._generation()
        self._progress.phase(_OBJECTS, object_count(self._source), "objects")
        async for page in object_pages(self._source, bytes.fromhex(state.position)):
            closed: list[tuple[bytes, bytes]] = []
            loose: list[tuple[bytes, bytes]] = []
            # another generation may be dropped while it is read: what is closed in it may lose what is below
            is_kept = page.place in (None, LASTING, state.generation)
            for one in page.objects:
                (closed if one.closed and is_kept else loose).append((one.multihash, self._verified(one)))
            await load_objects(self._target, [closed], loose)
            state.objects += len(page.objects)
            state.object_bytes += sum(len(data) for _, data in (*closed, *loose))
            state.step, state.position = _OBJECTS, page.position.hex()
            await self._save(state)
            self._progress.at(state.objects, f"{state.object_bytes / 1e6:,.0f} MB")
            await self._pace.step()
        state.step, state.position = _MISSED, ""
        await self._save(state)

    async def _copy_missed(self, state: _State) -> None:
        """Copy what the pass over the objects did not see, because it was stored behind its back."""
        changes = change_count(self._source)
        if changes is None or changes != state.changes:
            self._progress.phase(_MISSED, object_count(self._source), "objects")
            seen = 0
            async for page in object_pages(self._source, bytes.fromhex(state.position)):
                held = await self._target.held_many([one.multihash for one in page.objects])
                missed = [one for one, how in zip(page.objects, held, strict=True) if how == Held.ABSENT]
                await self._target.put_many([(one.multihash, self._verified(one)) for one in missed], closed=False)
                seen += len(page.objects)
                state.objects += len(missed)
                state.object_bytes += sum(len(one.data or b"") for one in missed)
                state.position = page.position.hex()
                await self._save(state)
                self._progress.at(seen)
                await self._pace.step()
        state.step, state.position = _CATCH_UP, ""
        await self._save(state)

    async def _generation(self) -> int | None:
        """The source's current generation."""
        if not isinstance(self._source, GenerationalStore):
            return None
        return (await self._source.layout()).current

    def _verified(self, one: StoredObject) -> bytes:
        """The bytes of an object. Errors: StoreError (damaged)."""
        try:
            if one.data is not None:
                verify(one.multihash, one.data)
                return one.data
        except HashMismatch:
            pass
        raise self._damaged(one.multihash)

    def _damaged(self, multihash: bytes) -> StoreError:
        return StoreError(
            f"{self._source.url}: the bytes of object {cid_under(multihash)} are damaged; run `follower store check "
            "--repair` on it, then the copy again"
        )

    # --- what came meanwhile -----------------------------------------------------------------------

    async def _catch_up(self, state: _State, report: CopyReport) -> None:
        await self._copy_settings()
        await self._keep_headers()
        catch_up = CatchUp(self._source, self._target)
        below = TipsetKey(bytes.fromhex(str(state.head[1])))
        low = int(str(state.head[0]))
        self._progress.phase("what came meanwhile", None, "tipsets")
        for _ in range(_MOST_ROUNDS):
            entry = await self._source.head()
            assert entry is not None
            head = TipsetKey(entry.head.key)
            count = await catch_up.bring(head, below, low)
            report.rounds += 1
            report.caught_up += count
            self._progress.at(report.caught_up, f"epoch {entry.head.height}")
            below, low = head, entry.head.height
            if count <= _FEW:
                break
        await catch_up.take_back_claims(self._pace)
        await publish_head(self._target, below, self._term)
        report.height = low
        batch = Batch()
        batch.delete(META, b"", COPY)
        batch.delete(META, b"", MARK)
        await self._target.write(batch)

    async def _keep_headers(self) -> None:
        """Put the headers where the target drops nothing."""
        async for page in row_pages(self._target, HEIGHTS):
            await keep_lasting(self._target, [cid.multihash for _, _, key in page.rows for cid in TipsetKey(key).cids])
            await self._pace.step()

    async def _copy_settings(self) -> None:
        """The network, and how far backfills go."""
        batch = Batch()
        network = await load_network(self._source)
        if network is not None:
            save_network(batch, network)
        save_kept(batch, await load_kept(self._source))
        floor = await load_floor(self._source)
        if floor is not None:
            save_floor(batch, floor)
        for key in _copied_keys():
            value = await self._source.row(META, b"", key)
            if value is not None:
                batch.put(META, b"", key, value)
        await self._target.write(batch)


def _copied_keys() -> Sequence[bytes]:
    return (NETWORK_PARAMS, TRACES_FLOOR, FINAL)
