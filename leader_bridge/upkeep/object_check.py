"""Every object has its hash, and under every closed object everything is held.

The objects are read in the order of the store, a page at a time. It is enough to look one link deep: what a closed
object links to is closed too, so it is looked at in its own turn. A loose object under a closed one is gone below,
until everything is closed.

Memory is bounded: a page, and the multihashes that were found closed of late.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from blockstore.cid import Cid, multihash_of, verify
from blockstore.errors import BadCid, HashMismatch
from blockstore.scan import object_count, object_pages
from blockstore.scan_pages import StoredObject
from blockstore.store import Held, Store
from chain.block import decode_header
from chain.errors import BadObject
from leader_bridge.imports.closing import possible_links
from leader_bridge.imports.progress import Reporter
from leader_bridge.store.mirror import walked_links
from leader_bridge.upkeep.damage import CheckReport, Damage, Kind, cid_under
from leader_bridge.upkeep.pace import Pace
from leader_bridge.upkeep.repair import Mender

#: multihashes that are remembered as closed, about 120 bytes each
_REMEMBERED: Final = 500_000
_BATCH: Final = 256
#: an array of 16 items, as a block header is
_HEADER_START: Final = b"\x90"


def wrong_bytes(one: StoredObject) -> str:
    """What is wrong with the bytes of an object; "" where nothing is."""
    if one.data is None:
        return "its stored bytes cannot be read"
    try:
        verify(one.multihash, one.data)
    except HashMismatch:
        return f"its {len(one.data)} bytes are those of {cid_under(multihash_of(one.data))}"
    except BadCid as error:
        return str(error)
    return ""


def _is_header(data: bytes) -> bool:
    """Whether it is a block header: closed by itself, for what it names is recorded tipset by tipset."""
    if data[:1] != _HEADER_START:
        return False
    try:
        decode_header(Cid(), data)
    except BadObject:
        return False
    return True


def links_below(cid: Cid, data: bytes) -> Sequence[bytes]:
    """CIDs of what a closed object must have below it. Some may be no links: see `is_link`."""
    if _is_header(data):
        return ()
    try:
        return possible_links(cid, data)
    except BadObject:
        # of the codec raw
        return ()


def is_link(cid: Cid, data: bytes, link: bytes) -> bool:
    """Whether an object really links to `link`, and does not just hold the same bytes."""
    try:
        return link in walked_links(cid, data)
    except BadObject:
        return False


@dataclass(frozen=True, slots=True)
class _Link:
    cid: Cid
    parent: Cid
    #: bytes of the parent
    data: bytes


class LinkCheck:
    """Finds what is absent under closed objects, and under roots that rows say are held."""

    def __init__(self, store: Store, report: CheckReport, mender: Mender | None) -> None:
        self._store = store
        self._report = report
        self._mender = mender
        #: multihashes of objects that are closed, or that were gone below
        self._known: set[bytes] = set()

    async def below(self, objects: Iterable[tuple[Cid, bytes]]) -> None:
        """Look below objects. What is absent is reported, and fetched where there is a mender. Errors: StoreError."""
        stack = [_Link(Cid(link), cid, data) for cid, data in objects for link in links_below(cid, data)]
        while stack:
            part = stack[-_BATCH:]
            del stack[-_BATCH:]
            stack += await self._step(part)
            if len(self._known) > _REMEMBERED:
                self._known.clear()

    async def _step(self, links: list[_Link]) -> list[_Link]:
        """Look at some links; those below the loose ones."""
        asked: dict[bytes, list[_Link]] = {}
        for link in links:
            multihash = link.cid.multihash
            if multihash not in self._known:
                asked.setdefault(multihash, []).append(link)
        absent: list[_Link] = []
        loose: list[_Link] = []
        for (multihash, some), held in zip(asked.items(), await self._store.held_many(list(asked)), strict=True):
            if held == Held.CLOSED:
                self._known.add(multihash)
                continue
            real = next((link for link in some if is_link(link.parent, link.data, link.cid)), None)
            if real is not None:
                (absent if held == Held.ABSENT else loose).append(real)
        await self._report_absent(absent)
        found: list[_Link] = []
        datas = await self._store.get_many([link.cid.multihash for link in loose])
        for link, data in zip(loose, datas, strict=True):
            self._known.add(link.cid.multihash)
            if data is not None:
                found += [_Link(Cid(below), link.cid, data) for below in links_below(link.cid, data)]
        return found

    async def _report_absent(self, links: list[_Link]) -> None:
        if not links:
            return
        # a pass that drops aged objects may have removed the parent between two reads
        still = await self._store.held_many([link.parent.multihash for link in links])
        links = [link for link, held in zip(links, still, strict=True) if held != Held.ABSENT]
        failed = {link.cid for link in links}
        if self._mender is not None:
            failed = await self._mender.close([link.cid for link in links])
        for link in links:
            mended = "" if link.cid in failed else "fetched, with all below it"
            self._report.add(Damage(Kind.MISSING, str(link.cid), f"closed object {link.parent} links to it", mended))


async def check_objects(
    store: Store,
    report: CheckReport,
    links: LinkCheck,
    *,
    mender: Mender | None,
    pace: Pace,
    progress: Reporter,
    after: bytes = b"",
) -> None:
    """Check all objects behind the position `after` of an earlier check; `links` looks below each.

    Errors: StoreError.
    """
    progress.phase("objects", object_count(store), "objects")
    async for page in object_pages(store, after):
        whole: list[StoredObject] = []
        damaged: list[StoredObject] = []
        why: dict[bytes, str] = {}
        for one in page.objects:
            report.objects += 1
            report.object_bytes += len(one.data or b"")
            if wrong := wrong_bytes(one):
                damaged.append(one)
                why[one.multihash] = wrong
            else:
                whole.append(one)
        mended = await mender.replace(damaged) if mender is not None and damaged else []
        right = {one.multihash for one in mended}
        for one in damaged:
            how = "fetched again" if one.multihash in right else ""
            report.add(Damage(Kind.OBJECT, str(cid_under(one.multihash)), why[one.multihash], how))
        closed = [one for one in (*whole, *mended) if one.closed]
        await links.below((cid_under(one.multihash), one.data or b"") for one in closed)
        progress.at(report.objects, f"{report.object_bytes / 1e6:,.0f} MB, position {page.position.hex()}")
        await pace.step()
