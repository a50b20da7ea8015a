"""Event rows where state is lazy: of the state after a tipset, only the paths to the actors that emitted are fetched.

A row names its emitter by the delegated address, which stands in the actor's record. With the rows a follower answers
`eth_getLogs` without a full node, and from the paths, kept as loose objects, the logs of receipts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cachetools import LRUCache

from blockstore.cid import Cid
from blockstore.errors import StoreError, StoreUnavailable
from blockstore.store import Batch, Store
from chain.index.chain_index import TipsetRow
from chain.index.event_index import index_events
from chain.ipld.objects import Objects
from chain.network import load_network
from chain.tipset import TipsetKey
from leader_bridge.nodes.sources import NoSource
from leader_bridge.store.indexer import can_index_events
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.tipset_writer import TipsetWriter

_CACHE_BYTES: Final = 16 << 20
#: tipsets that are remembered as tried in vain
_FAILED: Final = 4096


class LazyEvents:
    """Indexes the events of tipsets whose state is not mirrored."""

    def __init__(self, store: Store, writer: TipsetWriter, mirror: Mirror) -> None:
        self._store = store
        self._writer = writer
        self._mirror = mirror
        self._failed: LRUCache[TipsetKey, None] = LRUCache(_FAILED)
        self._objects = Objects(store, cache_bytes=_CACHE_BYTES, fetch=self._fetch)

    async def find_lacking(self, key: TipsetKey, most: int) -> list[TipsetKey]:
        """The newest tipsets of the chain of `key` whose parents' events could be indexed, newest first.

        Down to one that is done, or that no node held the state of when it was tried last.
        """
        found: list[TipsetKey] = []
        for _ in range(most):
            row = await self._writer.row(key)
            if row is None or not self._lacks(row) or key in self._failed:
                break
            found.append(key)
            key = row.parent
        return found

    async def index(self, keys: Sequence[TipsetKey]) -> int:
        """Write the event rows of the parents of stored tipsets; how many.

        Errors: NotAvailableYet, NoSource, StoreError, BadObject.
        """
        network = await load_network(self._store)
        if network is None:
            return 0
        rows = [row for key in keys if (row := await self._writer.row(key)) is not None and self._lacks(row)]
        children = await self._writer.tipsets([row.key for row in rows])
        fetched: list[TipsetKey] = []
        for child in children:
            if not child.height or await self._writer.row(child.parents) is None:
                continue
            (parent,) = await self._writer.tipsets([child.parents])
            # for what it reads: the rows are made of what is stored then, with no node waited for
            if await index_events(Batch(), self._objects, parent, child, network):
                fetched.append(child.key)
            else:
                self._failed[child.key] = None
        return await self._writer.index_events(fetched, needs_state=False)

    @staticmethod
    def _lacks(row: TipsetRow) -> bool:
        return can_index_events(row.held, needs_state=False)

    async def _fetch(self, cids: Sequence[Cid]) -> Sequence[bytes | StoreError | None]:
        try:
            found = (await self._mirror.fetch(cids)).found
        except NoSource as error:
            raise StoreUnavailable(f"no node can be asked: {error}") from None
        return [found.get(cid) for cid in cids]
