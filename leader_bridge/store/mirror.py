"""Making everything under a root held, closed: a walk that stores children before parents.

The walk stops at closed objects, reads loose ones locally, and fetches the rest; each is verified by its
hash before it is looked into. An object is closed only when all its children are, so a crash at any moment
leaves a store in which *closed* means what it says.

Not walked: identity CIDs, and commitments to sectors and pieces (told by their codecs). The code of built-in
actors is fetched where `actor_code` says so, but what links to it is closed without it: a node need not hold
it, and no answer is computed from it. Links to code stand in an actor's record of the state tree and in the
manifest, and are told apart by that, so that an EVM contract's bytecode is walked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from blockstore.cid import DAG_CBOR, RAW, Cid
from blockstore.generations import ObjectPlace, objects_of
from blockstore.store import Held, Store
from chain.ipld.dag_cbor import decode, links
from leader_bridge import metrics
from leader_bridge.nodes.sources import Fetched, NoSource

log = logging.getLogger(__name__)

_RAW_PREFIX: Final = b"\x01\x55"
_MARK: Final = b"\xd8\x2a"
#: a walk that misses so many objects asks for no more: the node does not hold this tree
_MISSING_LIMIT: Final = 1000


#: set in tasks that fetch the past: what they fetch is none of a head's
FETCHES_PAST: Final[ContextVar[bool]] = ContextVar("fetches_past", default=False)


class Fetcher(Protocol):
    """Where missing objects come from: `leader_bridge.nodes.sources.Sources`."""

    async def fetch(self, cids: Sequence[Cid]) -> Fetched:
        """Verified objects, and what no node holds. Errors: NoSource."""


def is_walked(cid: Cid) -> bool:
    """Whether a link leads to an object of the chain: dag-cbor or raw, and not an identity CID."""
    if cid[:4] == b"\x01\x71\xa0\xe4":
        return True
    return cid.codec in (DAG_CBOR, RAW) and not cid.is_identity


def code_links(value: Any) -> set[bytes]:
    """The links to built-in actors' code in a decoded object: in actor records and in a manifest."""
    found: set[bytes] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend(item.values())
        if not isinstance(item, list):
            continue
        if (
            len(item) in (4, 5)
            and type(item[0]) is bytes
            and item[0][:2] == _RAW_PREFIX
            and type(item[1]) is bytes
            and item[1][:2] == b"\x01\x71"
            and isinstance(item[2], int)
            and type(item[3]) is bytes
        ) or (len(item) == 2 and isinstance(item[0], str) and type(item[1]) is bytes and item[1][:2] == _RAW_PREFIX):
            found.add(item[0] if type(item[0]) is bytes else item[1])
        else:
            waiting.extend(item)
    return found


def split_links(cid: Cid, data: bytes) -> tuple[list[Cid], list[Cid]]:
    """(links of an object that a walk must follow, links to actors' code), each once. Errors: BadObject."""
    if _MARK not in data or cid[:2] == _RAW_PREFIX or cid.codec != DAG_CBOR:
        return [], []
    found = [link for link in dict.fromkeys(links(data)) if is_walked(link)]
    if not any(link[:2] == _RAW_PREFIX for link in found):
        return found, []
    code = code_links(decode(data))
    return [link for link in found if link not in code], [link for link in found if link in code]


def walked_links(cid: Cid, data: bytes, actor_code: bool = False) -> list[Cid]:
    """The links of an object that a walk follows, each once. Errors: BadObject."""
    must, code = split_links(cid, data)
    return [*must, *code] if actor_code else must


class _Node:
    """One object of a walk that is not closed yet."""

    __slots__ = ("cid", "code", "data", "failed", "loose", "multihash", "parents", "seen", "waits_for")

    def __init__(self, cid: Cid) -> None:
        self.cid = cid
        self.multihash = cid.multihash
        self.data: bytes | None = None
        self.loose = False
        self.seen = False
        self.failed = False
        #: code of an actor: nothing waits for it
        self.code = False
        self.waits_for = 0
        self.parents: list[_Node] = []


@dataclass(slots=True)
class Walked:
    """What a walk did. `failed` are the roots that could not be closed, `missing` what no node holds."""

    failed: set[Cid] = field(default_factory=set)
    missing: list[Cid] = field(default_factory=list)
    fetched: int = 0
    fetched_bytes: int = 0


