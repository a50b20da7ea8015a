"""The objects of a snapshot, in the order in which Lotus writes them.

From the head down, block by block: the header, the tree of its messages, the state before it, each tree parents first
and left to right, no object twice. The genesis brings the object that it names as its parent, and its state. Receipts
and events are left out. Source: Lotus `chain/store/snapshot.go`, `WalkSnapshot`.

Objects are read some hundreds at a time, ahead of their turn: the headers of some hundred epochs; what a few headers
name, level by level; and where that did not reach, what is next in the order and what is below it. All that is read
ahead is written later: so nothing is read twice, and what waits is bounded.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from blockstore.car.closed_order import links_by_bytes
from blockstore.cid import DAG_CBOR, IDENTITY, RAW, Cid, read_uvarint, verify
from blockstore.store import HEIGHTS, Store
from chain.block import BlockHeader, decode_header
from chain.errors import NotHeld
from chain.genesis_parent import GENESIS_PARENT, GENESIS_PARENT_MULTIHASH
from chain.index.chain_index import HEIGHT_BUCKET
from chain.ipld.dag_cbor import links
from chain.tipset import Tipset, TipsetKey
from leader_bridge.exports.scope import Scope
from leader_bridge.exports.seen_objects import SeenObjects

#: objects of one read
READ: Final = 256
#: bytes handed on at a time
RUN_BYTES: Final = 1 << 20
#: epochs whose headers are read together, and those whose messages and states are
_HEADER_EPOCHS: Final = 256
_EPOCHS_AHEAD: Final = 16
#: the most rows of tipsets, forks too, that are read for them
_TIPSETS: Final = 8192
#: epochs without a tipset that may follow each other before rows are taken to be missing
_NULL_ROUNDS: Final = 64
#: objects read ahead: of these epochs; and of a tree, where those did not reach
_AHEAD: Final = 16_384
_BELOW: Final = 2048
_CBOR: Final = 0x51
_MARK: Final = b"\xd8\x2a"

Objects = list[tuple[bytes, bytes]]
#: called before each read
Pause = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Depths:
    """How far down a walk takes what: states above an epoch; messages and headers from an epoch on."""

    states_above: int
    messages_from: int
    stop: int

    def has_state(self, header: BlockHeader) -> bool:
        """The state of the genesis is always taken."""
        return header.height == 0 or header.height > self.states_above

    def roots(self, header: BlockHeader) -> list[bytes]:
        """What is taken below a header."""
        roots: list[bytes] = [header.messages] if header.height >= self.messages_from else []
        return [*roots, header.parent_state_root] if self.has_state(header) else roots


def is_exported(cid: bytes) -> bool:
    """Whether an object is part of snapshots: CBOR or raw, and not within its own CID."""
    if cid[:4] == b"\x01\x71\xa0\xe4":
        return True
    cid = Cid(cid)
    return cid.codec in (DAG_CBOR, RAW, _CBOR) and read_uvarint(cid.multihash, 0)[0] != IDENTITY


async def _no_pause() -> None:
    return


class SnapshotWalk:
    """Walks once. `height`: the epoch that the walk has reached, once it has begun.

    Every object is verified by its hash. Errors of `runs`: NotHeld, HashMismatch, BadObject, StoreUnavailable.
    """

    def __init__(
        self,
        store: Store,
        scope: Scope,
        seen: SeenObjects,
        *,
        pause: Pause = _no_pause,
        read: int = READ,
        run_bytes: int = RUN_BYTES,
    ) -> None:
        self._store = store
        self._scope = scope
        self._seen = seen
        self._pause = pause
        self._read = read
        self._run_bytes = run_bytes
        #: read ahead, and so not seen yet: bytes, and links as far as they were new
        self._ahead: dict[bytes, tuple[bytes, Sequence[Cid]]] = {}
        #: headers of all blocks at the epochs that come next, forks' too
        self._headers: dict[bytes, bytes] = {}
        self._headers_from = 0
        self._ahead_from = -1
        self._run: Objects = []
        self._size = 0
        self.height = 0

    async def runs(self) -> AsyncIterator[Objects]:
        """(CID, bytes) pairs, about `run_bytes` of them at a time."""
        if self._scope.base is not None:
            async for _ in self._chain(self._scope.base, self._scope.base_states, counting=True):
                self._run, self._size = [], 0
            await self._count_genesis()
            self._run, self._size = [], 0
        async for _ in self._chain(self._scope.head, self._scope.state_roots, counting=False):
            run, self._run, self._size = self._run, [], 0
            yield run
        if self._run:
            yield self._run

    async def _chain(self, head: Tipset, state_roots: int, *, counting: bool) -> AsyncIterator[None]:
        """Walk from a head down; it stops whenever a run is full.

        `counting`: the base of a difference, as far down as its states. The chain below it is known to be held there.
        """
        scope = self._scope
        self.height = head.height
        self._headers, self._headers_from, self._ahead_from = {}, head.height + 1, -1
        self._ahead.clear()
        depths = _Depths(head.height - state_roots, scope.messages_from, scope.lowest)
        if counting:
            bottom = depths.states_above + 1
            depths = replace(depths, messages_from=max(depths.messages_from, bottom), stop=max(depths.stop, bottom))
        elif scope.base is not None:
            depths = replace(depths, stop=scope.base.height + 1)
        waiting: deque[Cid] = deque(head.key.cids)
        while waiting:
            cid = waiting.popleft()
            if cid in self._seen:
                continue
            header = await self._header(cid)
            if header.height < depths.stop:
                continue
            self._seen.add(cid)
            self.height = header.height
            self._emit(cid, self._headers.pop(cid))
            await self._read_epochs(header, depths)
            if header.height >= depths.messages_from:
                async for _ in self._tree(header.messages, f"messages of epoch {header.height}"):
                    yield
            if header.height > 0:
                waiting.extend(header.parents)
            else:
                for parent in header.parents:
                    if self._seen.add(parent):
                        await self._genesis_parent(parent)
            if depths.has_state(header):
                async for _ in self._tree(header.parent_state_root, f"state of epoch {header.height}"):
                    yield
            elif self._size >= self._run_bytes:
                yield

    async def _count_genesis(self) -> None:
        """A snapshot of the base holds the state of the genesis, and the next ones share some of it."""
        if self._scope.genesis is None or self._scope.lowest:
            return
        with contextlib.suppress(NotHeld):  # a difference can be made without
            (raw,) = await self._objects([self._scope.genesis], "chain at epoch 0")
            header = decode_header(self._scope.genesis, raw)
            async for _ in self._tree(header.parent_state_root, "state of epoch 0"):
                self._run, self._size = [], 0

    def _emit(self, cid: bytes, raw: bytes) -> None:
        self._run.append((cid, raw))
        self._size += len(raw) + 40

    # --- headers and messages ----------------------------------------------------------------------

    async def _header(self, cid: Cid) -> BlockHeader:
        raw = self._headers.get(cid)
        if raw is None and self.height - self._headers_from < _NULL_ROUNDS:
            await self._read_headers()
            raw = self._headers.get(cid)
        if raw is None:
            # no row names it
            (raw,) = await self._objects([cid], f"headers below epoch {self.height}")
            self._headers[cid] = raw
        return decode_header(cid, raw)

    async def _read_headers(self) -> None:
        """Read the headers of the next epochs, by the rows that list all tipsets of an epoch."""
        high = min(self.height, self._headers_from - 1)
        low = max(0, high - _HEADER_EPOCHS + 1)
        if high < 0:
            return
        self._headers_from = low
        cids: dict[bytes, None] = {}
        for bucket in range(low // HEIGHT_BUCKET, high // HEIGHT_BUCKET + 1):
            start = max(low, bucket * HEIGHT_BUCKET).to_bytes(8, "big")
            end = min(high + 1, (bucket + 1) * HEIGHT_BUCKET).to_bytes(8, "big")
            partition = bucket.to_bytes(8, "big")
            for _, key in await self._store.scan(HEIGHTS, partition, start=start, end=end, limit=_TIPSETS):
                cids.update((cid, None) for cid in TipsetKey(key).cids)
        asked = [cid for cid in cids if cid not in self._seen]
        self._headers = {}
        for start_at in range(0, len(asked), self._read):
            part = asked[start_at : start_at + self._read]
            await self._pause()
            for cid, raw in zip(part, await self._store.get_many([cid[2:] for cid in part]), strict=True):
                if raw is not None:
                    verify(cid[2:], raw)
                    self._headers[cid] = raw

    async def _read_epochs(self, first: BlockHeader, depths: _Depths) -> None:
        """Read what the headers of the next epochs name, as far as those are at hand and there is room."""
        if 0 <= self._ahead_from <= first.height or not depths.roots(first):
            return
        self._ahead_from = low = max(depths.stop, first.height - _EPOCHS_AHEAD + 1)
        roots = depths.roots(first)
        level: Sequence[bytes] = first.parents if first.height else ()
        while level:
            headers = [decode_header(Cid(cid), self._headers[cid]) for cid in level if cid in self._headers]
            headers = [header for header in headers if header.height >= low]
            roots += [root for header in headers for root in depths.roots(header)]
            level = list(dict.fromkeys(parent for header in headers if header.height for parent in header.parents))
        roots = [root for root in roots if root not in self._seen]
        await self._expand(roots, _AHEAD, f"messages and states of epochs {low} to {first.height}")

    async def _genesis_parent(self, cid: Cid) -> None:
        if cid.multihash == GENESIS_PARENT_MULTIHASH:
            raw = GENESIS_PARENT
        else:
            (raw,) = await self._objects([cid], "what the genesis names as its parent")
        self._emit(cid, raw)

    # --- trees -------------------------------------------------------------------------------------

    async def _tree(self, root: Cid, what: str) -> AsyncIterator[None]:
        """Everything under a root that was not seen, parents first; it stops whenever a run is full."""
        seen, ahead = self._seen, self._ahead
        stack: list[bytes] = [root]
        while stack:
            cid = stack.pop()
            entry = ahead.pop(cid, None)
            if entry is None:
                if not is_exported(cid) or cid in seen:
                    continue
                await self._read_ahead(cid, stack, what)
                entry = ahead.pop(cid)
            seen.add_new(cid)
            raw, found = entry
            self._run.append((cid, raw))
            self._size += len(raw) + 40
            stack.extend(reversed(found))
            if self._size >= self._run_bytes:
                yield

    async def _read_ahead(self, first: bytes, stack: Sequence[bytes], what: str) -> None:
        """Read an object, those that come next on the stack, and what is below them."""
        found = {first: None}
        for cid in stack[: -4 * self._read - 1 : -1]:
            if cid not in self._ahead and cid not in self._seen:
                found[cid] = None
                if len(found) >= self._read:
                    break
        await self._expand(list(found), _BELOW, what)

    async def _expand(self, level: Sequence[bytes], most: int, what: str) -> None:
        """Read objects that are new, and what is new below them, level by level, until `most` are read."""
        ahead = self._ahead
        left = most
        while level and left > 0:
            asked = [cid for cid in dict.fromkeys(level) if cid not in ahead and is_exported(cid)][:left]
            left -= len(asked)
            below: list[bytes] = []
            for at in range(0, len(asked), self._read):
                part = asked[at : at + self._read]
                for cid, raw in zip(part, await self._objects(part, what), strict=True):
                    found = self._new_links(cid, raw)
                    ahead[cid] = (raw, found)
                    below += found
            level = below

    def _new_links(self, cid: bytes, raw: bytes) -> Sequence[Cid]:
        """The links of an object that are new."""
        if _MARK not in raw or (cid[:2] != b"\x01\x71" and Cid(cid).codec != DAG_CBOR):
            return ()
        # mostly an object with many links of which few are new: told by the bytes in a third of the time
        seen = self._seen
        possible = links_by_bytes(raw)
        if possible is None:
            return [link for link in links(raw) if link not in seen]
        new = {link for link in possible if link not in seen}
        return [link for link in links(raw) if link in new] if new else ()

    async def _objects(self, cids: Sequence[bytes], what: str) -> list[bytes]:
        """Objects that must be held, verified. `what` names them in an error."""
        multihashes = [cid[2:] if cid[0] == 1 and cid[1] < 0x80 else Cid(cid).multihash for cid in cids]
        await self._pause()
        out: list[bytes] = []
        for cid, multihash, raw in zip(cids, multihashes, await self._store.get_many(multihashes), strict=True):
            if raw is None:
                raise NotHeld(f"object {Cid(cid)} of the {what}")
            verify(multihash, raw)
            out.append(raw)
        return out
