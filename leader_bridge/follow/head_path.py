"""The way from our head to a node's: reverts down to the common ancestor, then applies up.

What a node pushes is taken as it is when it fits our head. Otherwise `ChainGetPath` is believed as far as block
headers confirm it. A node that does not know our head, after a long disconnect or a fork that it never saw, is asked
where its chain has our ancestors, and for the path from there. Else both sides are walked down by their headers until
they meet.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from blockstore.errors import StoreUnavailable
from blockstore.lookup import Lookup
from blockstore.store import ObjectStore, Store, TipsetRef
from chain.errors import BadObject, ChainError, NotHeld
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.tipset import Tipset, TipsetKey
from leader_bridge.nodes.sources import Source
from leader_bridge.nodes.subscription import APPLY, CURRENT, REVERT, Change, parse_changes, parse_tipset
from leader_bridge.store.tipset_writer import NotAvailableYet, TipsetWriter
from rpc.json_wire import key_json
from rpc.node_errors import BadAnswer, NodeError

log = logging.getLogger(__name__)

#: headers that are read of the nodes, below what the store holds, to tell whether a tipset is an ancestor
_LONGEST_WALK: Final = 2000
#: rows of more epochs are read in batches
_FEW_EPOCHS: Final = 8


@dataclass(frozen=True, slots=True)
class HeadPath:
    """From one head to another: reverts newest first, applies oldest first, and where they part."""

    reverts: tuple[TipsetRef, ...]
    applies: tuple[Tipset, ...]
    common: TipsetRef | None


class PathFinder:
    """Finds paths by the headers that `writer` reads from the store or the nodes.

    `reads`: where objects are read, if not in the store alone.
    """

    def __init__(self, store: Store, writer: TipsetWriter, reads: ObjectStore | None = None) -> None:
        self._writer = writer
        self._lookup = Lookup()
        self._index = ChainIndex(
            store, Objects(reads or store, cache_bytes=1 << 20), cached_rows=4096, cached_tipsets=1024
        )

    async def target_of(self, changes: Sequence[Change]) -> Change:
        """The head that a head change leads to. Not the node's head *now*: frames that wait would lead back.

        Errors: NotAvailableYet, NoSource, BadObject.
        """
        last = changes[-1]
        if last.kind != REVERT:
            return last
        (tipset,) = await self._writer.tipsets([last.key])
        (parent,) = await self._writer.tipsets([tipset.parents])
        return Change(CURRENT, parent.height, parent.key)

    async def fit(self, head: TipsetRef, changes: Sequence[Change]) -> HeadPath | None:
        """A pushed head change as a path, if it goes on from `head`; else None. Errors: as `target_of`."""
        kinds = [change.kind for change in changes]
        count = kinds.count(REVERT)
        if kinds != [REVERT] * count + [APPLY] * (len(kinds) - count):
            return None
        at = head
        reverts: list[TipsetRef] = []
        for change in changes[:count]:
            if change.key != at.key:
                return None
            reverts.append(at)
            at = await self.parent(at)
        applies = await self._writer.tipsets([change.key for change in changes[count:]])
        key = at.key
        for tipset in applies:
            if tipset.parents != key:
                return None
            key = tipset.key
        return HeadPath(tuple(reverts), tuple(applies), at)

    async def parent(self, ref: TipsetRef) -> TipsetRef:
        """The parent of a tipset of ours. Errors: as `target_of`; BadObject for the genesis."""
        row = await self._writer.row(TipsetKey(ref.key))
        if row is not None and row.parent_height >= 0:
            return TipsetRef(row.parent_height, row.parent)
        (tipset,) = await self._writer.tipsets([TipsetKey(ref.key)])
        if tipset.height == 0:
            raise BadObject("the genesis would be reverted: the node is of another chain")
        (parent,) = await self._writer.tipsets([tipset.parents])
        return TipsetRef(parent.height, parent.key)

    async def is_ancestor(self, ref: TipsetRef, head: TipsetRef) -> bool:
        """Whether a tipset is our head or an ancestor of it. Errors: as `target_of`.

        Yes also where it is so old that neither the store nor 2,000 headers of the nodes reach it.
        """
        if ref.height > head.height:
            return False
        (tipset,) = await self._writer.tipsets([TipsetKey(head.key)])
        try:
            return bytes((await self._index.at_height(tipset, ref.height)).key) == bytes(ref.key)
        except NotHeld:
            at = head
        for _ in range(_LONGEST_WALK):
            if at.height <= ref.height:
                return at.key == ref.key
            at = await self.parent(at)
        return True

    async def waypoint(self, source: Source, head: TipsetRef, target: Tipset, epochs: int) -> Tipset | None:
        """A tipset `epochs` above our head on the way to `target`; None where the node cannot say."""
        height = head.height + epochs
        try:
            answer = await source.client.call("Filecoin.ChainGetTipSetByHeight", height, key_json(target.key))
            at, key = parse_tipset(answer)
        except (BadAnswer, NodeError):
            return None
        if at <= head.height:
            return None
        return (await self._writer.tipsets([key]))[0]

    async def find(self, source: Source, head: TipsetRef, target: Tipset, lowest: int = -1) -> HeadPath:
        """The path from our head to `target`; it ends early, below epoch `lowest`, where the chains meet still lower.

        Errors: as `target_of`; BadObject where the chains never meet.
        """
        try:
            path = await self._ask_path(source, head, target)
            if path is not None:
                return path
        except (NodeError, ChainError, NotAvailableYet) as error:
            log.info("%s: no path from ChainGetPath (%s): the common ancestor is searched", source.name, error)
            try:
                path = await self._by_common_ancestor(source, head, target, lowest)
                if path is not None:
                    return path
            except (NodeError, ChainError, NotAvailableYet, StoreUnavailable) as failure:
                log.info("%s: no common ancestor from the node (%s): headers are walked", source.name, failure)
        return await self._walk(head, target, lowest)

    async def _ask_path(self, source: Source, head: TipsetRef, target: Tipset) -> HeadPath | None:
        """The path that the node gives, if block headers confirm it. Errors: NodeError; and as `target_of`."""
        answer = await source.client.call("Filecoin.ChainGetPath", key_json(TipsetKey(head.key)), key_json(target.key))
        changes = parse_changes(answer)
        end = changes[-1].key if changes and changes[-1].kind == APPLY else None
        return await self.fit(head, changes) if end == target.key else None

    async def _by_common_ancestor(
        self, source: Source, head: TipsetRef, target: Tipset, lowest: int
    ) -> HeadPath | None:
        """The path over the newest tipset of ours that the node has among the ancestors of `target`.

        None where it has none from epoch `lowest` on. Errors: NodeError, StoreError; and as `target_of`.
        """
        (top,) = await self._writer.tipsets([TipsetKey(head.key)])
        theirs = key_json(target.key)

        async def is_common(depth: int) -> bool:
            try:
                ours = await self._index.at_height(top, head.height - depth)
            except NotHeld:
                # bounds the search: where the chains part below what is held, reading that tipset fails
                return True
            if ours.height > target.height:
                return False
            answer = await source.client.call("Filecoin.ChainGetTipSetByHeight", ours.height, theirs)
            return parse_tipset(answer)[1] == ours.key

        end = head.height - max(lowest, 0) + 1
        depth = await self._lookup.first(0, end, is_common, reach=1)
        if depth >= end:
            return None
        common = await self._index.at_height(top, head.height - depth)
        if depth > _FEW_EPOCHS:
            await self._index.read_rows(common.height, head.height)
        reverts: list[TipsetRef] = []
        at = top
        while at.key != common.key:
            reverts.append(TipsetRef(at.height, at.key))
            at = await self._index.parent(at)
        ref = TipsetRef(common.height, common.key)
        if common.key == target.key:
            return HeadPath(tuple(reverts), (), ref)
        path = await self._ask_path(source, ref, target)
        return None if path is None else HeadPath((*reverts, *path.reverts), path.applies, path.common)

    async def _walk(self, head: TipsetRef, target: Tipset, lowest: int) -> HeadPath:
        reverts: list[TipsetRef] = []
        applies: list[Tipset] = []
        at, theirs = head, target
        # nobody publishes a path that reverts more than `lowest` allows: it need not be known to its end
        while at.key != theirs.key and at.height >= lowest:
            if theirs.height >= at.height:
                applies.append(theirs)
                if theirs.height == 0:
                    raise BadObject("the node's chain has no tipset in common with ours")
                down = theirs
                (theirs,) = await self._writer.tipsets([down.parents])
                if down.height > at.height:
                    continue
            reverts.append(at)
            at = await self.parent(at)
        applies.reverse()
        return HeadPath(tuple(reverts), tuple(applies), at)