class Mirror:
    """Walks. `in_flight` batches of `batch` objects are asked for at once; `spill_bytes` bounds the bytes of
    unfinished objects kept in memory (beyond it they are stored loose), `flush_*` what waits to be written.
    """

    def __init__(
        self,
        store: Store,
        sources: Fetcher,
        *,
        in_flight: int = 4,
        batch: int = 256,
        actor_code: bool = False,
        flush_objects: int = 8192,
        flush_bytes: int = 16 << 20,
        spill_bytes: int = 64 << 20,
        missing_object_timeout_seconds: float = 60.0,
    ) -> None:
        self._store = store
        self._sources = sources
        self._in_flight = in_flight
        self._batch = batch
        self._actor_code = actor_code
        #: objects fetched by walks so far
        self.fetched = 0
        #: called with what was fetched for a head
        self.on_fetched: Callable[[Mapping[Cid, bytes]], None] | None = None
        #: code that is stored, or that no node holds: not looked for again (some twenty a network version)
        self._known_code: set[Cid] = set()
        self._flush_objects = flush_objects
        self._flush_bytes = flush_bytes
        self._spill_bytes = spill_bytes
        self._missing_object_timeout_seconds = missing_object_timeout_seconds

    async def close(self, roots: Iterable[Cid], into: ObjectPlace | None = None) -> Walked:
        """Close everything under each root. What could not be had is told, not raised, but for NoSource:
        no node could be asked for `missing_object_timeout_seconds`. `into`: what is written to (None: the store, in
        the generation that is current when the walk begins). Errors: NoSource, StoreError, BadObject.
        """
        return await _Walk(self, into or objects_of(self._store)).run(list(dict.fromkeys(roots)))

    async def read(self, cids: Sequence[Cid]) -> dict[Cid, bytes]:
        """Objects from the store, else from the nodes; nothing is stored. Those nobody holds are left out.

        Errors: NoSource.
        """
        local = await self._store.get_many([cid.multihash for cid in cids])
        found = {cid: data for cid, data in zip(cids, local, strict=True) if data is not None}
        wanted = [cid for cid in cids if cid not in found]
        if wanted:
            found.update((await self.fetch(wanted)).found)
        return found

    async def fetch(self, cids: Sequence[Cid]) -> Fetched:
        """Ask the nodes, waiting out their cool-downs for `missing_object_timeout_seconds` in all. Errors: NoSource."""
        waited = 0.0
        while True:
            try:
                fetched = await self._sources.fetch(cids)
                if self.on_fetched is not None and not FETCHES_PAST.get():
                    self.on_fetched(fetched.found)
                return fetched
            except NoSource as error:
                if waited >= self._missing_object_timeout_seconds:
                    raise
                wait = min(error.wait, 5.0)
                waited += wait
                await asyncio.sleep(wait)


