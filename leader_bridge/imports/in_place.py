"""Makes the rows that a follower needs over archives that stay where they are: an import that stores no objects.

The passes are those of `importer`: from the head down by headers, then upwards, a group of tipsets at a time. A pass
that was killed continues at the group after the last one that was written.
"""

from __future__ import annotations

from pathlib import Path

import orjson

from blockstore.archive.named import Named, named_archives
from blockstore.archive.tier import Archives
from blockstore.cid import parse
from blockstore.store import META, Batch, Store
from chain.tipset import TipsetKey
from leader_bridge.follow.lease import hold_lease
from leader_bridge.imports.archive_view import ArchiveView
from leader_bridge.imports.import_state import MARK, ImportState, load_state
from leader_bridge.imports.importer import ImportReport, _Import
from leader_bridge.imports.index import load_tipset
from leader_bridge.imports.progress import Reporter, Silent
from leader_bridge.retention.policy import ARCHIVE


async def index_archives(
    store: Store,
    archives: Archives,
    *,
    network_file: Path | None = None,
    progress: Reporter | None = None,
    actor_code: bool = False,
    trusted: bool = False,
    lease_seconds: float = 5.0,
) -> ImportReport:
    """Write the rows and the head of the chain in `archives` into `store`. The first archive names the head.

    `trusted`: what an archive names as held is not walked: a state counts as held when its root is there. Otherwise
    every object under each root is read once. Errors: as `import_car`.
    """
    first = await archives.first()
    view = ArchiveView(store, archives, await archives.all(), trusted=trusted)
    async with hold_lease(store, "import", lease_seconds) as term:
        work = _InPlace(view, ", ".join(archives.names), progress or Silent(), network_file, term, None)
        work.begin_with(ImportState(first.fingerprint, [str(cid) for cid in first.head]), archives.names)
        return await work.run(index=True, actor_code=actor_code, process=False, policy=ARCHIVE, folder=None)


class _InPlace(_Import):
    """An import whose objects are there already."""

    _new: ImportState
    _names: list[str]

    def begin_with(self, state: ImportState, names: list[str]) -> None:
        """What the progress row says at first, and the archives' names."""
        self._new = state
        self._names = names

    async def _objects(self, process: bool | None) -> ImportState:
        store, state = self._store, self._new
        before = await load_state(store)
        if before is not None and before.fingerprint == state.fingerprint:
            state = before
            if state.indexed:
                self._progress.say("an earlier pass was stopped: going on behind the last tipset that it indexed")
        state.whole = True
        batch = Batch()
        if await store.head() is None:
            batch.put(META, b"", MARK, orjson.dumps({"file": str(self._path)}))
        before_this = await named_archives(store)
        names = dict.fromkeys([*before_this.names, *self._names])
        tipset = await load_tipset(store, TipsetKey.of(parse(text) for text in state.head))
        Named(tuple(names), max(before_this.height, tipset.height)).put(batch)
        state.put(batch)
        await store.write(batch)
        return state
