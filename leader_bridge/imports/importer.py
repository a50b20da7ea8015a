"""Imports a CAR file: first its objects, then what a follower needs to serve the chain in them.

1. *Objects.* The import reads, verifies and stores them in big batches. It closes an object at once when the file has
   already given everything below it. After each batch it writes a row with the offset in the stream. A killed import
   continues at that offset.
2. *Chain.* The import goes from the head (the CAR's roots) down to the lowest tipset of the file, by headers alone. Now
   it knows the network. It refuses a network that is not the store's.
3. *Index.* The import goes upwards again. It closes the trees that each header names, children first. The row of each
   tipset says what is whole. A snapshot has no receipts and no events, and old tipsets have no state: flags say so.
4. *Head.* The entry of the head log comes last. Until then, a store that held no head is marked, and no follower serves
   it.

Objects that are not under the head (reverted blocks and what they name) are stored too, as loose objects.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

import orjson

from blockstore.bulk_load import has_per_object_cost, load_objects
from blockstore.car.batches import Chunk, Ended, Fed, FeedProcess, Opened, Resume, feed
from blockstore.cid import Cid, parse
from blockstore.errors import BadCar, DownloadFailed, WrongNetwork
from blockstore.store import META, Batch, Store
from chain.errors import BadObject
from chain.index.kept import INDICES, MESSAGES, STATE, load_kept, save_kept
from chain.ipld.dag_cbor import decode
from chain.network import NetworkRecord, load_network, save_network
from chain.tipset import TipsetKey
from leader_bridge.follow.lease import hold_lease
from leader_bridge.imports.file_network import check_network_file, network_of_file
from leader_bridge.imports.import_state import MARK, PROGRESS, ImportState, load_state
from leader_bridge.imports.index import Indexer, is_heavier, load_tipset, publish_head
from leader_bridge.imports.progress import Reporter, Silent
from leader_bridge.imports.recent_objects import Recent
from leader_bridge.imports.sorted_import import begin_sorting, store_sorted, without_collector
from leader_bridge.imports.sorted_runs import SortedRuns
from leader_bridge.imports.spill_file import KeySpillFile
from leader_bridge.imports.undecided import Undecided
from leader_bridge.retention.policy import ARCHIVE, Policy
from leader_bridge.store.unfinished_copy import refuse_unfinished_copy

#: files larger than this are read by a process of their own
_WORTH_A_PROCESS: Final = 24 << 20
#: tipsets indexed in one batch of rows
GROUP: Final = 256


#: seconds between two looks at how far the download is
_DOWNLOAD_SHOWN_SECONDS: Final = 1.0


class Arriving(Protocol):
    """A file that is being downloaded while it is imported (`leader_bridge.imports.download.Download`)."""

    @property
    def size(self) -> int | None:
        """Bytes of the whole file, None where it is not known."""

    @property
    def note(self) -> str:
        """How far it is, for people; empty when the whole file is here."""

    async def complete(self) -> None:
        """Wait until the whole file is here. Errors: DownloadFailed, Restarted."""

    async def verified(self) -> None:
        """Wait until the whole file is here and has its published hash. Errors: DownloadFailed, Restarted."""


@dataclass(slots=True)
class ImportReport:
    """The result of an import. Sizes are in bytes.

    `resumed_at`: the offset in the stream at which it continued, 0 for a new import. `lowest`: the epoch of the lowest
    tipset that was new to the index. `closed`: objects that the last pass closed. `published`: whether the head moved.
    """

    objects: int = 0
    object_bytes: int = 0
    offset: int = 0
    resumed_at: int = 0
    f3_bytes: int = 0
    tipsets: int = 0
    closed: int = 0
    head: TipsetKey | None = None
    height: int = -1
    lowest: int = -1
    network: NetworkRecord | None = None
    published: bool = False


async def import_car(
    store: Store,
    path: str | Path,
    *,
    network_file: Path | None = None,
    progress: Reporter | None = None,
    index: bool = True,
    actor_code: bool = False,
    process: bool | None = None,
    lease_seconds: float = 5.0,
    arriving: Arriving | None = None,
    policy: Policy = ARCHIVE,
    folder: Path | None = None,
    sort_above: int | None = None,
) -> ImportReport:
    """Import the CAR file `path` (`-`: standard input) into `store`. Continue where an earlier import of it stopped.

    `network_file` describes a network whose genesis is not built in. `index=False` stores objects
    only: no rows, no head. `actor_code`: whether the code of built-in actors must be there for a state to
    count as held. `process`: read in a child process (None: for large files). On a store with a lease, the
    import leads while it runs and renews the lease (`lease_seconds`): bridges stand by. `arriving`: `path` is still
    being downloaded. Its objects are stored as they come; nothing is indexed before its hash is verified. `policy`:
    states and messages that it would drop are not stored (with `index=False` it is not obeyed: nothing tells epochs).
    `folder`: where undecided objects wait (`undecided.py`); without one, a killed import may begin anew. `sort_above`:
    files of more bytes are sorted in `folder` first (`sorted_runs.py`), where the store is LMDB and holds no object.

    Errors: what `arriving` raises, BadCar (what was stored before the offset stays; call again when the file is whole),
    WrongNetwork (no row is written), BadRequest (the network is not known, or its file is malformed), BadObject (a
    header of the chain cannot be read), OSError, StoreError.
    """
    await refuse_unfinished_copy(store)
    async with hold_lease(store, "import", lease_seconds) as term:
        work = _Import(store, path, progress or Silent(), network_file, term, arriving)
        try:
            return await work.run(index, actor_code, process, policy if index else ARCHIVE, folder, sort_above)
        finally:
            await work.close()


class _Import:
    def __init__(
        self,
        store: Store,
        path: str | Path,
        progress: Reporter,
        network_file: Path | None,
        term: int,
        arriving: Arriving | None,
    ) -> None:
        self._store = store
        self._arriving = arriving
        #: bytes of the file taken, and objects stored, as last shown; None before the file is read
        self._shown: tuple[int, int] | None = None
        self._term = term
        self._path = path
        self._progress = progress
        self._network_file = network_file
        self._report = ImportReport()
        self._recent: Recent | None = None
        self._policy = ARCHIVE
        self._folder: Path | None = None
        self._undecided: Undecided | None = None
        self._runs: SortedRuns | None = None
        self._sort_above: int | None = None
        self._closes = True

    async def close(self) -> None:
        """Close what the import has opened beside the store."""
        if self._undecided is not None:
            await self._undecided.close()
        if self._folder is not None:
            with suppress(OSError):
                self._folder.rmdir()  # nothing waits there

    async def run(
        self,
        index: bool,
        actor_code: bool,
        process: bool | None,
        policy: Policy,
        folder: Path | None,
        sort_above: int | None = None,
    ) -> ImportReport:
        self._policy, self._folder, self._sort_above, self._closes = policy, folder, sort_above, index
        record = await load_network(self._store)
        check_network_file(self._network_file, record)
        if has_per_object_cost(self._store) and index and policy.is_archive and await self._store.head() is None:
            self._recent = Recent()
        with without_collector():
            state = await self._objects(process)
        await self._verify_download(state)
        if self._runs is not None:
            await store_sorted(self._store, self._runs, self._progress)
            state.is_sorted = False
            await self._save(state)
            self._runs.remove()
        report = self._report
        if not index:
            await self._clear()
            return report
        with KeySpillFile() as spool:
            head = TipsetKey.of(parse(text) for text in state.head)
            genesis = await self._down(head, state, spool)
            try:
                network = network_of_file(self._path, self._network_file, record, genesis)
            except WrongNetwork:
                await self._clear()  # nothing but objects came of it, and they harm no other chain
                raise
            batch = Batch()
            save_network(batch, network)
            await self._store.write(batch)
            report.network = network
            await self._up(spool, state, network, actor_code)
        await self._say_what_is_kept()
        report.published = await publish_head(self._store, head, self._term)
        report.head = (await load_tipset(self._store, head)).key
        await self._clear()
        return report

    async def _say_what_is_kept(self) -> None:
        """Say from which epochs on the policy let things be stored."""
        policy, height = self._policy, self._report.height
        lowest = {
            STATE: policy.lowest_state(height),
            MESSAGES: policy.lowest_messages(height),
            INDICES: policy.lowest_indices(height),
        }
        kept = await load_kept(self._store)
        if any(epoch > kept.lowest.get(kind, 0) for kind, epoch in lowest.items()):
            batch = Batch()
            save_kept(batch, kept.raised(lowest, removed=True))
            await self._store.write(batch)

    async def _clear(self) -> None:
        batch = Batch()
        batch.delete(META, b"", MARK)
        batch.delete(META, b"", PROGRESS)
        await self._store.write(batch)
        if self._undecided is not None:
            await self._undecided.remove()

    async def _verify_download(self, state: ImportState) -> None:
        if self._arriving is None:
            return
        try:
            await self._arriving.verified()
        except DownloadFailed:
            # the right file may begin with the same bytes: it must be read from the start
            state.restart()
            await self._save(state)
            raise

    # --- objects -----------------------------------------------------------------------------------

    async def _objects(self, process: bool | None) -> ImportState:
        """Store the objects of the file, from where an earlier import of it stopped."""
        before = await load_state(self._store)
        await self._open_undecided(before)
        await self._resume_runs(before)
        resume = None if before is None else Resume(before.fingerprint, before.offset)
        state: ImportState | None = None
        report = self._report
        try:
            async with aclosing(self._fed(resume, process)) as items:
                async for item in items:
                    match item:
                        case Opened():
                            state = await self._begin(item, before)
                            if state.whole:
                                report.offset = state.offset
                                break
                        case Chunk():
                            assert state is not None
                            levels, loose = [item.leaves, *item.levels], item.others
                            if self._undecided is not None:
                                levels, loose = await self._undecided.divide(item, state.fingerprint)
                                state.note(self._undecided)
                            if self._runs is not None:
                                leaves = levels[0] if levels else []
                                await asyncio.to_thread(self._runs.add, leaves, loose, item.offset, item.size)
                            else:
                                await load_objects(self._store, levels, loose)
                            if self._recent is not None:
                                self._recent.add(levels, loose)
                            report.objects += item.count
                            report.object_bytes += item.size
                            state.offset = report.offset = item.offset
                            state.objects += item.count
                            await self._save(state)
                            self._shown = (item.consumed, state.objects)
                            self._show()
                        case Ended():
                            assert state is not None
                            report.offset, report.f3_bytes = item.offset, item.f3_bytes
                            state.offset, state.whole = item.offset, True
                            await self._save(state)
        except BadCar:
            if state is None and before is None:
                await self._forget_mark()
            raise
        if state is None:
            raise BadCar("the file is empty", 0)
        return state

    async def _forget_mark(self) -> None:
        batch = Batch()
        batch.delete(META, b"", MARK)
        await self._store.write(batch)

    async def _begin(self, opened: Opened, before: ImportState | None) -> ImportState:
        """Mark the store as not to be served, unless it has a head already: additions to a whole chain do no harm."""
        self._report.resumed_at = opened.start
        if before is not None and before.fingerprint == opened.fingerprint:
            state = before
            if opened.start:
                self._progress.say(f"an earlier import stopped here: going on at byte {opened.start:,} of the stream")
        else:
            state = ImportState(opened.fingerprint, [str(cid) for cid in opened.head])
            if self._undecided is not None:
                await self._undecided.remove()  # another file's
            self._runs = None
        if self._runs is None and not opened.start and not state.whole:
            await self._begin_runs(state, opened)
        if self._undecided is not None:
            self._undecided.head = frozenset(cid.multihash for cid in opened.head)
        batch = Batch()
        if await self._store.head() is None:
            batch.put(META, b"", MARK, orjson.dumps({"file": str(self._path)}))
        state.put(batch)
        await self._store.write(batch)
        self._progress.phase("objects", opened.size if self._arriving is None else self._arriving.size, "bytes")
        if self._arriving is not None:
            self._shown = (0, state.objects)
        if not opened.start:
            self._progress.at(0)
        return state

    def _show(self) -> None:
        if self._shown is None:
            return
        consumed, objects = self._shown
        note = f"{objects:,} objects"
        if self._arriving is not None and self._arriving.note:
            note += f", {self._arriving.note}"
        self._progress.at(consumed, note)

    async def _follow_download(self, arriving: Arriving, child: FeedProcess) -> None:
        """Tell the reading process when the file is whole; end it when the download fails."""
        complete = asyncio.ensure_future(arriving.complete())
        try:
            while not (await asyncio.wait((complete,), timeout=_DOWNLOAD_SHOWN_SECONDS))[0]:
                self._show()
            await complete
        except BaseException:
            complete.cancel()
            child.kill()
            raise
        child.complete()

    async def _open_undecided(self, before: ImportState | None) -> None:
        """Prepare for what the policy leaves out; let the import begin anew where an earlier run's part is lost."""
        if self._policy.state is None and self._policy.messages is None and (before is None or not before.is_aside):
            return
        folder = None if self._folder is None else self._folder / "undecided"
        self._undecided = aside = Undecided(self._store, self._policy, folder)
        entry = await self._store.head()
        aside.head_height = -1 if entry is None else entry.head.height
        if before is None or not await aside.resume(before.fingerprint, is_used=before.is_aside):
            if before is not None:
                before.restart()
            return
        aside.head_height = max(aside.head_height, before.head_height)
        aside.is_head_seen, aside.is_below = before.is_head_seen, before.is_below

    def _sorted_folder(self) -> Path:
        return (self._folder or Path()) / "sorted"

    async def _resume_runs(self, before: ImportState | None) -> None:
        """Go on with sorted runs. They know better than the store how far they are."""
        if before is None or not before.is_sorted:
            return
        folder = self._sorted_folder()
        self._runs = await asyncio.to_thread(SortedRuns.resume, folder, before.fingerprint, closes=self._closes)
        if self._runs is None:
            before.restart()
        else:
            before.offset, before.objects = self._runs.offset, self._runs.objects

    async def _begin_runs(self, state: ImportState, opened: Opened) -> None:
        if self._folder is None or self._sort_above is None:
            return
        size = opened.size if self._arriving is None else self._arriving.size
        folder, mark, above = self._sorted_folder(), opened.fingerprint, self._sort_above
        self._runs = await begin_sorting(
            self._store, folder, mark, size, above, closes=self._closes, progress=self._progress
        )
        state.is_sorted = self._runs is not None

    async def _save(self, state: ImportState) -> None:
        batch = Batch()
        state.put(batch)
        await self._store.write(batch)

    async def _fed(self, resume: Resume | None, process: bool | None) -> AsyncGenerator[Fed, None]:
        """The batches of the file. It reads one batch ahead, no more."""
        if process is None:
            path = Path(self._path)
            process = str(path) == "-" or path.stat().st_size > _WORTH_A_PROCESS  # noqa: ASYNC240
        levels = has_per_object_cost(self._store)
        arriving = self._arriving
        child = None
        if process or arriving is not None:
            child = FeedProcess(self._path, resume, levels=levels, arriving=arriving is not None)
        download: asyncio.Task[None] | None = None
        if arriving is not None and child is not None:
            download = asyncio.create_task(self._follow_download(arriving, child))
        items: Iterator[Fed] = iter(child) if child is not None else feed(self._path, resume, levels=levels)
        coming: asyncio.Task[Fed | None] = asyncio.create_task(asyncio.to_thread(next, items, None))
        try:
            while (item := await coming) is not None:
                coming = asyncio.create_task(asyncio.to_thread(next, items, None))
                yield item
        except (OSError, BadCar):
            if download is not None and download.done():
                await download  # why the reading process has ended
            raise
        finally:
            if download is not None:
                download.cancel()
            if child is not None:
                await asyncio.to_thread(child.stop)
            await asyncio.gather(coming, *([] if download is None else [download]), return_exceptions=True)

    # --- chain -------------------------------------------------------------------------------------

    async def _down(self, head: TipsetKey, state: ImportState, spool: KeySpillFile) -> Cid | None:
        """Write the keys from the head down to the first indexed tipset, or to the bottom, into a file.

        Returns the genesis block.
        """
        report, store = self._report, self._store
        indexed = bytes.fromhex(state.indexed)
        known = await load_network(store) if indexed else None
        key = head
        while True:
            raws = await store.get_many([cid.multihash for cid in key.cids])
            if any(raw is None for raw in raws):
                if key == head:
                    raise BadCar(f"the head's block {key.cids[0]} is not in the file", report.offset)
                return None
            fields = decode(raws[0] or b"")
            if not isinstance(fields, list) or len(fields) != 16 or not isinstance(fields[7], int):
                raise BadObject(f"{key.cids[0]} stands for a block, and is none")
            if report.height < 0:
                report.height = fields[7]
                self._progress.phase("headers", report.height, "epochs")
                self._progress.at(0)
            if indexed and key == indexed:
                # an earlier run came up to here
                return None if known is None else known.genesis
            report.lowest = fields[7]
            spool.append(key)
            self._progress.at(report.height - report.lowest)
            if report.lowest == 0:
                return key.cids[0]
            key = TipsetKey.of(fields[5])
            if spool.count % 1000 == 0:
                await asyncio.sleep(0)

    async def _up(self, spool: KeySpillFile, state: ImportState, network: NetworkRecord, actor_code: bool) -> None:
        """Close and index the tipsets, from the oldest to the head."""
        indexer = Indexer(
            self._store,
            network,
            actor_code=actor_code,
            recent=self._recent,
            undecided=self._undecided,
            will_publish=await is_heavier(self._store, TipsetKey.of(parse(text) for text in state.head)),
        )
        self._progress.phase("tipsets", spool.count, "tipsets")
        self._progress.at(0)
        keys = spool.backwards()
        while group := list(islice(keys, GROUP)):
            batch = Batch()
            await indexer.index(batch, group)
            state.indexed = group[-1].hex()
            state.put(batch)
            await self._store.write(batch)
            self._report.tipsets += len(group)
            self._report.closed = indexer.closed
            self._progress.at(self._report.tipsets, f"{indexer.closed:,} objects closed")
        await indexer.close_reverted()