class _Walk:
    """One walk over some roots."""

    def __init__(self, mirror: Mirror, store: ObjectPlace) -> None:
        self._m = mirror
        self._store = store
        self._open: dict[bytes, _Node] = {}
        self._stack: list[_Node] = []
        self._ready: list[_Node] = []
        self._ready_keys: set[bytes] = set()
        self._failed_keys: set[bytes] = set()
        self._ready_bytes = 0
        self._open_bytes = 0
        self._loose: list[tuple[bytes, bytes]] = []
        self._code: set[Cid] = set()
        self._out = Walked()

    async def run(self, roots: list[Cid]) -> Walked:
        nodes = [self._open.setdefault(root.multihash, _Node(root)) for root in roots if is_walked(root)]
        self._stack.extend(reversed(list(dict.fromkeys(nodes))))
        flying: set[asyncio.Task[list[tuple[_Node, Held, bytes | None]]]] = set()
        try:
            while self._stack or flying:
                while self._stack and len(flying) < self._m._in_flight:
                    # newest first: depth before breadth keeps the number of unfinished objects small
                    part = self._stack[-self._m._batch :][::-1]
                    del self._stack[-self._m._batch :]
                    flying.add(asyncio.create_task(self._load(part)))
                done, flying = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    for node, held, data in task.result():
                        self._arrived(node, held, data)
                if len(self._ready) >= self._m._flush_objects or self._ready_bytes >= self._m._flush_bytes:
                    await self._flush()
                if self._open_bytes >= self._m._spill_bytes:
                    await self._spill()
        except BaseException:
            for task in flying:
                task.cancel()
            await asyncio.gather(*flying, return_exceptions=True)
            raise
        await self._flush()
        self._m._known_code |= self._code
        self._out.failed = {node.cid for node in nodes if node.failed}
        return self._out

    async def _load(self, part: list[_Node]) -> list[tuple[_Node, Held, bytes | None]]:
        """How each is held, and its bytes unless it is closed: from here, else from the nodes."""
        held = await self._store.held_many([node.multihash for node in part])
        data: dict[bytes, bytes | None] = {}
        stored: dict[Cid, Held] = {}
        loose = [n.multihash for n, how in zip(part, held, strict=True) if how == Held.LOOSE]
        if loose:
            data.update(zip(loose, await self._store.get_many(loose), strict=True))
        absent = [n.cid for n, how in zip(part, held, strict=True) if how == Held.ABSENT]
        if absent and len(self._out.missing) < _MISSING_LIMIT:
            fetched = await self._m.fetch(absent)
            stored = fetched.stored
            for cid, found in fetched.found.items():
                data[cid.multihash] = found
                self._out.fetched_bytes += len(found)
            self._out.fetched += len(fetched.found)
            self._m.fetched += len(fetched.found)
            metrics.OBJECTS.inc(len(fetched.found))
        return [(n, stored.get(n.cid, how), data.get(n.multihash)) for n, how in zip(part, held, strict=True)]

    def _arrived(self, node: _Node, held: Held, data: bytes | None) -> None:
        node.seen = True
        if held == Held.CLOSED:
            self._finish(node, stored=True)
            return
        if data is None and node.code:
            log.info("no node holds the actor code %s", node.cid)
            self._finish(node, stored=True)
            return
        if data is None:
            node.failed = True
            if len(self._out.missing) < _MISSING_LIMIT:
                self._out.missing.append(node.cid)
            self._finish(node, stored=True)
            return
        node.loose = held == Held.LOOSE
        if not node.loose:
            node.data = data
            self._open_bytes += len(data)
        must, code = split_links(node.cid, data)
        if code and self._m._actor_code:
            self._ask_for_code(code)
        for link in must:
            key = link.multihash
            if key in self._ready_keys:
                continue
            if key in self._failed_keys:
                node.failed = True
                continue
            child = self._open.get(key)
            if child is None:
                child = self._open[key] = _Node(link)
                self._stack.append(child)
            child.parents.append(node)
            node.waits_for += 1
        if not node.waits_for:
            self._finish(node)

    def _ask_for_code(self, code: list[Cid]) -> None:
        for link in code:
            if link not in self._m._known_code and link not in self._code and link.multihash not in self._open:
                self._code.add(link)
                node = self._open[link.multihash] = _Node(link)
                node.code = True
                self._stack.append(node)

    def _finish(self, node: _Node, stored: bool = False) -> None:
        """The object and all below it are known: put it in line to be written, then look at its parents."""
        waiting = [(node, stored)]
        while waiting:
            node, stored = waiting.pop()
            self._open.pop(node.multihash, None)
            if node.data is not None:
                self._open_bytes -= len(node.data)
            if node.failed:
                self._failed_keys.add(node.multihash)
                if node.data is not None:
                    self._loose.append((node.multihash, node.data))
                    self._ready_bytes += len(node.data)
            elif not stored:
                self._ready.append(node)
                self._ready_keys.add(node.multihash)
                self._ready_bytes += len(node.data or b"")
            for parent in node.parents:
                parent.failed = parent.failed or node.failed
                parent.waits_for -= 1
                if parent.waits_for == 0:
                    waiting.append((parent, False))

    async def _flush(self) -> None:
        """Write what is finished, in order: children come before parents."""
        ready, self._ready = self._ready, []
        loose, self._loose = self._loose, []
        at = 0
        while at < len(ready):
            end = at
            known = ready[at].data is None
            while end < len(ready) and (ready[end].data is None) == known:
                end += 1
            part = ready[at:end]
            if known:
                await self._store.close_many([node.multihash for node in part])
            else:
                await self._store.put_many(
                    [(node.multihash, node.data) for node in part if node.data is not None], closed=True
                )
            at = end
        if loose:
            await self._store.put_many(loose, closed=False)
        self._ready_keys.clear()
        self._ready_bytes = 0

    async def _spill(self) -> None:
        """Store the bytes of unfinished objects loose, so that memory stays bounded."""
        nodes = [node for node in self._open.values() if node.data is not None]
        await self._store.put_many(
            [(node.multihash, node.data) for node in nodes if node.data is not None], closed=False
        )
        for node in nodes:
            node.data = None
            node.loose = True
        self._open_bytes = 0
