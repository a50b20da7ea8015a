"""The head log: each entry follows the one before, and every tipset that it names is known."""

from __future__ import annotations

from collections.abc import Sequence

from blockstore.errors import BadCid, StoreError
from blockstore.store import TIPSETS, HeadEntry, Store, TipsetRef
from chain.tipset import TipsetKey
from leader_bridge.upkeep.chain_walk import Headers, decoded
from leader_bridge.upkeep.damage import CheckReport, Damage, Kind
from leader_bridge.upkeep.repair import Mender

_PAGE = 500


async def check_head_log(
    store: Store, report: CheckReport, headers: Headers, mender: Mender | None, term: int
) -> TipsetKey | None:
    """The newest head that is known, or None. `term`: under which a repair publishes.

    A repair fetches what an entry names. Where that cannot be had it forgets the log up to the entry; when it is the
    newest one, it publishes the newest head that is known. Errors: StoreError.
    """
    good: TipsetRef | None = None
    newest: HeadEntry | None = None
    bad = 0
    while True:
        entries = await store.head_entries(newest.seq if newest else 0, _PAGE)
        if not entries:
            break
        unknown = await _unknown(store, headers, entries)
        for entry in entries:
            if newest is not None and entry.seq != newest.seq + 1:
                what = f"it comes behind entry {newest.seq}"
                report.add(Damage(Kind.HEAD_LOG, f"entry {entry.seq}", what, _forgotten(mender)))
                bad = entry.seq - 1
            newest = entry
            lost = [ref for ref in (*entry.reverts, *entry.applies, entry.head) if ref in unknown]
            if lost:
                what = f"it names a tipset of epoch {lost[0].height} that is not known: {_key_text(lost[0])}"
                report.add(Damage(Kind.HEAD_LOG, f"entry {entry.seq}", what, _forgotten(mender)))
                bad = entry.seq
            else:
                good = entry.head
    if newest is None:
        return None
    if bad and mender is not None:
        if bad == newest.seq and good is not None:
            await _publish(store, TipsetKey(good.key), newest, term)
            newest = await store.head() or newest
        if bad < newest.seq:
            await store.trim_head_log(newest.seq - bad)
    return None if good is None else TipsetKey(good.key)


def _forgotten(mender: Mender | None) -> str:
    return "" if mender is None else "the log begins behind it now"


async def _publish(store: Store, key: TipsetKey, newest: HeadEntry, term: int) -> None:
    """Publish a head again, behind an entry that names what is not known."""
    row = decoded(await store.row(TIPSETS, key.cid, b""))
    if row is None:
        raise StoreError(f"the row of {key} is lost while the head log is mended")
    ref = TipsetRef(row.height, key)
    term = term or await store.new_term("repair")
    await store.append_head(HeadEntry(newest.seq + 1, term, (), (ref,), ref))


async def _unknown(store: Store, headers: Headers, entries: Sequence[HeadEntry]) -> set[TipsetRef]:
    """The tipsets that entries name and that have neither a row of this epoch nor headers."""
    named = list(dict.fromkeys(ref for entry in entries for ref in (*entry.reverts, *entry.applies, entry.head)))
    values = await store.rows(TIPSETS, [(TipsetKey(ref.key).cid, b"") for ref in named])
    found = [
        ref
        for ref, value in zip(named, values, strict=True)
        if (row := decoded(value)) is None or row.height != ref.height
    ]
    unknown: set[TipsetRef] = set()
    for ref in found:
        try:
            TipsetKey(ref.key).cids  # noqa: B018  (are they CIDs?)
        except BadCid:
            unknown.add(ref)
            continue
        (tipset,) = await headers.tipsets([TipsetKey(ref.key)], expected=False)
        if tipset is None or tipset.height != ref.height:
            unknown.add(ref)
    return unknown


def _key_text(ref: TipsetRef) -> str:
    try:
        return str(TipsetKey(ref.key))
    except BadCid:
        return ref.key.hex()
