"""Closes loose objects: an object is closed when everything under it is held, and not before.

The walk is iterative. It takes a few hundred objects at a time off a stack, so that one read of the store serves many
of them. Its memory is bounded by batch × depth × links of an object, whatever the size of the tree. It stops at closed
objects. It fetches nothing: when an object is absent, everything above it stays loose.

The walk first searches the bytes of an object for links. This search finds every link, and sometimes bytes inside a
byte string that look like one. When all of them are held, the object can be closed. When one is absent, the walk
decodes the object and counts only its real links.

The walk remembers what the same import has just stored, up to a limit, and does not ask the store for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from blockstore.bulk_load import close_objects
from blockstore.car.closed_order import links_by_bytes
from blockstore.cid import DAG_CBOR, Cid
from blockstore.errors import Missing
from blockstore.store import Held, Store
from leader_bridge.imports.recent_objects import Recent
from leader_bridge.imports.undecided import Undecided
from leader_bridge.store.mirror import is_walked, walked_links

_BATCH: Final = 256
#: multihashes gathered before they are marked closed
_FLUSH: Final = 20_000
_MISSING_SAID: Final = 100


def possible_links(cid: bytes, data: bytes, actor_code: bool = False) -> Sequence[bytes]:
    """The CIDs that a walk follows from this object. Some may be no links, and one may come twice."""
    if cid[:2] != b"\x01\x71" and Cid(cid).codec != DAG_CBOR:
        return ()
    found = links_by_bytes(data)
    return walked_links(Cid(cid), data, actor_code) if found is None else found


def _multihash(cid: bytes) -> bytes:
    return cid[2:] if cid[0] == 1 and cid[1] < 0x80 else Cid(cid).multihash


class _Open:
    """A loose object of the walk. It waits for the objects below it."""

    __slots__ = ("cid", "failed", "parents", "waits")

    def __init__(self, cid: bytes) -> None:
        self.cid = cid
        self.parents: list[_Open] = []
        #: objects below it that are not finished; -1 until it was read
        self.waits = -1
        #: CIDs below it that cannot be closed
        self.failed: list[bytes] = []


@dataclass(slots=True)
class Closed:
    """The result of a walk: the roots that stay open, some of the missing objects, the number of objects closed."""

    failed: set[Cid] = field(default_factory=set)
    missing: list[Cid] = field(default_factory=list)
    closed: int = 0


class Closer:
    """Closes trees. It remembers what is closed and what cannot be closed, so that it asks the store once.

    `actor_code`: whether the code of built-in actors must be held too. `batch`: objects of one read.
    `remembered` bounds each memory, in entries of about 150 bytes. `recent`: what was just stored.
    """

    def __init__(
        self,
        store: Store | Undecided,
        *,
        actor_code: bool = False,
        batch: int = _BATCH,
        remembered: int = 500_000,
        recent: Recent | None = None,
    ) -> None:
        self._store = store
        self._recent = recent
        self._actor_code = actor_code
        self._batch = batch
        self._remembered = remembered
        self._failed: set[bytes] = set()
        #: closed, or in line to be: those in `_ready` come before whatever links to them
        self._known: set[bytes] = set()
        self._ready: list[bytes] = []
        self._open: dict[bytes, _Open] = {}
        self._stack: list[_Open] = []
        self._result = Closed()

    async def close(self, roots: Iterable[Cid]) -> Closed:
        """Close `roots` and everything under them, as far as possible. An absent root stays open. Errors: BadObject."""
        self._result = result = Closed()
        wanted = [bytes(cid) for cid in dict.fromkeys(roots) if is_walked(cid)]
        if len(self._failed) > self._remembered:
            self._failed.clear()
        asked = [cid for cid in wanted if cid not in self._known and cid not in self._failed]
        for cid, held in (await self._held(asked)).items():
            if held == Held.ABSENT:
                self._note_missing(cid)
                self._failed.add(cid)
            elif held == Held.LOOSE:
                self._push(cid)
        while self._stack:
            await self._step()
        await self._flush()
        result.failed = {Cid(cid) for cid in wanted if cid in self._failed}
        return result

    def _push(self, cid: bytes) -> _Open:
        node = self._open[cid] = _Open(cid)
        self._stack.append(node)
        return node

    def _note_missing(self, cid: bytes) -> None:
        if len(self._result.missing) < _MISSING_SAID:
            self._result.missing.append(Cid(cid))

    async def _held(self, cids: Sequence[bytes]) -> dict[bytes, Held]:
        held: dict[bytes, Held] = {}
        if self._recent is not None:
            held = {cid: how for cid in cids if (how := self._recent.held(_multihash(cid)))}
        asked = [cid for cid in cids if cid not in held] if held else cids
        if asked:
            answers = await self._store.held_many([_multihash(cid) for cid in asked])
            held.update(zip(asked, answers, strict=True))
        self._known.update(cid for cid, how in held.items() if how == Held.CLOSED)
        return held

    async def _step(self) -> None:
        """Read one batch of objects off the stack and look at their links."""
        nodes = self._stack[-self._batch :]
        del self._stack[-self._batch :]
        known, opened, failed = self._known, self._open, self._failed
        found: list[tuple[_Open, bytes, Iterable[bytes]]] = []
        asked: dict[bytes, None] = {}
        for node, raw in zip(nodes, await self._raws(nodes), strict=True):
            new = {link: None for link in possible_links(node.cid, raw, self._actor_code) if link not in known}
            found.append((node, raw, new))
            asked.update((link, None) for link in new if link not in opened and link not in failed)
        held = await self._held(list(asked))
        done: list[_Open] = []
        for node, raw, possible in found:
            links = possible
            if any(link in failed or held.get(link) == Held.ABSENT for link in links):
                # only true links count: one inside a byte string, or to code that need not be held, does not
                links = [bytes(link) for link in walked_links(Cid(node.cid), raw, self._actor_code)]
            node.waits = 0
            for link in links:
                if link in known:
                    continue
                if link in failed:
                    node.failed.append(link)
                elif held.get(link) == Held.ABSENT:
                    self._note_missing(link)
                    node.failed.append(link)
                else:
                    child = opened.get(link) or self._push(link)
                    child.parents.append(node)
                    node.waits += 1
            if not node.waits:
                done.append(node)
        for node in done:
            await self._finish(node)
        if len(self._ready) >= _FLUSH:
            await self._flush()

    async def _raws(self, nodes: Sequence[_Open]) -> list[bytes]:
        found: dict[bytes, bytes | None] = {}
        if self._recent is not None:
            found = {node.cid: raw for node in nodes if (raw := self._recent.get(_multihash(node.cid))) is not None}
        asked = [node.cid for node in nodes if node.cid not in found]
        if asked:
            found.update(zip(asked, await self._store.get_many([_multihash(cid) for cid in asked]), strict=True))
        out: list[bytes] = []
        for node in nodes:
            raw = found[node.cid]
            if raw is None:
                raise Missing(Cid(node.cid))
            out.append(raw)
        return out

    async def _finish(self, first: _Open) -> None:
        """Close an object, or fail it, when everything below it is known. Then look at its parents."""
        waiting = [first]
        while waiting:
            node = waiting.pop()
            failed = bool(node.failed) and await self._fails(node)
            if failed:
                self._failed.add(node.cid)
            else:
                self._ready.append(node.cid)
                self._known.add(node.cid)
            del self._open[node.cid]
            for parent in node.parents:
                parent.waits -= 1
                if failed:
                    parent.failed.append(node.cid)
                if not parent.waits:
                    waiting.append(parent)

    async def _fails(self, node: _Open) -> bool:
        """Whether a real link of the object leads to something that cannot be closed."""
        (raw,) = await self._raws([node])
        true = set(walked_links(Cid(node.cid), raw, self._actor_code))
        return any(cid in true for cid in node.failed)

    async def _flush(self) -> None:
        ready, self._ready = self._ready, []
        if ready:
            put: list[bytes] = []
            others: list[bytes] = []
            for cid in ready:
                multihash = _multihash(cid)
                stored_here = self._recent is not None and self._recent.closes(multihash)
                (put if stored_here else others).append(multihash)
            # all that is below them is durable: marks may come in any order, and a crash between leaves truth
            await close_objects(self._store, put, others)
            self._result.closed += len(ready)
        if len(self._known) > self._remembered:
            self._known.clear()


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
