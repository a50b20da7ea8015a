"""Collects what a range of tipsets and a list of objects ask for, up to the soft limit of an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from blockstore.car.writer import section_start
from blockstore.cid import DAG_CBOR, RAW, Cid
from blockstore.errors import Missing
from chain.errors import NotHeld
from chain.index.chain_index import ChainIndex
from chain.ipld.dag_cbor import links
from chain.tipset import Tipset, TipsetKey
from rpc.server.ranges.wire import CAR_START, HARD_BYTES, MESSAGES, RECEIPTS, SOFT_BYTES

#: objects that are read at once
_AT_ONCE: Final = 256
#: of a list of any objects, which may be large
_PAGE: Final = 64
#: a CID is of this codec where only its multihash is known
_DAG_CBOR: Final = b"\x01\x71"


class Objects(Protocol):
    """Where objects are read: the store, and the archives below it."""

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        """As `Store.get_many`."""


class TooLarge(Exception):
    """One tipset alone is larger than an answer may be."""


@dataclass(slots=True)
class Bundle:
    """An answer in the making. `not_held`: epochs, or places in the list that was asked for."""

    body: bytearray = field(default_factory=lambda: bytearray(CAR_START))
    not_held: list[int] = field(default_factory=list)
    objects: int = 0

    @property
    def is_full(self) -> bool:
        """Whether nothing more is added."""
        return len(self.body) >= SOFT_BYTES

    def add(self, cid: bytes, data: bytes) -> None:
        """One object."""
        self.body += section_start(cid, len(data))
        self.body += data
        self.objects += 1


async def bundle_objects(objects: Objects, multihashes: Sequence[bytes]) -> Bundle:
    """What is held of a list. Errors: StoreError."""
    out = Bundle()
    for start in range(0, len(multihashes), _PAGE):
        if out.is_full:
            break
        part = multihashes[start : start + _PAGE]
        for at, (multihash, data) in enumerate(zip(part, await objects.get_many(part), strict=True), start):
            if data is None:
                out.not_held.append(at)
            elif not out.is_full:
                out.add(_DAG_CBOR + multihash, data)
    return out


async def bundle_headers(index: ChainIndex, objects: Objects, head: TipsetKey, low: int, high: int) -> Bundle:
    """The headers of a range, from the top down, and of the first tipset below it. Errors: NotHeld, StoreError."""
    out = Bundle()
    async for tipset in _down(index, head, high):
        cids = tipset.key.cids
        for cid, data in zip(cids, await objects.get_many([cid.multihash for cid in cids]), strict=True):
            if data is None:
                raise NotHeld(f"the chain at epoch {tipset.height}")
            out.add(cid, data)
        if tipset.height < low or out.is_full:
            break
    return out


async def bundle_contents(
    index: ChainIndex, objects: Objects, head: TipsetKey, low: int, high: int, parts: frozenset[str]
) -> Bundle:
    """The messages, receipts and events that tipsets of a range name, the oldest first; whole tipsets only.

    Errors: NotHeld (the chain), TooLarge, StoreError.
    """
    tipsets: list[Tipset] = []
    async for tipset in _down(index, head, high):
        if tipset.height < low:
            break
        tipsets.append(tipset)
    out = Bundle()
    seen: set[bytes] = set()
    for tipset in reversed(tipsets):
        roots: list[Cid] = []
        if MESSAGES in parts:
            roots += [block.messages for block in tipset.blocks]
        if RECEIPTS in parts:
            roots.append(tipset.parent_message_receipts)
        found: list[tuple[Cid, bytes]] = []
        size = 0
        is_held = True
        async for cid, data in _below(objects, roots, seen):
            if data is None:
                is_held = False
                continue
            found.append((cid, data))
            size += len(data)
            if size > HARD_BYTES:
                raise TooLarge(f"epoch {tipset.height} is larger than {HARD_BYTES} bytes")
        if len(out.body) > len(CAR_START) and len(out.body) + size > HARD_BYTES:
            break
        if not is_held:
            out.not_held.append(tipset.height)
        for cid, data in found:
            out.add(cid, data)
        if out.is_full:
            break
    return out


async def _down(index: ChainIndex, head: TipsetKey, high: int) -> AsyncIterator[Tipset]:
    """The tipset at or below epoch `high`, and its ancestors. Errors: NotHeld."""
    try:
        tipset = await index.at_height(await index.tipset(head), high)
    except Missing:
        raise NotHeld("the chain of that head") from None
    while True:
        yield tipset
        if tipset.height == 0:
            return
        tipset = await index.parent(tipset)


async def _below(objects: Objects, roots: Sequence[Cid], seen: set[bytes]) -> AsyncIterator[tuple[Cid, bytes | None]]:
    """Everything under some roots that was not given yet; None for what is not held."""
    waiting = [root for root in dict.fromkeys(roots) if _is_stored(root) and root.multihash not in seen]
    seen.update(root.multihash for root in waiting)
    while waiting:
        part, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
        for cid, data in zip(part, await objects.get_many([cid.multihash for cid in part]), strict=True):
            yield cid, data
            if data is None or cid.codec != DAG_CBOR:
                continue
            for link in links(data):
                if _is_stored(link) and link.multihash not in seen:
                    seen.add(link.multihash)
                    waiting.append(link)


def _is_stored(cid: Cid) -> bool:
    return cid.codec in (DAG_CBOR, RAW) and not cid.is_identity
