"""The chain below what the store holds: headers are fetched by CID and linked to the head, then kept in memory.

Each header names its parents by CID, so a chain that is walked from the request's head down is that head's chain,
whatever a node says. A node is asked for tipsets by epoch only as hints where to begin to fetch in parallel. Deeper
than `link_epochs` below the known chain, the node's word is taken for which tipset lies at an epoch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import orjson
from cachetools import LRUCache

from blockstore.cid import Cid, parse
from blockstore.errors import BadCid, Missing, StoreError
from blockstore.store import Store
from chain.errors import BadObject, NotHeld
from chain.index.chain_index import ChainIndex, TipsetRow, row_of
from chain.ipld.dag_cbor import decode
from chain.ipld.objects import ObjectReader
from chain.network import NetworkRecord
from chain.tipset import Tipset, TipsetKey
from follower.forwarding.seldom import Seldom
from rpc import lotus_json
from rpc.json_wire import encoder, key_json

log = logging.getLogger(__name__)

#: (method, parameters, a tipset that the node must hold): (name of a node, its answer), one node after the other
Ask = Callable[[str, list[Any], Tipset], AsyncIterator[tuple[str, Any]]]

#: epochs that one task fetches, header by header, and tasks at once
_SEGMENT: Final = 32
_SEGMENTS_AT_ONCE: Final = 16
#: headers that are linked between two turns of the event loop
_RUN: Final = 64
#: tipsets and rows of the store that are kept in memory beside those of the other index
_CACHED: Final = 2048
#: rows of linked tipsets that are kept, and answers of nodes about deep epochs
_ROWS: Final = 65_536
_CLAIMS: Final = 4096


class Lies:
    """Counts and logs answers of nodes that were proved wrong."""

    def __init__(self) -> None:
        self.count = 0
        self._lines = Seldom()

    def note(self, node: str, why: str) -> None:
        """One more. The log has one of them in ten seconds."""
        self.count += 1
        if self._lines.is_due():
            log.warning("an answer of full node %s is refused (%d so far): %s", node, self.count, why)


class UnheldChain(ChainIndex):
    """A `ChainIndex` that goes on below what the store holds. `ask`: asks the nodes, one after the other."""

    def __init__(
        self, store: Store, objects: ObjectReader, network: NetworkRecord, ask: Ask, lies: Lies, *, link_epochs: int
    ) -> None:
        super().__init__(store, objects, network, cached_rows=_CACHED, cached_tipsets=_CACHED, longest_walk=0)
        self._ask = ask
        self._lies = lies
        self._link_epochs = link_epochs
        self._linked: LRUCache[bytes, TipsetRow] = LRUCache(_ROWS)
        self._linked_keys: LRUCache[bytes, TipsetKey] = LRUCache(_ROWS)
        #: what nodes said: (anchor's key, epoch) to the first tipset at or after the epoch
        self._claims: LRUCache[tuple[bytes, int], TipsetKey] = LRUCache(_CLAIMS)
        self._encode = encoder(network.address_prefix)
        self._lock = asyncio.Lock()

    # --- rows --------------------------------------------------------------------------------------------------

    async def row(self, key: TipsetKey, *, fresh: bool = False) -> TipsetRow | None:
        """The row of a tipset that is stored or linked. See ChainIndex."""
        linked = self._linked.get(key)
        if linked is not None and not fresh:
            return linked
        return await super().row(key, fresh=fresh) or linked

    async def key_of(self, cid: Cid) -> TipsetKey | None:
        """The tipset key with this CID. A full node keeps tipset keys as objects. See ChainIndex."""
        found = await super().key_of(cid) or self._linked_keys.get(cid)
        if found is not None:
            return found
        try:
            key = TipsetKey(decode(await self._objects.get(cid)))
            if key.cid == cid:
                return key
        except (BadCid, BadObject, StoreError, TypeError, ValueError):
            pass
        return None

    # --- the chain ---------------------------------------------------------------------------------------------

    async def at_height(self, anchor: Tipset, height: int, *, previous: bool = True) -> Tipset:
        """The ancestor at an epoch. Errors: NotHeld, where no node tells it. See ChainIndex."""
        if height >= anchor.height:
            return anchor
        bottom = await self._bottom(anchor, height)
        if bottom is not None:
            if bottom.height - height > self._link_epochs:
                return await self._claimed(anchor, height, previous)
            await self.link(anchor, height)
        return await super().at_height(anchor, height, previous=previous)

    async def link(self, anchor: Tipset, height: int) -> None:
        """Fetch and link the headers from `anchor` down to an epoch. Errors: NotHeld (one cannot be fetched, too deep).

        A tipset is linked with the last one at or before `height`.
        """
        async with self._lock:
            bottom = await self._bottom(anchor, height)
            if bottom is None:
                return
            if bottom.height - height > self._link_epochs:
                raise NotHeld(f"the chain at epoch {height}, more than {self._link_epochs} below what is held")
            hints = await self._fetch_ahead(anchor, bottom, height)
            line = [bottom]
            while line[-1].height > height:
                line.append(await self.parent(line[-1]))
                if len(line) % _RUN == 0:
                    await asyncio.sleep(0)
            on_chain = {tipset.key for tipset in line}
            for node, tipset in hints:
                if tipset.key not in on_chain:
                    self._lies.note(node, f"the tipset at epoch {tipset.height} is not on the head's chain")
            below = await super().row(line[-1].key) or self._linked.get(line[-1].key)
            held = await self.held(bottom.key)
            for tipset in reversed(line):
                if tipset is not line[-1] or below is None:
                    below = row_of(tipset, below, held if tipset is bottom else 0)
                self._linked[tipset.key] = below
                self._linked_keys[tipset.key.cid] = tipset.key
                if tipset.height:
                    self._posts[tipset.parents] = (tipset.parent_state_root, tipset.parent_message_receipts)

    async def _bottom(self, anchor: Tipset, height: int) -> Tipset | None:
        """The lowest ancestor that rows lead to; None where they lead down to `height`. Errors: NotHeld."""
        key, at = anchor.key, anchor.height
        while at > height:
            row = await self.row(key)
            if row is None or (row.parent_height < 0 and row.height > 0):
                return await self._load(key, at)
            lower = [(row.parent_height, row.parent), *row.skips]
            # the farthest that does not pass the epoch, else the parent, which does
            at, key = min([one for one in lower if one[0] >= height] or lower[:1])
        return None

    async def _fetch_ahead(self, anchor: Tipset, bottom: Tipset, height: int) -> list[tuple[str, Tipset]]:
        """Have the headers from `bottom` down to an epoch in memory, many at once, as far as the nodes' hints lead.

        Returns the hints.
        """
        starts = range(bottom.height - _SEGMENT, height, -_SEGMENT)
        places = asyncio.Semaphore(_SEGMENTS_AT_ONCE)
        hints: list[tuple[str, Tipset]] = []

        async def fetch(epoch: int) -> None:
            async with places:
                try:
                    node, tipset = await self._hint(anchor, epoch)
                    hints.append((node, tipset))
                    while tipset.height > max(height, epoch - _SEGMENT):
                        tipset = await self.parent(tipset)
                except (NotHeld, StoreError) as error:
                    # whoever walks the chain is told
                    log.debug("headers are not fetched ahead: %s", error)

        async with asyncio.TaskGroup() as tasks:
            for epoch in starts:
                tasks.create_task(fetch(epoch))
        return hints

    # --- what nodes say ----------------------------------------------------------------------------------------

    async def _hint(self, anchor: Tipset, height: int) -> tuple[str, Tipset]:
        """The first tipset at or after an epoch of `anchor`'s chain, as a node says; the node. Errors: NotHeld."""
        asked = [height, key_json(anchor.key)]
        async for node, answer in self._ask("Filecoin.ChainGetTipSetAfterHeight", asked, anchor):
            try:
                tipset = await self.tipset(TipsetKey.of(parse(cid["/"]) for cid in answer["Cids"]))
                if orjson.loads(self._encode(lotus_json.tipset(tipset))) != answer:
                    raise BadObject(f"its CIDs are those of {tipset.key}")
                if not height <= tipset.height <= anchor.height:
                    raise BadObject(f"it lies at epoch {tipset.height}")
                if tipset.height > height and (await self.parent(tipset)).height >= height:
                    raise BadObject(f"its parent lies at or after epoch {height} too")
            except (BadCid, BadObject, Missing, NotHeld, KeyError, TypeError, ValueError) as error:
                self._lies.note(node, f"the tipset at or after epoch {height}: {error}")
                continue
            except StoreError as error:
                log.info("%s names the tipset at or after epoch %d: %s", node, height, error)
                continue
            return node, tipset
        raise NotHeld(f"the chain at epoch {height}")

    async def _claimed(self, anchor: Tipset, height: int, previous: bool) -> Tipset:
        """The ancestor at an epoch that is too deep to be linked, by a node's word. Errors: NotHeld."""
        first = height + 1 if previous else height
        key = self._claims.get((anchor.key, first))
        tipset = (await self._hint(anchor, first))[1] if key is None else await self._load(key, first)
        self._claims[anchor.key, first] = tipset.key
        return await self.parent(tipset) if previous else tipset
