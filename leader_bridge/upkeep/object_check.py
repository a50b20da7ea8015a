"""Every object has its hash, and under every closed object everything is held.

The objects are read in the order of the store, a page at a time. It is enough to look one link deep: what a closed
object links to is closed too, so it is looked at in its own turn. A loose object under a closed one is gone below,
until everything is closed. What is closed in a generation must have everything in that generation or in the lasting
place: see `blockstore.generations`.

Memory is bounded: a page, and the multihashes that were found closed of late.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from blockstore.cid import Cid, multihash_of, verify
from blockstore.errors import BadCid, HashMismatch
from blockstore.generations import LASTING, GenerationalStore, OnlyIn
from blockstore.scan import object_count, object_pages
from blockstore.scan_pages import StoredObject
from blockstore.store import Held, Store
from chain.block import decode_header
from chain.errors import BadObject
from leader_bridge.imports.closing import possible_links
from leader_bridge.imports.progress import Reporter
from leader_bridge.store.mirror import walked_links
from leader_bridge.upkeep.careful import read_many
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
    """Finds what is absent under closed objects, and under roots that rows say are held.

    `archived`: a view of the store with archives below it. What an archive has counts as closed.
    """

    def __init__(self, store: Store, report: CheckReport, mender: Mender | None, archived: Store | None = None) -> None:
        self._store = store
        self._archived = archived
        self._report = report
        self._mender = mender
        #: multihashes of objects that are closed in the place that was looked at last, or that were gone below
        self._known: set[bytes] = set()
        self._place: int | None = None

    async def held(self, multihashes: Sequence[bytes], place: int | None = None) -> list[Held]:
        """How objects are held: in a place or the lasting one, or (None) in whichever is best. Errors: StoreError."""
        found = await self._held(multihashes, place)
        left = [at for at, how in enumerate(found) if how != Held.CLOSED]
        if self._archived is not None and left:
            below = await self._archived.held_many([multihashes[at] for at in left])
            for at, how in zip(left, below, strict=True):
                if how == Held.CLOSED:
                    found[at] = how
        return found

    async def _held(self, multihashes: Sequence[bytes], place: int | None) -> list[Held]:
        if not isinstance(self._store, GenerationalStore):
            return await self._store.held_many(multihashes)
        if place is not None:
            return await OnlyIn(self._store, place).held_many(multihashes)
        out = [Held.ABSENT] * len(multihashes)
        for number in (await self._store.layout()).held:
            left = [at for at, how in enumerate(out) if how != Held.CLOSED]
            found = await OnlyIn(self._store, number).held_many([multihashes[at] for at in left])
            for at, how in zip(left, found, strict=True):
                out[at] = max(out[at], how)
        return out

    async def below(self, objects: Iterable[tuple[Cid, bytes]], place: int | None = None) -> None:
        """Look below objects. What is absent is reported, and fetched where there is a mender.

        `place`: the one in which the objects are closed; it must hold what is below them, or the lasting one.
        Errors: StoreError.
        """
        if place != self._place:
            self._known.clear()
            self._place = place
        if not await self._is_there(place):
            return
        stack = [_Link(Cid(link), cid, data) for cid, data in objects for link in links_below(cid, data)]
        while stack:
            part = stack[-_BATCH:]
            del stack[-_BATCH:]
            stack += await self._step(part)
            if len(self._known) > _REMEMBERED:
                self._known.clear()

    async def _is_there(self, place: int | None) -> bool:
        """Whether the place has not been dropped meanwhile."""
        if place is None or place == LASTING or not isinstance(self._store, GenerationalStore):
            return True
        return place in (await self._store.layout()).held

    async def _step(self, links: list[_Link]) -> list[_Link]:
        """Look at some links; those below the loose ones."""
        asked: dict[bytes, list[_Link]] = {}
        for link in links:
            multihash = link.cid.multihash
            if multihash not in self._known:
                asked.setdefault(multihash, []).append(link)
        absent: list[_Link] = []
        loose: list[_Link] = []
        for (multihash, some), held in zip(asked.items(), await self.held(list(asked), self._place), strict=True):
            if held == Held.CLOSED:
                self._known.add(multihash)
                continue
            real = next((link for link in some if is_link(link.parent, link.data, link.cid)), None)
            if real is not None:
                (absent if held == Held.ABSENT else loose).append(real)
        await self._report_absent(absent)
        found: list[_Link] = []
        datas = await read_many(self._store, [link.cid.multihash for link in loose])
        for link, data in zip(loose, datas, strict=True):
            self._known.add(link.cid.multihash)
            if data is not None:
                found += [_Link(Cid(below), link.cid, data) for below in links_below(link.cid, data)]
        return found

    async def _report_absent(self, links: list[_Link]) -> None:
        if not links or not await self._is_there(self._place):
            return
        # a pass that drops aged objects may have removed the parent between two reads
        still = await self.held([link.parent.multihash for link in links], self._place)
        links = [link for link, held in zip(links, still, strict=True) if held != Held.ABSENT]
        elsewhere = await self._store.held_many([link.cid.multihash for link in links])
        failed = {link.cid for link in links}
        if self._mender is not None:
            failed = await self._mender.close([link.cid for link in links], self._place)
        for link, held in zip(links, elsewhere, strict=True):
            what = f"closed object {link.parent} links to it"
            if held != Held.ABSENT:
                what += ", and it is in another generation only"
            mended = "" if link.cid in failed else "held now, with all below it"
            self._report.add(Damage(Kind.MISSING, str(link.cid), what, mended))


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
        await links.below([(cid_under(one.multihash), one.data or b"") for one in closed], page.place)
        progress.at(report.objects, f"{report.object_bytes / 1e6:,.0f} MB, position {page.position.hex()}")
        await pace.step()
