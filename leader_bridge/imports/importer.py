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
from contextlib import aclosing
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
from chain.errors import BadObject, BadRequest
from chain.ipld.dag_cbor import decode
from chain.known_networks import known_network
from chain.network import NetworkRecord, load_network, read_network_file, save_network
from chain.tipset import TipsetKey
from leader_bridge.follow.lease import hold_lease
from leader_bridge.imports.index import Indexer, is_heavier, load_tipset, publish_head
from leader_bridge.imports.progress import Reporter, Silent
from leader_bridge.imports.recent_objects import Recent
from leader_bridge.imports.spill_file import KeySpillFile

#: the mark of a store that is not to be served yet, and how far its import is
MARK: Final = b"import"
PROGRESS: Final = b"import_progress"
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


@dataclass(slots=True)
class _State:
    """The progress row."""

    fingerprint: str
    head: list[str]
    offset: int = 0
    whole: bool = False
    indexed: str = ""
    objects: int = 0

    def put(self, batch: Batch) -> None:
        value = {name: getattr(self, name) for name in self.__slots__}
        batch.put(META, b"", PROGRESS, orjson.dumps(value))


async def _load_state(store: Store) -> _State | None:
    value = await store.row(META, b"", PROGRESS)
    if value is None:
        return None
    try:
        return _State(**orjson.loads(value))
    except TypeError:
        return None  # another version's: the import begins anew over what is stored


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
) -> ImportReport:
    """Import the CAR file `path` (`-`: standard input) into `store`. Continue where an earlier import of it stopped.

    `network_file` describes a network whose genesis is not built in. `index=False` stores objects
    only: no rows, no head. `actor_code`: whether the code of built-in actors must be there for a state to
    count as held. `process`: read in a child process (None: for large files). On a store with a lease, the
    import leads while it runs and renews the lease (`lease_seconds`): bridges stand by. `arriving`: `path` is still
    being downloaded. Its objects are stored as they come; nothing is indexed before its hash is verified.

    Errors: what `arriving` raises, BadCar (what was stored before the offset stays; call again when the file is whole),
    WrongNetwork (no row is written), BadRequest (the network is not known, or its file is malformed), BadObject (a
    header of the chain cannot be read), OSError, StoreError.
    """
    async with hold_lease(store, "import", lease_seconds) as term:
        work = _Import(store, path, progress or Silent(), network_file, term, arriving)
        return await work.run(index, actor_code, process)


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

    async def run(self, index: bool, actor_code: bool, process: bool | None) -> ImportReport:
        record = await load_network(self._store)
        await self._check_file(record)
        if has_per_object_cost(self._store) and index and await self._store.head() is None:
            self._recent = Recent()
        state = await self._objects(process)
        await self._verify_download(state)
        report = self._report
        if not index:
            await self._clear()
            return report
        with KeySpillFile() as spool:
            head = TipsetKey.of(parse(text) for text in state.head)
            genesis = await self._down(head, state, spool)
            network = await self._network(record, genesis)
            batch = Batch()
            save_network(batch, network)
            await self._store.write(batch)
            report.network = network
            await self._up(spool, state, network, actor_code)
        report.published = await publish_head(self._store, head, self._term)
        report.head = (await load_tipset(self._store, head)).key
        await self._clear()
        return report

    async def _clear(self) -> None:
        batch = Batch()
        batch.delete(META, b"", MARK)
        batch.delete(META, b"", PROGRESS)
        await self._store.write(batch)

    async def _verify_download(self, state: _State) -> None:
        if self._arriving is None:
            return
        try:
            await self._arriving.verified()
        except DownloadFailed:
            # the right file may begin with the same bytes: it must be read from the start
            state.offset, state.whole = 0, False
            await self._save(state)
            raise

    # --- objects -----------------------------------------------------------------------------------

    async def _objects(self, process: bool | None) -> _State:
        """Store the objects of the file, from where an earlier import of it stopped."""
        before = await _load_state(self._store)
        resume = None if before is None else Resume(before.fingerprint, before.offset)
        state: _State | None = None
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
                            levels = [item.leaves, *item.levels]
                            await load_objects(self._store, levels, item.others)
                            if self._recent is not None:
                                self._recent.add(levels, item.others)
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

    async def _begin(self, opened: Opened, before: _State | None) -> _State:
        """Mark the store as not to be served, unless it has a head already: additions to a whole chain do no harm."""
        self._report.resumed_at = opened.start
        if before is not None and before.fingerprint == opened.fingerprint:
            state = before
            if opened.start:
                self._progress.say(f"an earlier import stopped here: going on at byte {opened.start:,} of the stream")
        else:
            state = _State(opened.fingerprint, [str(cid) for cid in opened.head])
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

    async def _save(self, state: _State) -> None:
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

    async def _down(self, head: TipsetKey, state: _State, spool: KeySpillFile) -> Cid | None:
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

    async def _up(self, spool: KeySpillFile, state: _State, network: NetworkRecord, actor_code: bool) -> None:
        """Close and index the tipsets, from the oldest to the head."""
        indexer = Indexer(
            self._store,
            network,
            actor_code=actor_code,
            recent=self._recent,
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

    # --- network -----------------------------------------------------------------------------------

    async def _check_file(self, record: NetworkRecord | None) -> None:
        """Check the network file at once, before hours of reading."""
        if self._network_file is None:
            return
        stands_in = record.genesis if record else Cid(b"")
        told = read_network_file(self._network_file, stands_in)
        if record is not None and (told.name != record.name or told.genesis != record.genesis):
            raise WrongNetwork(
                f"{self._network_file} is of network {told.name!r}, genesis {told.genesis}; the store of "
                f"{record.name!r}, genesis {record.genesis}"
            )

    async def _network(self, record: NetworkRecord | None, genesis: Cid | None) -> NetworkRecord:
        """The network of the file, which must be the store's."""
        try:
            return self._told_network(record, genesis)
        except WrongNetwork:
            await self._clear()  # nothing but objects came of it, and they harm no other chain
            raise

    def _told_network(self, record: NetworkRecord | None, genesis: Cid | None) -> NetworkRecord:
        if record is not None:
            if genesis is not None and genesis != record.genesis:
                raise WrongNetwork(
                    f"{self._path} holds a chain with genesis {genesis}; the store's is {record.genesis} "
                    f"({record.name})"
                )
            if genesis is None and self._network_file is None:
                raise BadRequest(
                    f"{self._path} does not reach down to a genesis, so its network cannot be told from the "
                    "chain: name it with --network-file FILE (with a 'genesis' in it); what was read is kept"
                )
            return record
        known = None if genesis is None else known_network(genesis)
        if self._network_file is not None:
            told = read_network_file(self._network_file, genesis)
            if genesis is not None and told.genesis != genesis:
                raise WrongNetwork(
                    f"{self._network_file} says genesis {told.genesis}; {self._path} holds a chain with {genesis}"
                )
            if known is not None and told.name != known.name:
                raise WrongNetwork(f"{self._network_file} is of network {told.name!r}; the chain is {known.name}'s")
            return told
        if known is not None:
            return known
        raise BadRequest(
            f"the genesis of {self._path} ({genesis or 'not in it'}) is of no known network: name it with "
            "--network-file FILE; what was read is kept, and the same import goes on from there"
        )
