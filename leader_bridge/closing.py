"""Closing what is stored loose: an object is closed when everything under it is held, and not before.

The walk is iterative and takes a few hundred objects at a time off a stack, so one store read serves many
and memory is bounded by (batch × depth × links an object), whatever the size of the tree. It stops at
closed objects. It does not fetch: what is absent makes everything above it stay loose.

Links are first looked for by their bytes: that finds every true link, and may find some that merely stand
inside a byte string. All of them held is more than enough for closing; where one is not, the object is
decoded, and only its true links count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from blockstore.cid import DAG_CBOR, Cid
from blockstore.errors import Missing
from blockstore.store import Held, Store
from leader_bridge.mirror import is_walked, walked_links

_MARK: Final = b"\xd8\x2a"
#: dag-cbor and raw blake2b-256 links as encoded, overlapping ones too
_LINK: Final = re.compile(rb"(?=\xd8\x2a\x58\x27\x00(\x01[\x71\x55]\xa0\xe4\x02\x20.{32}))", re.DOTALL)
#: links to unsealed and sealed sector commitments
_COMMITMENTS: Final = (b"\xd8\x2a\x58\x28\x00\x01\x81\xe2\x03", b"\xd8\x2a\x58\x29\x00\x01\x82\xe2\x03")
_BATCH: Final = 256
#: multihashes gathered before they are marked closed
_FLUSH: Final = 20_000
_MISSING_SAID: Final = 100


def possible_links(cid: Cid, data: bytes, actor_code: bool = False) -> tuple[list[Cid], bool]:
    """(links of an object that a walk follows, each once; whether that is exact or may be too many)."""
    if cid[:2] != b"\x01\x71" and cid.codec != DAG_CBOR:
        return [], True
    marks = data.count(_MARK)
    if not marks:
        return [], True
    found: list[bytes] = _LINK.findall(data)
    if len(found) + data.count(_COMMITMENTS[0]) + data.count(_COMMITMENTS[1]) == marks:
        return [Cid(link) for link in dict.fromkeys(found)], False
    return walked_links(cid, data, actor_code), True


class _Open:
    """An object of the walk that is loose, and waits for those below it."""

    __slots__ = ("cid", "failed", "parents", "read", "waits")

    def __init__(self, cid: Cid) -> None:
        self.cid = cid
        self.parents: list[_Open] = []
        self.waits = 0
        self.read = False
        #: multihashes below that cannot be closed
        self.failed: list[bytes] = []


@dataclass(slots=True)
class Closed:
    """What a walk did: which roots stay open, some of what is missing, how many objects were closed."""

    failed: set[Cid] = field(default_factory=set)
    missing: list[Cid] = field(default_factory=list)
    closed: int = 0


class Closer:
    """Closes trees. One instance remembers what could not be closed, so that no tree is walked for it twice.

    `actor_code`: whether the code of built-in actors must be held too. `remembered` bounds that memory, in
    entries of about 100 bytes.
    """

    def __init__(
        self, store: Store, *, actor_code: bool = False, batch: int = _BATCH, remembered: int = 2_000_000
    ) -> None:
        self._store = store
        self._actor_code = actor_code
        self._batch = batch
        self._remembered = remembered
        self._failed: set[bytes] = set()
        self._ready: list[bytes] = []
        self._ready_set: set[bytes] = set()
        self._open: dict[bytes, _Open] = {}
        self._stack: list[_Open] = []
        self._result = Closed()

    async def close(self, roots: Iterable[Cid]) -> Closed:
        """Close what can be closed under `roots`, and them. A root that is absent fails. Errors: BadObject."""
        self._result = result = Closed()
        wanted = [cid for cid in dict.fromkeys(roots) if is_walked(cid)]
        if len(self._failed) > self._remembered:
            self._failed.clear()
        for cid, held in zip(wanted, await self._held(wanted), strict=True):
            if held == Held.ABSENT:
                self._note_missing(cid)
                self._failed.add(cid.multihash)
            elif held == Held.LOOSE and cid.multihash not in self._failed:
                self._push(cid)
        while self._stack:
            await self._step()
        await self._flush()
        result.failed = {cid for cid in wanted if cid.multihash in self._failed}
        return result

    def _push(self, cid: Cid) -> _Open:
        node = _Open(cid)
        self._open[cid.multihash] = node
        self._stack.append(node)
        return node

    def _note_missing(self, cid: Cid) -> None:
        if len(self._result.missing) < _MISSING_SAID:
            self._result.missing.append(cid)

    async def _held(self, cids: Sequence[Cid]) -> list[Held]:
        known = [Held.CLOSED if cid.multihash in self._ready_set else None for cid in cids]
        asked = [cid.multihash for cid, held in zip(cids, known, strict=True) if held is None]
        answers = iter(await self._store.held_many(asked))
        return [next(answers) if held is None else held for held in known]

    async def _step(self) -> None:
        """Read one batch off the stack, and see what their links lead to."""
        nodes = self._stack[-self._batch :]
        del self._stack[-self._batch :]
        raws = await self._store.get_many([node.cid.multihash for node in nodes])
        found: list[tuple[_Open, list[Cid]]] = []
        for node, raw in zip(nodes, raws, strict=True):
            if raw is None:
                raise Missing(node.cid)
            found.append((node, possible_links(node.cid, raw, self._actor_code)[0]))
        asked = list(
            dict.fromkeys(
                link
                for _, links in found
                for link in links
                if link.multihash not in self._open and link.multihash not in self._failed
            )
        )
        held = dict(zip(asked, await self._held(asked), strict=True))
        done: list[_Open] = []
        for (node, links), raw in zip(found, raws, strict=True):
            if any(link.multihash in self._failed or held.get(link) == Held.ABSENT for link in links):
                # only true links count: one inside a byte string, or to code that need not be held, does not
                assert raw is not None
                links = walked_links(node.cid, raw, self._actor_code)
            node.read = True
            for link in links:
                multihash = link.multihash
                if held.get(link) == Held.ABSENT:
                    self._note_missing(link)
                    node.failed.append(multihash)
                elif multihash in self._failed:
                    node.failed.append(multihash)
                elif held.get(link) != Held.CLOSED and multihash not in self._ready_set:
                    child = self._open.get(multihash) or self._push(link)
                    child.parents.append(node)
                    node.waits += 1
            if not node.waits:
                done.append(node)
        for node in done:
            await self._finish(node)
        if len(self._ready) >= _FLUSH:
            await self._flush()

    async def _finish(self, first: _Open) -> None:
        """All that is below a node is known: it is closed, or fails, and then its parents are looked at."""
        waiting = [first]
        while waiting:
            node = waiting.pop()
            multihash = node.cid.multihash
            if node.failed and await self._fails(node):
                self._failed.add(multihash)
            else:
                node.failed.clear()
                self._ready.append(multihash)
                self._ready_set.add(multihash)
            del self._open[multihash]
            for parent in node.parents:
                parent.waits -= 1
                if multihash in self._failed:
                    parent.failed.append(multihash)
                if not parent.waits and parent.read:
                    waiting.append(parent)

    async def _fails(self, node: _Open) -> bool:
        """Whether something that cannot be closed is truly linked to."""
        (raw,) = await self._store.get_many([node.cid.multihash])
        if raw is None:
            raise Missing(node.cid)
        true = {link.multihash for link in walked_links(node.cid, raw, self._actor_code)}
        return any(multihash in true for multihash in node.failed)

    async def _flush(self) -> None:
        ready, self._ready = self._ready, []
        if ready:
            # children come before parents, and a store applies parts in order: a crash between leaves truth
            await self._store.close_many(ready)
            self._result.closed += len(ready)
        self._ready_set.clear()


async def verify_closed(store: Store, root: Cid, *, actor_code: bool = False) -> int:
    """Walk everything under `root`, closed or not, and count the objects. Errors: Missing, naming the first
    that is not held. For tests and checks: it remembers every object it saw."""
    seen = {root.multihash}
    waiting = [root]
    while waiting:
        part = waiting[-1024:]
        del waiting[-1024:]
        for cid, raw in zip(part, await store.get_many([cid.multihash for cid in part]), strict=True):
            if raw is None:
                raise Missing(cid)
            for link in walked_links(cid, raw, actor_code):
                if link.multihash not in seen:
                    seen.add(link.multihash)
                    waiting.append(link)
    return len(seen)
